"""A replica as a gateway sees it: its load, its kept connections, and how it has behaved."""

from array import array
from typing import TYPE_CHECKING, Final

from tramontane.gateway.calls.bodies import UPSTREAM_PATHS

if TYPE_CHECKING:
    from tramontane.gateway.upstream.connection import UpstreamConnection

_HABIT: Final = 3  # connections closed right after a stream, each within _HABIT_S of the other
_HABIT_S: Final = 60.0
_BELIEVED_S: Final = 600.0  # an engine that crashed midway once is not like that for ever


class Replica:
    """One engine. ``inflight`` counts what this gateway has sent it and not seen the end of.

    ``failures`` counts those in a row; ``faults`` and ``answers`` since ``window_s``. Ejected it
    is a suspect, for ``eject_s`` until ``ejected_s`` and then until a probe is answered
    (`routing.outliers`). ``points`` are its places on the ring (`routing.ring`).
    """

    __slots__ = (
        "address",
        "answers",
        "aside_until",
        "eject_s",
        "ejected_s",
        "ending",
        "failures",
        "faults",
        "hang_ups",
        "hangs_up_until",
        "heads",
        "host",
        "hung_up_at",
        "id",
        "idle",
        "inflight",
        "is_retired",
        "is_suspect",
        "points",
        "port",
        "secret",
        "window_s",
    )

    def __init__(self, replica_id: str, address: str, secret: str) -> None:
        """``address`` is ``host:port``, an IPv6 host in brackets."""
        self.id = replica_id
        self.address = address
        self.secret = secret
        host, _, port = address.rpartition(":")
        self.host = host.strip("[]")
        self.port = int(port)
        self.inflight = 0
        self.aside_until = 0.0
        self.is_retired = False
        self.is_suspect = False
        self.failures = 0
        self.faults = 0
        self.answers = 0
        self.window_s = 0.0
        self.eject_s = 0.0
        self.ejected_s = 0.0
        self.points: array[int] = array("I")
        self.hangs_up_until = 0.0  # after a stream: llama.cpp does, and does not announce it
        self.hang_ups = 0
        self.hung_up_at = 0.0
        self.idle: list[UpstreamConnection] = []  # the last used one is the first reused
        self.ending: set[UpstreamConnection] = set()  # answered; their last bytes are on the way
        self.heads = {
            path: (
                f"POST {path} HTTP/1.1\r\nhost: {address}\r\n"
                f"authorization: Bearer {secret}\r\ncontent-type: application/json\r\n"
            ).encode()
            for path in UPSTREAM_PATHS
        }

    def note_hang_up(self, now: float) -> None:
        """Count a kept connection that it closed right after a stream; it may be a habit."""
        self.hang_ups = self.hang_ups + 1 if now - self.hung_up_at < _HABIT_S else 1
        self.hung_up_at = now
        if self.hang_ups >= _HABIT:
            self.hangs_up_until = now + _BELIEVED_S

    def take_idle(self) -> "UpstreamConnection | None":
        """Return a kept connection that is still open, or None."""
        while self.idle:
            connection = self.idle.pop()
            if connection.is_usable:
                return connection
        return None

    def drop_idle(self) -> None:
        """Close the kept connections."""
        idle, self.idle = self.idle, []
        for connection in idle:
            connection.close()

    def retire(self) -> None:
        """Close what is kept open: the route table names this replica no more."""
        self.is_retired = True
        self.drop_idle()

    def tidy(self, now: float, idle_s: float, ending_s: float) -> None:
        """Close connections that nobody used for ``idle_s``, before the engine does."""
        while self.idle and now - self.idle[0].since > idle_s:
            self.idle.pop(0).close()
        for connection in [item for item in self.ending if now - item.since > ending_s]:
            connection.close()
