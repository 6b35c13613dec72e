"""One connection to an engine or to the control plane: writes a request, parses the reply.

It knows HTTP and nothing of models. What it reads goes to its `Receiver`; pausing its reading is
how back-pressure reaches the engine.
"""

import asyncio
import os
import ssl
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

import httptools

from tramontane.gateway.known_heads import KnownHeads
from tramontane.gateway.upstream.replica import Replica

Headers = list[tuple[bytes, bytes]]
_HANG_UP_S: Final = 0.1  # a kept connection closed later than this was closed for its age
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_REPLY_HEAD_BYTES_MAX: Final = 64 * 1024
# Of engines' replies with status 200: the content type.
_KNOWN: Final[KnownHeads[bytes]] = KnownHeads()


class DialError(Exception):
    """No connection came about; no byte of a request was sent."""


async def dial(
    host: str,
    port: int,
    connect_s: float,
    replica: Replica | None = None,
    tls: ssl.SSLContext | None = None,
) -> "UpstreamConnection":
    """Open a connection within ``connect_s`` seconds, TLS included. Raises `DialError`."""
    loop = asyncio.get_running_loop()
    connection = UpstreamConnection(loop.time, replica)
    try:
        async with asyncio.timeout(connect_s):
            await loop.create_connection(lambda: connection, host, port, ssl=tls)
    except TimeoutError as error:
        msg = f"no connection within {connect_s:g} s"
        raise DialError(msg) from error
    except ssl.SSLError as error:
        reason: str | None = getattr(error, "reason", None)  # None, whatever its type says
        why: str = getattr(error, "verify_message", "") or reason or "it failed"
        raise DialError(f"no TLS: {why.lower().replace('_', ' ')}") from error
    except OSError as error:
        raise DialError(os.strerror(error.errno).lower() if error.errno else str(error)) from error
    return connection


class Receiver(Protocol):
    """Who gets a reply. After `on_reply_end` or `on_reply_broken` the connection is gone for it."""

    def on_reply_head(self, status: int, headers: Headers) -> None:
        """Take the final status and the headers, names as sent."""
        ...

    def on_reply_data(self, data: bytes) -> None:
        """Take a piece of the body, its transfer coding removed."""
        ...

    def on_reply_end(self) -> None:
        """The reply is whole."""
        ...

    def on_reply_broken(self, reason: str) -> None:
        """The connection ended before the reply did."""
        ...

    def on_upload_paused(self, is_paused: bool) -> None:  # noqa: FBT001 - a plain event
        """The peer takes no more bytes for now, or takes them again."""
        ...


class EngineReceiver(Receiver, Protocol):
    """Who gets an engine's reply: it may come in one piece."""

    def on_whole_reply(self, content_type: bytes, body: bytes) -> None:
        """Take a reply of status 200, head, body and end at once."""
        ...


