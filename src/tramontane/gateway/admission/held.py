"""What this gateway holds of one meter of one limit, and how much of it is free to spend.

The hot path reads and writes plain attributes here; the rules of when to ask for more and when to
give back stand in `leases`.
"""

from collections.abc import Callable
from typing import Final

from tramontane.domain.routing import RouteKey
from tramontane.domain.spending.limits import Limit, LimitMeter

NEVER: Final = float("inf")
SHARE: Final = -1  # in place of a window's number: the control plane is away, this is our share


class Held:
    """A slice. Amounts are in the meter's unit: requests, tokens, requests, nano-euros.

    ``free`` may be spent now. It is below zero when requests turned out to cost more than was
    reserved for them, or when what they hold was granted to somebody else meanwhile: then nothing
    is admitted before the debt is covered. ``turn`` numbers the changes of the window, of all
    slices together: what a ticket of an older turn returns belongs to a window that has passed.
    Times are the loop's, in seconds.
    """

    __slots__ = (
        "asks_again_at",
        "bound",
        "cap",
        "ends_at",
        "flow",
        "free",
        "granted",
        "leased",
        "level",
        "limit",
        "low",
        "marked_at",
        "meter",
        "owes",
        "ready",
        "remaining",
        "reserved",
        "retry_at",
        "returning",
        "settled",
        "told",
        "told_bound",
        "told_until",
        "turn",
        "unused",
        "used",
        "waiting",
        "window",
        "yields_at",
    )

    def __init__(self, limit: Limit, meter: LimitMeter, bound: int) -> None:
        self.limit = limit
        self.meter = meter
        self.bound = bound
        self.cap = bound  # the most tokens that one request reserves
        self.waiting = 0  # requests that wait, and need some of it
        self.free = 0
        self.low = -1  # ask for more when ``free`` falls below it
        self.reserved = 0  # by requests in flight, of this window
        self.used = 0  # requests in flight, of the meter in_flight
        self.leased = 0  # of the meter in_flight: what the control plane says that we hold
        self.window = 0
        self.turn = 0
        self.ends_at = 0.0  # of the window; NEVER where there is none
        self.granted = 0  # in this window, less what was given back
        self.settled = 0  # nano-euros of requests that ended, since the last report
        self.remaining = bound  # what nobody held when the control plane last said
        self.retry_at = 0.0  # when more can be expected
        self.asks_again_at = 0.0  # no sooner: the answer would be the same
        self.returning = 0  # to be given back with the next report
        self.unused = 0  # the least that was free since ``marked_at``
        self.marked_at = 0.0
        self.level = 0  # what was free at the last look, and came or went since
        self.flow = 0.0  # spent a second, lately
        self.ready = 0  # how much to hold ready: what is spent in a moment
        self.owes = 0  # permits to be given to others as they become free
        self.yields_at = NEVER
        self.told = b""  # the headers of it that change once a second, see `headers`
        self.told_bound = 0
        self.told_until = 0.0

    @property
    def is_kept(self) -> bool:
        """Tell whether there is anything to look after."""
        return bool(self.free or self.used or self.reserved or self.returning)

    def need(self, tokens: int, cost: int) -> int:
        """Return how much a request takes that can use so many tokens and cost so much.

        Never more tokens than the whole limit: it could not be admitted in any minute.
        """
        if self.meter is LimitMeter.TOKENS:
            return min(tokens, self.cap)
        return cost if self.meter is LimitMeter.BUDGET else 1

    def void(self, turn: int) -> None:
        """Forget what is held: its window has ended, and what is reserved of it is not ours."""
        self.free = self.reserved = self.granted = self.returning = 0
        self.unused = self.level = self.settled = 0
        self.low = -1
        self.cap = self.bound
        self.told_until = 0.0
        self.turn = turn
        self.ends_at = 0.0
        if self.meter is LimitMeter.IN_FLIGHT:
            self.leased, self.free = 0, -self.used

    def part(self, amount: int) -> None:
        """Set ``amount`` of what is free aside, to be given back."""
        self.free -= amount
        self.level -= amount
        self.returning += amount
        self.granted -= amount
        if self.meter is LimitMeter.IN_FLIGHT:
            self.leased -= amount


class Binding:
    """The slices that bind the calls of one key to one model, by what a request takes of them."""

    __slots__ = ("all", "budgets", "in_flight", "key", "model", "now", "requests", "tokens")

    def __init__(
        self, key: RouteKey, model: str, slices: tuple[Held, ...], now: Callable[[], float]
    ) -> None:
        self.key = key
        self.model = model
        self.now = now
        self.all = slices
        self.requests = _of(LimitMeter.REQUESTS, slices)
        self.tokens = _of(LimitMeter.TOKENS, slices)
        self.in_flight = _of(LimitMeter.IN_FLIGHT, slices)
        self.budgets = _of(LimitMeter.BUDGET, slices)

    def has_room(self, tokens: int, cost: int) -> bool:
        """Tell whether each slice has enough for such a request; this is the hot path."""
        for held in self.requests:
            if held.free < 1:
                return False
        for held in self.in_flight:
            if held.free < 1:
                return False
        for held in self.tokens:
            if held.free < (tokens if tokens < held.cap else held.cap):
                return False
        if cost:
            for held in self.budgets:
                if held.free < cost:
                    return False
        return True

    def lacking(self, tokens: int, cost: int) -> Held | None:
        """Return a slice that has not enough for such a request, the slowest to change first."""
        for held in self.budgets:
            if cost and held.free < cost:
                return held
        for held in self.requests + self.in_flight + self.tokens:
            if held.free < held.need(tokens, cost):
                return held
        return None


def _of(meter: LimitMeter, slices: tuple[Held, ...]) -> tuple[Held, ...]:
    return tuple(held for held in slices if held.meter is meter)
