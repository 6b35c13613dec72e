"""Feeds bytes to an upstream connection and a stream watch, and holds the result against others.

What must hold of any bytes, in any pieces: nothing is raised; the receiver hears one head, then
pieces, then exactly one end; how the bytes are cut, and whether a head was seen before, changes
nothing; h11 sees the same reply; a watched stream passes on the same bytes however it is cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import h11

from tests.fuzz.wires import Wire, cut
from tramontane.gateway.calls.stream import (
    EVENT_END,
    EventTooLargeError,
    StreamWatch,
    UsageForm,
)
from tramontane.gateway.calls.tool_calls import GatheredCalls
from tramontane.gateway.upstream import connection as upstream_connection
from tramontane.gateway.upstream.connection import Headers, UpstreamConnection

EVENT_BYTES_MAX = 65_536
FORMS = list(UsageForm)


@dataclass
class Heard:
    """What the receiver heard."""

    status: int = 0
    heads: int = 0
    body: bytes = b""
    ends: int = 0
    broken: str | None = None

    def on_reply_head(self, status: int, headers: Headers) -> None:
        self.status = status
        self.heads += 1

    def on_reply_data(self, data: bytes) -> None:
        assert self.heads == 1, "a body before its head"
        assert not self.ends, "a body after the end"
        self.body += data

    def on_reply_end(self) -> None:
        self.ends += 1

    def on_reply_broken(self, reason: str) -> None:
        self.ends += 1
        self.broken = reason

    def on_upload_paused(self, is_paused: bool) -> None:
        pass


def feed(pieces: Sequence[bytes], *, ends: bool) -> Heard:
    """Give ``pieces`` to a fresh connection as the reply to a request; then it hangs up."""
    heard, wire = Heard(), Wire()
    connection = UpstreamConnection(lambda: 1_000.0)
    try:
        connection.connection_made(wire)  # type: ignore[arg-type]
        assert connection.send(heard, (b"GET / HTTP/1.1\r\n\r\n",))
        for piece in pieces:
            if wire.is_closed:
                break
            connection.data_received(piece)
        if ends or wire.is_closed:
            connection.connection_lost(None)
            assert heard.ends == 1, f"{heard.ends} ends"
    finally:
        wire.release()
    assert heard.ends <= 1
    assert heard.heads <= 1
    assert heard.heads == 1 or heard.broken is not None or not heard.ends
    return heard


def check(data: bytes) -> Heard:
    """Hold ``data`` against everything that must hold. Raises AssertionError."""
    switches, pieces = cut(data)
    stream, ends = b"".join(pieces), bool(switches & 1)
    upstream_connection._KNOWN._known.clear()
    heard = feed(pieces, ends=ends)
    assert feed(pieces, ends=ends) == heard, "a known head differs"
    upstream_connection._KNOWN._known.clear()
    whole = feed([stream] if stream else [], ends=ends)
    if heard.broken is None and whole.broken is None:
        assert whole == heard, "how it is cut changes what is read"
        if heard.ends:
            by_h11 = read_by_h11(stream, ends=ends)
            assert by_h11 is None or by_h11 == (heard.status, heard.body), f"h11: {by_h11}"
    check_stream(switches, pieces)
    return heard


def check_stream(switches: int, pieces: Sequence[bytes]) -> None:
    """Watch the same bytes as a stream of events.

    A usage that rides on every chunk is cut out of what looks like an engine's chunk and decoded
    from the rest, so what becomes of other bytes depends on how they come: it only must not fail.
    """
    parts, in_parts = _watched(switches, pieces)
    whole, at_once = _watched(switches, [b"".join(pieces)])
    for state in (in_parts, at_once):
        failure = state.failure({"message": "m"}, "model")
        assert failure.startswith(b"data: {")
        assert failure.endswith(b"}\n\n")
    if parts is None or whole is None or switches & 16:
        return  # an event beyond the limit, which one cut may show and another not
    assert _events(parts) == _events(whole), f"how it is cut changes it: {parts!r} {whole!r}"
    assert (in_parts.tokens, in_parts.error) == (at_once.tokens, at_once.error)
    assert in_parts.is_done == at_once.is_done


def _events(stream: bytes) -> list[bytes]:
    """Return the events; how many empty lines stand between them says nothing."""
    return [event for part in EVENT_END.split(stream) if (event := part.strip(b"\r\n"))]


def _watched(switches: int, pieces: Sequence[bytes]) -> tuple[bytes | None, StreamWatch]:
    state = StreamWatch(
        FORMS[(switches >> 1) % len(FORMS)],
        lead=1,
        event_bytes_max=EVENT_BYTES_MAX,
        calls=GatheredCalls() if switches & 8 else None,
        has_running_usage=bool(switches & 16),
    )
    out: list[bytes] = []
    try:
        for piece in pieces:
            if state.is_done or state.error is not None:
                break
            if piece:
                out.append(state.feed(piece))
    except EventTooLargeError:
        return None, state
    if not state.is_done and state.error is None:
        out.append(state.end())
    return b"".join(out), state


def read_by_h11(stream: bytes, *, ends: bool) -> tuple[int, bytes] | None:
    """Return the reply that h11 sees in ``stream``, None when it sees no whole one."""
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    reader.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(stream)
    if ends:
        reader.receive_data(b"")
    status, body = 0, b""
    while True:
        try:
            event = reader.next_event()
        except h11.RemoteProtocolError:
            return None
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return status, body
        elif event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
            return None