class UpstreamConnection(asyncio.Protocol):
    """One TCP connection, used for one request at a time."""

    __slots__ = (
        "_body",
        "_fd",
        "_has_framing",
        "_head_bytes",
        "_headers",
        "_is_between",
        "_is_complete",
        "_is_head_new",
        "_is_keepable",
        "_is_paused",
        "_loop_time",
        "_parser",
        "_status",
        "_transport",
        "content_type",
        "has_no_body",
        "has_reply",
        "is_reused",
        "receiver",
        "replica",
        "since",
        "was_stream",
    )

    def __init__(self, loop_time: Callable[[], float], replica: Replica | None = None) -> None:
        """``replica`` gets the connection back when a reply ended well; None keeps none."""
        self._loop_time = loop_time
        self.replica = replica
        self.receiver: Receiver | None = None
        self.is_reused = False
        self.since = 0.0  # when it was last given work or put aside
        self.was_stream = False  # what the reply before was, when it was put aside
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._parser = httptools.HttpResponseParser(self)
        self._is_paused = False  # the client is slower
        self._is_between = True  # the parser has begun no reply that it has not ended
        self._reset()

    def _reset(self) -> None:
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._status = 0
        self._head_bytes = 0
        self._is_head_new = False
        self._is_complete = False
        self._is_keepable = False
        self._has_framing = False
        self.content_type = b""
        self.has_no_body = False
        self.has_reply = False

    # What an exchange calls.

    @property
    def is_usable(self) -> bool:
        """Tell whether a request may be written to it."""
        return self._transport is not None and not self._transport.is_closing()

    def send(
        self,
        receiver: Receiver,
        pieces: Sequence[bytes | memoryview],
        just_before: Callable[[], None] | None = None,
    ) -> bool:
        """Begin a request. False: the connection turned out to be dead and took no byte of it.

        ``just_before`` is called as the last thing before bytes may leave this process.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        self._reset()
        self.receiver = receiver
        self.since = self._loop_time()
        if just_before is not None:
            just_before()
        if self._fd < 0:  # TLS: nothing goes around it
            transport.writelines(pieces)
            return True
        try:
            taken = os.writev(self._fd, pieces)
        except BlockingIOError:
            taken = 0
        except OSError:
            self.receiver = None
            transport.abort()
            return False
        for piece in pieces:
            if taken < len(piece):
                transport.write(memoryview(piece)[taken:])
            taken = max(0, taken - len(piece))
        return True

    def write(self, data: bytes) -> None:
        """Send a further piece of an upload."""
        if self._transport is not None:
            self._transport.write(data)

    def set_reading(self, *, on: bool) -> None:
        """Stop or go on taking bytes: TCP then holds the peer back."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.is_reading() is on:
            return
        self._is_paused = not on
        if on:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def keep(self) -> None:
        """Put the connection back for the next request, if both sides want to."""
        replica = self.replica
        if replica is None:
            self.close()
            return
        if replica.ending:
            replica.ending.discard(self)
        is_unused = not self.has_reply
        is_keepable = is_unused or (
            self._is_keepable
            and not (self.was_stream and self._loop_time() < replica.hangs_up_until)
        )
        if replica.is_retired or not is_keepable or not self.is_usable:
            self.close()
            return
        self._is_complete = False
        self.is_reused = True
        self.since = self._loop_time()
        if self._is_paused:
            self.set_reading(on=True)
        replica.idle.append(self)

    def let_go(self) -> None:
        """Give up interest in a reply that has said all: the connection is kept if it can be."""
        self.receiver = None
        self.set_reading(on=True)
        if self.replica is None or not self.is_usable:
            self.close()
        else:
            self.since = self._loop_time()
            self.was_stream = True
            self.replica.ending.add(self)

    def note_hang_up(self) -> None:
        """Learn from a kept connection that the engine closed: the next ones are not kept."""
        if self.was_stream and self.replica is not None:
            self.replica.note_hang_up(self._loop_time())

    def close(self) -> None:
        """End the connection at once; an engine stops working on what was asked."""
        self.receiver = None
        if self.replica is not None:
            self.replica.ending.discard(self)
        if self._transport is not None:
            self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; uvloop has set TCP_NODELAY."""
        self._transport = transport = cast("asyncio.Transport", transport)
        if transport.get_extra_info("ssl_object") is None:
            self._fd = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        """Parse, then hand over what was parsed in one piece."""
        if self.receiver is None and self not in self._ending():
            self.close()  # bytes that nobody asked for
            return
        is_begin = not self.has_reply and self._is_between
        if is_begin and self._deliver_known(data):
            return
        self.has_reply = True
        if not self._status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break("it did not answer in HTTP")
            return
        if not self._status and self._head_bytes > _REPLY_HEAD_BYTES_MAX:
            self._break("the headers of its reply have no end")
            return
        if is_begin and self._is_keepable and self._status == 200 and self.replica is not None:
            _KNOWN.learn(data, sum(map(len, self._body)), self.content_type)
        self._deliver()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the receiver, unless the reply ends with the connection."""
        self._transport = None
        if self.replica is not None:
            self.replica.ending.discard(self)
            if self.receiver is None and self in self.replica.idle:
                self.replica.idle.remove(self)
                if self._loop_time() - self.since < _HANG_UP_S:
                    self.note_hang_up()
        receiver, self.receiver = self.receiver, None
        if receiver is None:
            return
        if self._status and not self._has_framing and exc is None:
            receiver.on_reply_end()
        else:
            receiver.on_reply_broken("it closed the connection")

    def pause_writing(self) -> None:
        """The peer is slower than the upload."""
        if self.receiver is not None:
            self.receiver.on_upload_paused(True)  # noqa: FBT003 - a plain event

    def resume_writing(self) -> None:
        """The peer has caught up."""
        if self.receiver is not None:
            self.receiver.on_upload_paused(False)  # noqa: FBT003 - a plain event

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Note that a reply has begun: its first byte is there."""
        self._is_between = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; those of trailers and of interim replies are dropped."""
        if not self._status:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Note the status of a final reply; 1xx only announces one (RFC 9110, 15.2)."""
        status = self._parser.get_status_code()
        if self._is_complete:  # a second reply to one request
            return
        if status < 200:
            # The parser takes any number, and a body where there is none (RFC 9112, 6.3).
            if status < 100 or any(name.lower() in _FRAMING for name, _ in self._headers):
                msg = f"an interim reply with status {status} and a body"
                raise ValueError(msg)
            self._headers.clear()
            return
        self._status = status
        self._is_head_new = True
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"content-type":
                self.content_type = value
            elif lower in _FRAMING:
                self._has_framing = True
        if status in {204, 304} or self.has_no_body:
            self._has_framing = True
            self._is_complete = self.has_no_body

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body until the whole read is parsed."""
        if not self._is_complete:
            self._body.append(data)

    def on_message_complete(self) -> None:
        """Note the end; the connection may be kept if both sides want to."""
        self._is_between = True
        if self._status:
            is_first = not self._is_complete
            self._is_complete = True
            self._is_keepable = is_first and self._parser.should_keep_alive()

    def _ending(self) -> set["UpstreamConnection"]:
        return self.replica.ending if self.replica is not None else set()

    def _deliver_known(self, data: bytes) -> bool:
        """Hand over a whole reply whose head is known; False: it is the parser's."""
        receiver = self.receiver
        if self.replica is None or receiver is None:
            return False
        known = _KNOWN.find(data)
        if known is None:
            return False
        self.content_type, body_at = known
        self.has_reply = self._is_keepable = self._has_framing = True
        self._status = 200
        self.was_stream = False
        self.receiver = None
        self.keep()
        cast("EngineReceiver", receiver).on_whole_reply(self.content_type, data[body_at:])
        return True

    def _deliver(self) -> None:
        if self._is_head_new and self.receiver is not None:
            self._is_head_new = False
            self.receiver.on_reply_head(self._status, self._headers)
        if self._body:
            body = self._body
            data = body[0] if len(body) == 1 else b"".join(body)
            body.clear()
            if self.receiver is not None:
                self.receiver.on_reply_data(data)
        if self._is_complete:
            self._end_reply()

    def _end_reply(self) -> None:
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            self.was_stream = False
        self.keep()
        if receiver is not None:
            receiver.on_reply_end()

    def _break(self, reason: str) -> None:
        receiver = self.receiver
        self.close()
        if receiver is not None:
            receiver.on_reply_broken(reason)
