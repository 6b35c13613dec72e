"""Bounds how many requests a key may have in flight on this gateway.

Only keys that carry a bound are counted. The count lives as long as the process, not as long as
a revision of the route table, so that a new table does not forget what is in flight.
"""

from typing import Protocol

from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import Route, RouteKey
from tramontane.gateway import refusals


class Waiter(Protocol):
    """A request that waits for room; it is told once."""

    def on_admitted(self, ticket: "Ticket") -> None:
        """Go on: every limit has room."""
        ...

    def on_refused(self, refusal: Refusal) -> None:
        """Give up: a limit has no room."""
        ...


class Demand(Protocol):
    """The most that a request can take."""

    def prompt_tokens_max(self, context_length: int) -> int:
        """Return the most tokens of the prompt."""
        ...

    def completion_tokens_max(self, context_length: int) -> int:
        """Return the most tokens of all answers."""
        ...


class Ticket:
    """What an admitted request holds, until it ends."""

    __slots__ = ("_admission", "_key")

    def __init__(self, admission: "Admission", key: RouteKey) -> None:
        self._admission = admission
        self._key = key

    def end(self, tokens: tuple[int, int, int], cost_nano: int) -> None:  # noqa: ARG002
        """Give back what the request held; once."""
        self._admission.leave(self._key)

    def header_lines(self) -> bytes:
        """Return the headers that tell what is left."""
        return b""


class Admission:
    """Counts requests in flight by key id."""

    __slots__ = ("_in_flight",)

    def __init__(self) -> None:
        self._in_flight: dict[str, int] = {}

    def enter(
        self,
        waiter: Waiter,  # noqa: ARG002
        key: RouteKey,
        route: Route,  # noqa: ARG002
        demand: Demand,  # noqa: ARG002
    ) -> Ticket | Refusal | None:
        """Admit a request, refuse it, or return None: ``waiter`` is told later."""
        allowed = key.requests_in_flight_max
        if allowed is not None:
            count = self._in_flight.get(key.id, 0)
            if count >= allowed:
                return refusals.too_many_in_flight(allowed)
            self._in_flight[key.id] = count + 1
        return Ticket(self, key)

    def leave_queue(self, waiter: Waiter) -> None:
        """Forget a request whose client left while it waited."""

    def leave(self, key: RouteKey) -> None:
        """Count one request less, for a key that `enter` let in."""
        if key.requests_in_flight_max is None:
            return
        left = self._in_flight[key.id] - 1
        if left:
            self._in_flight[key.id] = left
        else:
            del self._in_flight[key.id]
