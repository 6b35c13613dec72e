"""Bounds how many requests a key may have in flight on this gateway.

Only keys that carry a bound are counted. The count lives as long as the process, not as long as
a revision of the route table, so that a new table does not forget what is in flight.
"""

from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import RouteKey
from tramontane.gateway import refusals


class Admission:
    """Counts requests in flight by key id."""

    __slots__ = ("_in_flight",)

    def __init__(self) -> None:
        self._in_flight: dict[str, int] = {}

    def enter(self, key: RouteKey) -> Refusal | None:
        """Count one more request of ``key``, or return why it has to wait."""
        allowed = key.requests_in_flight_max
        if allowed is None:
            return None
        count = self._in_flight.get(key.id, 0)
        if count >= allowed:
            return refusals.too_many_in_flight(allowed)
        self._in_flight[key.id] = count + 1
        return None

    def leave(self, key: RouteKey) -> None:
        """Count one request less, for a key that `enter` let in."""
        if key.requests_in_flight_max is None:
            return
        left = self._in_flight[key.id] - 1
        if left:
            self._in_flight[key.id] = left
        else:
            del self._in_flight[key.id]
