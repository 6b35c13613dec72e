"""Where requests wait that no replica has room for now: bounded, fair, and not for ever.

They wait for a deployment that wakes from zero replicas, or for replicas that are all full. Within
a deployment the projects take turns, and within a project its keys: who sends a thousand requests
waits behind himself, not others behind him. When every place is taken, whoever holds the most of
them gives one up. A request that has waited for as long as the start should take is refused with
an honest time to come back.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import Route, RouteKey
from tramontane.gateway import refusals
from tramontane.gateway.calls.bodies import Call
from tramontane.gateway.limits import Limits
from tramontane.gateway.routing.choice import has_room

if TYPE_CHECKING:
    from tramontane.gateway.routes import ActiveRoute, RouteIndex

# A start may take half as long again as it did before; then something is wrong with it.
PATIENCE_PERCENT: Final = 150


class Waiter(Protocol):
    """A request that waits. After either call it is in the queue no more."""

    def on_place(self) -> None:
        """Pick a replica now: there is one with room."""
        ...

    def on_waited(self, refusal: Refusal) -> None:
        """Give up, and tell the client when to come back."""
        ...


class _Place:
    """One place in the queue."""

    __slots__ = ("active", "deadline_s", "key", "model", "since_s", "size_bytes")

    def __init__(  # noqa: PLR0917 - one for each thing it holds
        self,
        active: "ActiveRoute",
        key: RouteKey,
        model: str,
        size_bytes: int,
        since_s: float,
        deadline_s: float,
    ) -> None:
        self.active = active
        self.key = key
        self.model = model
        self.size_bytes = size_bytes
        self.since_s = since_s
        self.deadline_s = deadline_s


_Keys = OrderedDict[str, OrderedDict[Waiter, _Place]]  # by key id, whose turn it is first
_Line = OrderedDict[str, _Keys]  # by project id, whose turn it is first


class WaitingQueue:
    """All who wait on this gateway. ``count`` is how many; ``on_first`` hears of a new need."""

    def __init__(self, limits: Limits, on_first: Callable[[], None]) -> None:
        """``on_first`` is called when a request begins to wait for a deployment as its first."""
        self._limits = limits
        self._on_first = on_first
        self._lines: dict[str, _Line] = {}  # by deployment id
        self._places: dict[Waiter, _Place] = {}
        self._by_project: Counter[str] = Counter()
        self._bytes_by_project: Counter[str] = Counter()
        self._index: RouteIndex | None = None  # the newest table seen since somebody waits
        self._is_closed = False
        self.count = 0
        self.bytes = 0

    def wait(  # noqa: PLR0917 - one for each thing that decides
        self,
        waiter: Waiter,
        active: "ActiveRoute",
        key: RouteKey,
        call: Call,
        now: float,
        since_s: float,
    ) -> Refusal | None:
        """Let ``waiter`` wait for a replica of ``active``, or return why it may not.

        ``since_s`` is when it first began to: waiting again does not begin anew.
        """
        route = active.route
        refusal = self._refusal(active, key.project_id, call.size_bytes)
        if refusal is not None:
            return refusal
        deadline_s = since_s + _patience_s(route, self._limits)
        if deadline_s <= now:
            return _too_late(active, self._limits, now - since_s)
        place = _Place(active, key, call.model, call.size_bytes, since_s, deadline_s)
        keys = self._lines.setdefault(route.deployment_id, OrderedDict()).setdefault(
            key.project_id, OrderedDict()
        )
        keys.setdefault(key.id, OrderedDict())[waiter] = place
        self._places[waiter] = place
        self._by_project[key.project_id] += 1
        self._bytes_by_project[key.project_id] += place.size_bytes
        self.count += 1
        self.bytes += place.size_bytes
        active.traffic.queued += 1
        if active.traffic.queued == 1:
            self._on_first()
        return None

    def leave(self, waiter: Waiter) -> None:
        """Free the place of ``waiter``, if it holds one."""
        place = self._places.pop(waiter, None)
        if place is None:
            return
        key, project_id = place.key, place.key.project_id
        deployment_id = place.active.route.deployment_id
        line = self._lines[deployment_id]
        keys = line[project_id]
        del keys[key.id][waiter]
        if not keys[key.id]:
            del keys[key.id]
        if not keys:
            del line[project_id]
        if not line:
            del self._lines[deployment_id]
        for held, amount in ((self._by_project, 1), (self._bytes_by_project, place.size_bytes)):
            held[project_id] -= amount
            if not held[project_id]:
                del held[project_id]
        self.count -= 1
        self.bytes -= place.size_bytes
        place.active.traffic.queued -= 1
        if not self.count:
            self._index = None

    def flush(self, index: "RouteIndex") -> None:
        """Send on everybody for whom there is room by the table ``index``."""
        self._index = index
        for deployment_id in list(self._lines):
            for _ in range(self._count_of(deployment_id)):
                waiter = self._next(deployment_id)
                if waiter is None or not self._send_on(waiter, index):
                    break

    def sweep(self, now: float) -> None:
        """Refuse those whose time is over, in the words of the newest table."""
        for waiter, place in list(self._places.items()):
            if place.deadline_s <= now and waiter in self._places:
                index = self._index
                active = index.find(place.key.project_id, place.model) if index else None
                self.leave(waiter)
                waiter.on_waited(
                    _too_late(active or place.active, self._limits, now - place.since_s)
                )

    def close(self) -> None:
        """Refuse everybody, now and from now on: the gateway is leaving."""
        self._is_closed = True
        for waiter in list(self._places):
            if waiter in self._places:
                self.leave(waiter)
                waiter.on_waited(refusals.STOPPING)

    # Below: leaves.

    def _refusal(self, active: "ActiveRoute", project_id: str, size_bytes: int) -> Refusal | None:
        """Return why there is no place, taking one from another project if that is just."""
        limits = self._limits
        if self._is_closed:
            return refusals.STOPPING
        if not active.replicas and (refusals.start_wait_s(active.route) or 0) > limits.queue_s_max:
            self._tell_of(active)
            return refusals.no_ready_replica(active.route)
        has_bytes = (
            self.bytes + size_bytes <= limits.queue_bytes_max
            and (self._bytes_by_project[project_id] + size_bytes) * 2 <= limits.queue_bytes_max
        )
        if not has_bytes or (self.count >= limits.queue_max and not self._yield_to(project_id)):
            return refusals.queue_full(active.route)
        return None

    def _send_on(self, waiter: Waiter, index: "RouteIndex") -> bool:
        """Let ``waiter`` go, in whichever way; False when it and those behind it must wait on."""
        place = self._places[waiter]
        active = index.find(place.key.project_id, place.model)
        if active is None:
            self.leave(waiter)
            waiter.on_waited(refusals.model_not_found(place.model))
        elif has_room(active, self._limits.replica_inflight_max):
            self._turn(place)
            self.leave(waiter)
            waiter.on_place()
        elif may_wait(active):
            return False
        else:
            self.leave(waiter)
            waiter.on_waited(refusals.no_ready_replica(active.route))
        return True

    def _next(self, deployment_id: str) -> Waiter | None:
        line = self._lines.get(deployment_id)
        if not line:
            return None
        keys = next(iter(line.values()))
        return next(iter(next(iter(keys.values()))))

    def _turn(self, place: _Place) -> None:
        """Move the project and the key that now have had their turn to the end."""
        line = self._lines[place.active.route.deployment_id]
        line[place.key.project_id].move_to_end(place.key.id)
        line.move_to_end(place.key.project_id)

    def _count_of(self, deployment_id: str) -> int:
        line = self._lines.get(deployment_id)
        if line is None:
            return 0
        return sum(len(waiters) for keys in line.values() for waiters in keys.values())

    def _yield_to(self, project_id: str) -> bool:
        """Take a place from who holds the most, if that is more than ``project_id`` would."""
        largest, count = self._by_project.most_common(1)[0]
        if count <= self._by_project[project_id] + 1:
            return False
        waiter = next(
            waiter
            for waiter, place in reversed(self._places.items())
            if place.key.project_id == largest
        )
        route = self._places[waiter].active.route
        self.leave(waiter)
        waiter.on_waited(refusals.queue_full(route))
        return True

    def _tell_of(self, active: "ActiveRoute") -> None:
        """Let the control plane hear of a request that will not wait."""
        active.traffic.queued += 1
        self._on_first()
        active.traffic.queued -= 1


def may_wait(active: "ActiveRoute") -> bool:
    """Tell whether a replica with room may come: one that is started, or one that gets room."""
    if active.route.wakes or active.replicas:
        return True
    return active.canary is not None and may_wait(active.canary)


def _patience_s(route: Route, limits: Limits) -> float:
    """Return how long a request may wait: a start as measured, and half as long again."""
    start_s = refusals.start_wait_s(route) or 0
    return min(limits.queue_s_max, max(limits.queue_s_min, start_s * PATIENCE_PERCENT / 100))


def _too_late(active: "ActiveRoute", limits: Limits, waited_s: float) -> Refusal:
    if active.replicas:
        return refusals.replicas_full(active.route, limits.replica_inflight_max)
    return refusals.waited_in_vain(active.route, waited_s)
