"""Gates of several gateways in one simulated time, on one set of books, with faults on demand.

`World` is a loop whose time moves when told to, and the control plane's rules behind a network
with a delay. Each `Gate` is the real admission of one gateway.
"""

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import Route, RouteKey, RouteTable
from tramontane.domain.spending import slices
from tramontane.domain.spending.limits import Limit, LimitScope
from tramontane.domain.spending.pricing import Prices
from tramontane.domain.spending.slices import Books, Charge, Outdated, Reply, Report
from tramontane.domain.tenancy import Role
from tramontane.gateway.admission.gate import Admission
from tramontane.gateway.admission.leases import Leases
from tramontane.gateway.admission.ticket import Ticket
from tramontane.gateway.limits import Limits

MODEL = "demo"
START_MS = 1_700_000_000_000


class Timer:
    def __init__(self, at: float, call: Callable[[], Any]) -> None:
        self.at = at
        self.call = call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class World:
    """Time, the loop of all gates, and the control plane. ``now`` is in seconds."""

    def __init__(self, *limits: Limit, delay_s: float = 0.003, start_ms: int = START_MS) -> None:
        self.now = 100.0
        self.start_ms = start_ms
        self.delay_s = delay_s
        self.limits: dict[str, Limit] = {limit.id: limit for limit in limits}
        self.books = Books()
        self.reports: list[Report] = []
        self.is_up = True
        self.lose_replies = 0
        self._due: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()

    # What an event loop has.

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[..., Any], *values: Any) -> Timer:
        return self.call_later(0.0, call, *values)

    def call_later(self, delay_s: float, call: Callable[..., Any], *values: Any) -> Timer:
        timer = Timer(self.now + delay_s, lambda: call(*values))
        heapq.heappush(self._due, (timer.at, next(self._numbers), timer))
        return timer

    def run(self, for_s: float) -> None:
        """Let time pass."""
        end = self.now + for_s
        while self._due and self._due[0][0] <= end:
            at, _, timer = heapq.heappop(self._due)
            self.now = max(self.now, at)
            if not timer.is_cancelled:
                timer.call()
        self.now = end

    # The control plane.

    @property
    def now_ms(self) -> int:
        return self.start_ms + round((self.now - 100.0) * 1000)

    def answer(self, report: Report) -> Reply | Outdated:
        self.reports.append(report)
        reply, self.books = slices.exchange(self.books, self.limits, report, self.now_ms)
        return reply

    def accept(self, charges: tuple[Charge, ...]) -> None:
        self.books = slices.settle(self.books, charges)

    def gate(self, name: str, *, gateways: int = 1, **limits: Any) -> "Gate":
        """Start a gateway that knows of so many."""
        return Gate(self, name, Limits(**limits), gateways)


class Line:
    """The network between one gateway and the control plane."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_up = True
        self.gateways = 1
        self.charges: list[Charge] = []
        self._on_reply: Callable[[Reply], None] = lambda _: None
        self._on_failure: Callable[[str, bool, bool], None] = lambda *_: None

    def start(
        self, on_reply: Callable[[Reply], None], on_failure: Callable[[str, bool, bool], None]
    ) -> None:
        self._on_reply, self._on_failure = on_reply, on_failure

    def apply(self, limits: Mapping[str, Limit]) -> None:
        """Know them from the world."""

    def exchange(self, report: Report, charges: tuple[Charge, ...]) -> None:
        self.charges += charges
        self.world.call_later(self.world.delay_s, self._arrive, report)

    def _arrive(self, report: Report) -> None:
        world = self.world
        if not (world.is_up and self.is_up):
            world.call_later(world.delay_s, self._on_failure, "refused", True, False)
            return
        reply = world.answer(report)
        if world.lose_replies:
            world.lose_replies -= 1
            world.call_later(0.5, self._on_failure, "lost", False, False)
        elif isinstance(reply, Outdated):
            world.call_later(world.delay_s, self._on_failure, "outdated", False, True)
        else:
            world.call_later(world.delay_s, self._on_reply, reply)


@dataclass
class Settled:
    names: tuple[str, ...] = ()
    told: list[str] = field(default_factory=list)

    @property
    def is_pending(self) -> bool:
        return bool(self.names)

    def holders(self) -> tuple[str, ...]:
        return self.names

    def note(self, holder: str) -> None:
        self.names += (holder,)

    def forget(self, holders: tuple[str, ...]) -> None:
        self.told += holders
        self.names = tuple(name for name in self.names if name not in holders)


@dataclass(eq=False)
class Asked:
    """One request: what became of it."""

    gate: "Gate"
    prompt: int = 10
    completion: int = 90
    ticket: Ticket | None = None
    refusal: Refusal | None = None
    is_over: bool = False

    def prompt_tokens_max(self, context_length: int) -> int:
        return min(self.prompt, context_length)

    def completion_tokens_max(self, context_length: int) -> int:
        return min(self.completion, context_length)

    def on_admitted(self, ticket: Ticket) -> None:
        assert self.ticket is None
        assert self.refusal is None
        self.ticket = ticket

    def on_refused(self, refusal: Refusal) -> None:
        assert self.ticket is None
        assert self.refusal is None
        self.refusal = refusal

    @property
    def is_in(self) -> bool:
        return self.ticket is not None

    @property
    def waits(self) -> bool:
        return self.ticket is None and self.refusal is None

    def end(self, tokens: tuple[int, int, int] | None = (10, 90, 0), cost_nano: int = 0) -> None:
        assert self.ticket is not None
        self.is_over = True
        self.ticket.end(tokens, cost_nano)


class Gate:
    """The admission of one gateway in a `World`."""

    def __init__(self, world: World, name: str, limits: Limits, gateways: int) -> None:
        self.world = world
        self.name = name
        self.line = Line(world)
        self.line.gateways = gateways
        self.settled = Settled()
        self.leases = Leases(name, self.line, limits, self.settled, world.time)
        self.admission = Admission(world, self.leases, limits, world.time)  # type: ignore[arg-type]
        self.revision = 0
        self.apply(world.limits)

    def apply(self, limits: Mapping[str, Limit], *keys: RouteKey) -> None:
        self.revision += 1
        by_hash = {key.id: key for key in keys}
        self.admission.apply(RouteTable(self.revision, "", by_hash, (), None, dict(limits)))

    def ask(self, key: RouteKey, route: Route | None = None, **fields: int) -> Asked:
        asked = Asked(self, **fields)
        found = self.admission.enter(asked, key, route or make_route(), asked)
        if isinstance(found, Refusal):
            asked.on_refused(found)
        elif found is not None:
            asked.on_admitted(found)
        return asked


def make_limit(number: int = 1, **bounds: Any) -> Limit:
    fields = {"scope": LimitScope.PROJECT, "subject_id": "prj_a", **bounds}
    return Limit(f"lim_{number}", **fields)


def make_key(
    *limits: Limit, name: str = "key_a", project: str = "prj_a", **fields: Any
) -> RouteKey:
    ids = tuple(limit.id for limit in limits)
    return RouteKey(name, project, "org_a", Role.MEMBER, limit_ids=ids, **fields)


def make_route(
    prices: Prices | None = None, *, model: str = MODEL, context_length: int = 2048
) -> Route:
    return Route(
        "prj_a", model, "dep_a", model, "llamacpp", context_length, 0, (), prices=prices or Prices()
    )
