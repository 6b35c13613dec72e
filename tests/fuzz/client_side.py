"""Feeds bytes to a client connection and holds what it makes of them against two other readings.

What must hold of any bytes, in any pieces: nothing is raised; each request that is taken gets
one reply; errors are 4xx; the connection ends up idle, waiting for more, or closed after telling
why; how the bytes are cut, and whether a head was seen before, changes nothing; a strict reading
of RFC 9112 and h11 see the same requests.
"""

import logging
import re
from dataclasses import dataclass, field
from typing import Any

import h11

from tests.fuzz.strict_http import Framed, read_requests
from tests.fuzz.wires import StillLoop, Wire, cut
from tramontane.domain.refusal import Refusal
from tramontane.gateway.client import connection as client_connection
from tramontane.gateway.client import replies
from tramontane.gateway.client.connection import ClientConnection
from tramontane.gateway.client.request import Request
from tramontane.gateway.limits import Limits

LIMITS = Limits(head_bytes_max=4_096, body_bytes_max=65_536)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass
class Seen:
    """What became of some bytes."""

    taken: list[Framed] = field(default_factory=list)
    begun: int = 0
    statuses: list[int] = field(default_factory=list)
    is_closed: bool = False
    is_waiting: bool = False


class Front:
    """What a client connection sees of the gateway; serves each request by writing it down."""

    def __init__(self, *, is_late: bool) -> None:
        """``is_late``: replies come after the piece that ended their request, not within."""
        self.loop = StillLoop()
        self.limits = LIMITS
        self.date = replies.date_line(0.0)
        self.is_draining = False
        self.is_late = is_late
        self.seen = Seen()
        self.late: list[Note] = []

    def add_client(self, client: ClientConnection) -> bool:
        return True

    def remove_client(self, client: ClientConnection) -> None:
        pass

    def begin(self, client: ClientConnection, request: Request) -> None:
        request.id = "req_fuzz"
        self.seen.begun += 1
        request.sink = Note(self, client, request)

    def refuse(
        self, client: ClientConnection, request: Request, refusal: Refusal, more: bytes = b""
    ) -> None:
        request.id = request.id or "req_fuzz"
        status, lines, body = replies.error(refusal, request.dialect)
        client.reply(status, lines + more, body)


class Note:
    """The sink of one request."""

    def __init__(self, front: Front, client: ClientConnection, request: Request) -> None:
        self._front = front
        self._client = client
        self._request = request
        self._body: list[bytes] = []

    def on_upload(self, data: bytes) -> None:
        self._body.append(data)

    def on_upload_end(self) -> None:
        request = self._request
        framed = Framed(request.method, request.target, b"".join(self._body))
        self._front.seen.taken.append(framed)
        if self._front.is_late:
            self._front.late.append(self)
        else:
            self.answer()

    def answer(self) -> None:
        if self._client.current is self._request:
            self._client.reply(200, replies.JSON_TYPE, b"{}")

    def on_client_gone(self) -> None:
        pass

    def on_client_paused(self, is_paused: bool) -> None:
        pass

    def check(self, now: float) -> None:
        pass


def feed(pieces: list[bytes], *, is_late: bool) -> Seen:
    """Give ``pieces`` to a fresh connection and let it come to rest."""
    front, wire = Front(is_late=is_late), Wire()
    try:
        client = ClientConnection(front)  # type: ignore[arg-type] # a front is all it needs
        client.connection_made(wire)  # type: ignore[arg-type]
        for piece in pieces:
            client.data_received(piece)
            _rest(front)
        seen = front.seen
        reading = client._reading
        seen.is_waiting = reading is not None and not client._is_deaf
        seen.is_closed = wire.is_closed or wire.is_eof_sent
        assert client.current is None or seen.is_waiting, "a request was left without a reply"
        assert not client._queue, "a request waits for nothing"
        if not wire.is_closed:
            client.connection_lost(None)
            _rest(front)
        seen.statuses = statuses_of(wire.sent())
        return seen
    finally:
        wire.release()


