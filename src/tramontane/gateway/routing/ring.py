"""Consistent hashing: a prefix belongs to one replica, and few move when replicas come and go.

The ring of Karger et al. (1997): each replica owns many points, a prefix belongs to the owner of
the next point. A replica that goes hands its prefixes to all others, one that comes takes its
share from all; nothing else moves. All gateways build the same ring, as points come from ids.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final

from tramontane.gateway.upstream.replica import Replica

POINTS: Final = 128  # of each replica: their shares then differ by about a tenth
_POINT_BYTES: Final = 4
_DIGEST_BYTES: Final = 64


class Ring:
    """The points of some replicas, ready for look-ups."""

    __slots__ = ("owners", "points")

    def __init__(self, replicas: Sequence[Replica]) -> None:
        pairs = sorted(
            ((point, replica) for replica in replicas for point in _points_of(replica)),
            key=lambda pair: (pair[0], pair[1].id),
        )
        self.points = array("I", [point for point, _ in pairs])
        self.owners = [replica for _, replica in pairs]

    def owner(self, prefix: int) -> Replica:
        """Return the replica that ``prefix`` belongs to. The ring must not be empty."""
        at = bisect_right(self.points, prefix)
        return self.owners[at if at < len(self.owners) else 0]

    def heirs(self, prefix: int) -> Iterator[Replica]:
        """Yield who gets ``prefix`` when its owner cannot take it, in order; some repeatedly."""
        at = bisect_right(self.points, prefix)
        owners = self.owners
        for step in range(1, len(owners)):
            yield owners[(at + step) % len(owners)]


def _points_of(replica: Replica) -> "array[int]":
    if not replica.points:
        data = b"".join(
            blake2b(f"{replica.id}/{number}".encode(), digest_size=_DIGEST_BYTES).digest()
            for number in range(POINTS * _POINT_BYTES // _DIGEST_BYTES)
        )
        replica.points = array(
            "I",
            (
                int.from_bytes(data[at : at + _POINT_BYTES], "big")
                for at in range(0, len(data), _POINT_BYTES)
            ),
        )
    return replica.points