def _rest(front: Front) -> None:
    front.loop.settle()
    while front.late:
        front.late.pop(0).answer()
        front.loop.settle()


def statuses_of(sent: bytes) -> list[int]:
    """Return the statuses of whole replies; anything else in ``sent`` is an error."""
    found: list[int] = []
    at = 0
    while at < len(sent):
        start = _STATUS.match(sent, at)
        assert start is not None, f"what was sent is no reply: {sent[at : at + 80]!r}"
        end = sent.index(b"\r\n\r\n", at) + 4
        status = int(start[1])
        if status != 100:
            length = re.search(rb"content-length: (\d+)\r\n", sent[at:end])
            assert length is not None
            is_head = b"x-request-id" in sent[at:end] and sent[end : end + 9] == b"HTTP/1.1 "
            end += 0 if is_head else min(int(length[1]), len(sent) - end)
            found.append(status)
        at = end
    return found


def check(data: bytes) -> Seen:
    """Hold ``data`` against everything that must hold. Raises AssertionError."""
    switches, pieces = cut(data)
    stream, is_late = b"".join(pieces), bool(switches & 1)
    forget_heads()
    seen = feed(pieces, is_late=is_late)
    again = feed(pieces, is_late=is_late)
    assert (again.taken, again.statuses) == (seen.taken, seen.statuses), "a known head differs"
    forget_heads()
    whole = feed([stream] if stream else [], is_late=is_late)
    # What is pipelined behind a request being served is dropped when what follows it is faulty, so
    # of a connection that ends early more or less may have been served.
    common = min(len(whole.taken), len(seen.taken))
    assert whole.taken[:common] == seen.taken[:common], "how it is cut changes what is read"
    assert whole.is_closed == seen.is_closed, "how it is cut changes how it ends"
    if not seen.is_closed:
        assert whole.taken == seen.taken, "how it is cut changes how much is read"
        assert whole.statuses == seen.statuses, "how it is cut changes what is answered"
    errors = _check_replies(seen)
    _check_replies(whole)
    strict, fault = read_requests(stream)
    assert seen.taken == strict[: len(seen.taken)], f"a strict reading differs: {fault}, {strict}"
    if fault is None and not errors and not seen.is_closed:
        assert len(seen.taken) == len(strict), "a request was not seen"
    by_h11 = read_by_h11(stream)
    assert seen.taken[: len(by_h11)] == by_h11[: len(seen.taken)], f"h11 differs: {by_h11}"
    return seen


def _check_replies(seen: Seen) -> list[int]:
    assert all(status < 500 for status in seen.statuses), seen.statuses
    errors = [status for status in seen.statuses if status != 200]
    assert len(errors) <= 1, "more than one error"
    assert not errors or seen.is_closed, "an error left the connection open"
    assert len(seen.statuses) - len(errors) == len(seen.taken), "replies do not match requests"
    return errors


def forget_heads() -> None:
    """Begin anew: no head was seen before."""
    client_connection._KNOWN._known.clear()


def read_by_h11(stream: bytes) -> list[Framed]:
    """Return the requests that h11 sees at the start of ``stream``."""
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    reader.receive_data(stream)
    found: list[Framed] = []
    method = target = b""
    body: list[bytes] = []
    while True:
        try:
            event: Any = reader.next_event()
        except h11.RemoteProtocolError:
            return found
        if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
            return found
        if isinstance(event, h11.Request):
            method, target, body = event.method, event.target, []
        elif isinstance(event, h11.Data):
            body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            found.append(Framed(method, target, b"".join(body)))
            reply = h11.Response(status_code=200, headers=[("content-length", "0")])
            try:
                reader.send(reply)
                reader.send(h11.EndOfMessage())
                reader.start_next_cycle()
            except h11.LocalProtocolError:
                return found
        elif event is h11.PAUSED:
            return found


def quiet() -> None:
    """Keep the log out of the way; a bug shows as status 500."""
    logging.getLogger("tramontane").setLevel(logging.CRITICAL)
