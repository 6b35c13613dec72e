"""The client's side of the gateway: one connection, its requests in order, its limits.

Parsing is httptools' (llhttp, strict); what it lets through and RFC 9112 does not is refused
here: missing or doubled Host, obsolete targets, oversized heads. A request is handed on when its
headers are there (`Gateway.begin`); its body follows through a `Sink`. Requests that a client
pipelines wait for their turn, a bounded number of bytes ahead.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

import httptools

from tramontane.domain.refusal import Code, Refusal
from tramontane.gateway import refusals
from tramontane.gateway.client import replies
from tramontane.gateway.client.request import Request, read_head
from tramontane.gateway.known_heads import KnownHeads

if TYPE_CHECKING:
    from tramontane.gateway.dispatch import Gateway

LOG: Final = logging.getLogger("tramontane.gateway.client")
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_VERSIONS: Final = frozenset({"1.1", "1.0"})
_KNOWN: Final[KnownHeads[Request]] = KnownHeads()
_FRAMING_BYTES_MAX: Final = 64 * 1024  # of a chunked body, beyond as much as the body itself
_WRITE_HIGH_BYTES: Final = 256 * 1024  # queued for a slow client before the engine is held back


class ClientConnection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_ahead_bytes",
        "_begin",
        "_fd",
        "_gateway",
        "_head_bytes",
        "_is_between",
        "_is_deaf",
        "_is_reading",
        "_latest",
        "_limits",
        "_linger_until",
        "_parser",
        "_queue",
        "_reading",
        "_transport",
        "_unsent_bytes",
        "_write_paused_since",
        "current",
        "is_public",
        "is_tls",
        "since",
    )

    def __init__(
        self, gateway: "Gateway", begin: "Callable[[ClientConnection, Request], None] | None" = None
    ) -> None:
        """``begin`` serves a request in place of the gateway: on a port for one purpose."""
        self._gateway = gateway
        self._begin = begin or gateway.begin
        self.is_public = begin is None
        self.is_tls = False
        self._limits = gateway.limits
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._queue: deque[Request] = deque()
        self._reading: Request | None = None  # whose head or body is still coming
        self._latest: Request | None = None  # the last one that began
        self.current: Request | None = None  # whose reply is being made
        self._head_bytes = 0
        self._ahead_bytes = 0
        self._is_between = True  # the parser has begun no message that it has not ended
        self._is_deaf = False  # what still comes in is not looked at
        self._is_reading = True
        self._linger_until = 0.0
        self._write_paused_since = 0.0
        self._unsent_bytes = 0
        self.since = gateway.loop.time()

    # What a sink calls.

    @property
    def peer(self) -> str:
        """Return the client's address, without the port."""
        name = self._transport.get_extra_info("peername") if self._transport else None
        return str(name[0]) if name else "unknown"

    def send(self, data: bytes) -> None:
        """Write straight to the socket when nothing is queued: that saves a pass of the loop."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._fd >= 0 and transport.get_write_buffer_size() == 0:
            try:
                taken = os.write(self._fd, data)
            except BlockingIOError:
                taken = 0
            except OSError:
                transport.abort()
                return
            if taken == len(data):
                return
            data = data[taken:]
        transport.write(data)

    def set_reading(self, *, on: bool) -> None:
        """Stop or go on taking an upload: TCP then holds the client back."""
        if self._transport is None or self._is_reading is on or self._transport.is_closing():
            return
        self._is_reading = on
        if on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def reply(self, status: int, header_lines: bytes, body: bytes) -> None:
        """Answer the current request with a whole reply."""
        request = self.current
        assert request is not None  # only its sink replies
        keeps_alive = request.keeps_alive and request.is_complete and not self._gateway.is_draining
        head = b"%b%b%bx-request-id: %b\r\n%bcontent-length: %d\r\n\r\n" % (
            replies.status_line(status),
            self._gateway.date,
            header_lines,
            request.id.encode(),
            b"" if keeps_alive else self.closing_line(),
            len(body),
        )
        self.send(head if request.is_head else head + body)
        self.finish()

    def closing_line(self) -> bytes:
        """Decide whether the connection outlives the current request; return what to say of it."""
        request = self.current
        assert request is not None  # only its sink asks
        if not request.is_complete or self._gateway.is_draining:
            request.keeps_alive = False
        return b"" if request.keeps_alive else replies.CLOSE

    def finish(self) -> None:
        """End the current request: the next one, the next read, or the connection's end."""
        request, self.current = self.current, None
        if request is None:
            return
        request.sink = None
        if not request.keeps_alive:
            if request.is_complete:
                self.close()
            else:
                self._linger()
            return
        self.since = self._gateway.loop.time()
        if self._write_paused_since:
            self.set_reading(on=False)  # a client that takes no replies gets no more of them made
        elif self._queue:
            self._gateway.loop.call_soon(self._next)

    def close(self) -> None:
        """Close after what is queued has gone out, if the client takes it."""
        self._is_deaf = True
        self._linger_until = self._gateway.loop.time() + self._limits.stall_s
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection, queued bytes and all."""
        self._is_deaf = True
        if self._transport is not None:
            self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; uvloop has set TCP_NODELAY."""
        self._transport = transport = cast("asyncio.Transport", transport)
        self.is_tls = transport.get_extra_info("ssl_object") is not None
        if not self.is_tls:  # what goes around TLS would go out in the clear
            self._fd = transport.get_extra_info("socket").fileno()
        transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        if not self._gateway.add_client(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """Tell whoever is serving that nobody reads any more."""
        self._transport = None
        self._is_deaf = True
        self._gateway.remove_client(self)
        self._queue.clear()
        self._leave()

    def pause_writing(self) -> None:
        """The client is slower than the reply."""
        self._write_paused_since = self._gateway.loop.time()
        if self.current is not None and self.current.sink is not None:
            self.current.sink.on_client_paused(True)  # noqa: FBT003 - a plain event

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._write_paused_since = 0.0
        if self.current is not None and self.current.sink is not None:
            self.current.sink.on_client_paused(False)  # noqa: FBT003 - a plain event
        self._next()

    def data_received(self, data: bytes) -> None:
        """Parse; whatever cannot be parsed ends the connection with a clear error."""
        if self._is_deaf:
            return
        is_begin = self._is_between and self.current is None and not self._head_bytes
        if is_begin:
            self.since = self._gateway.loop.time()
            if self._serve_known(data):
                return
        reading = self._reading
        if reading is None or not reading.method:
            self._head_bytes += len(data)
        if self.current is not None and self.current.is_complete:
            self._ahead_bytes += len(data)
            if self._ahead_bytes > self._limits.pipelined_bytes_max:
                self.set_reading(on=False)
        if self._parse(data):
            if self._is_head_too_large():
                self._refuse_large_head()
            elif is_begin and self._is_between:
                self._learn(data)
            elif reading is not None and reading.is_chunked and reading is self._reading:
                self._weigh(reading, len(data))

    def eof_received(self) -> None:
        """Take a client that ends its side for gone, as other proxies do; the transport closes."""
        self._leave()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Note that a message has begun: its first byte is there."""
        self._is_between = False

    def on_url(self, url: bytes) -> None:
        """Begin a request, or go on with its target."""
        if self._reading is None:
            self._reading = self._latest = Request(self._gateway.loop.time())
        self._reading.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; those of a trailer are dropped (RFC 9112, 7.1.2)."""
        request = self._reading
        if request is not None and not request.method:
            request.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the head, then serve it or let it wait."""
        request = self._reading
        if request is None or self._is_deaf:
            return
        request.method = self._parser.get_method()
        request.is_head = request.method == b"HEAD"
        version = self._parser.get_http_version()
        request.is_http_10 = version == "1.0"
        request.keeps_alive = self._parser.should_keep_alive() and not request.is_http_10
        head_bytes, self._head_bytes = self._head_bytes, 0
        if head_bytes > self._limits.head_bytes_max and self._size_of(request) > (
            self._limits.head_bytes_max
        ):
            self._refuse_large_head()
            return
        fault: str | None
        if version not in _VERSIONS:
            fault = f"HTTP/{version} is not spoken here; speak HTTP/1.1"
        elif self._parser.should_upgrade():
            fault = "upgrading the connection is not supported; speak plain HTTP/1.1"
        else:
            fault = read_head(request)
        if not request.has_body:
            request.is_complete = True
        if fault is not None:
            self._refuse(fault)
        elif self.current is None and not self._queue and not self._write_paused_since:
            self._serve(request)
        else:
            self._queue.append(request)

    def on_body(self, data: bytes) -> None:
        """Hand a piece of the body on, or keep it until it is the request's turn."""
        request = self._reading
        if request is None or self._is_deaf:
            return
        request.body_bytes += len(data)
        if request.body_bytes > self._limits.body_bytes_max:
            self.refuse_early(refusals.body_too_large(self._limits.body_bytes_max))
        elif request.sink is not None:
            request.sink.on_upload(data)
        else:
            request.chunks.append(data)

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._is_between = True
        request, self._reading = self._reading, None
        if request is None or self._is_deaf:
            return
        request.is_complete = True
        if request.sink is not None:
            request.sink.on_upload_end()

    def check(self, now: float) -> None:
        """Look at this connection's deadlines; the sweep calls it about once a second."""
        if self._write_paused_since:
            self._check_stall(now)
        elif self._linger_until:
            if now > self._linger_until:
                self.abort()
        elif self._is_upload_late(now):
            self.refuse_early(refusals.TOO_SLOW)
        elif self.current is not None:
            if self.current.sink is not None:
                self.current.sink.check(now)
        elif self._reading is None and now - self.since > self._idle_s():
            self.close()

    def refuse_early(self, refusal: Refusal) -> None:
        """Answer a request that was not read to its end, and close: what follows is not trusted."""
        request = self._reading or Request(self.since)
        self._is_deaf = True
        if self.current is not None and self.current is not request:
            self._queue.clear()  # the reply being made is the last one
            self.current.keeps_alive = False
            return
        if request.sink is not None:
            sink, request.sink = request.sink, None
            sink.on_client_gone()
            if request.has_reply:
                self.abort()
                return
        request.is_complete = False
        self.current = request
        self._gateway.refuse(self, request, refusal)

    # Below: leaves.

    def _end_by_bug(self) -> None:
        """Answer a request that could not be served, if it still can be, and close."""
        request = self.current
        if request is None:
            self.refuse_early(refusals.BUG)
            return
        self._is_deaf = True
        self._queue.clear()
        sink, request.sink = request.sink, None
        if sink is not None:
            try:
                sink.on_client_gone()  # it gives back what it holds
            except Exception:  # the bug may have hit that too
                LOG.exception("a request could not be ended because of a bug")
        if request.has_reply:
            self.abort()
            return
        request.keeps_alive = False
        self._gateway.refuse(self, request, refusals.BUG)

    def _parse(self, data: bytes) -> bool:
        """Feed the parser; False when what comes in is not looked at any more."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            LOG.exception("a request could not be served because of a bug")
            if not self._is_deaf:
                self._end_by_bug()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._is_deaf:
                self._refuse(f"the request is not valid HTTP: {error}")
        return not self._is_deaf

    def _serve_known(self, data: bytes) -> bool:
        """Serve a whole request whose head is known; False: it is the parser's."""
        if self._queue or self._write_paused_since:
            return False
        known = _KNOWN.find(data)
        if known is None:
            return False
        like, body_at = known
        request = like.again(self.since, len(data) - body_at)
        self.current = request
        try:
            self._begin(self, request)  # not every port serves the same
            sink = request.sink
            if sink is not None:
                sink.on_upload(data[body_at:])
                sink.on_upload_end()
        except Exception:  # as the parser does with what a callback raises
            LOG.exception("a request could not be served because of a bug")
            self._end_by_bug()
        return True

    def _learn(self, data: bytes) -> None:
        """Remember the head of a request that came in one piece."""
        request, self._latest = self._latest, None
        if request is not None and request.can_come_again:
            length = request.length or 0
            _KNOWN.learn(data, length, request.again(0.0, length))

    def _serve(self, request: Request) -> None:
        self.current = request
        self._begin(self, request)
        if request.expects_continue and request.sink is not None and not request.body_bytes:
            self.send(_CONTINUE)

    def _next(self) -> None:
        if self._is_deaf or self.current is not None or self._write_paused_since:
            return
        if not self._queue:
            self.set_reading(on=True)
            return
        self._ahead_bytes = 0
        request = self._queue.popleft()
        self._serve(request)
        sink = request.sink
        chunks, request.chunks = request.chunks, []
        for data in chunks:
            if sink is not None and request.sink is sink:
                sink.on_upload(data)
        if request.is_complete and sink is not None and request.sink is sink:
            sink.on_upload_end()
        if not self._queue:
            self.set_reading(on=True)

    def _refuse(self, why: str) -> None:
        self.refuse_early(Refusal(Code.INVALID_REQUEST, why))

    def _weigh(self, request: Request, wire_bytes: int) -> None:
        """Refuse a chunked body that costs far more than it holds: crumbs, extensions, trailers."""
        request.wire_bytes += wire_bytes
        if request.wire_bytes > 2 * request.body_bytes + _FRAMING_BYTES_MAX:
            self._refuse("the chunks of the body hold too little for their size; send larger ones")

    def _refuse_large_head(self) -> None:
        self.refuse_early(refusals.head_too_large(self._limits.head_bytes_max))

    def _is_head_too_large(self) -> bool:
        reading = self._reading
        if reading is not None and reading.method:
            return False
        return self._head_bytes > self._limits.head_bytes_max

    def _size_of(self, request: Request) -> int:
        return len(request.target) + sum(len(n) + len(v) + 4 for n, v in request.headers)

    def _check_stall(self, now: float) -> None:
        left = self._transport.get_write_buffer_size() if self._transport else 0
        if left != self._unsent_bytes:
            self._unsent_bytes = left
            self._write_paused_since = now
        elif now - self._write_paused_since > self._limits.stall_s:
            self.abort()

    def _is_upload_late(self, now: float) -> bool:
        reading = self._reading
        if (
            reading is None
            or not self._is_reading
            or (self.current is not None and self.current is not reading)
        ):
            return False
        if not reading.method:
            return now - reading.since > self._limits.head_s
        allowed = self._limits.body_grace_s + reading.body_bytes / self._limits.body_rate_min
        return now - reading.since > allowed

    def _idle_s(self) -> float:
        if self._gateway.is_draining:
            return self._limits.drain_idle_s
        return self._limits.head_s if self._head_bytes else self._limits.keep_alive_s

    def _leave(self) -> None:
        current, self.current = self.current, None
        if current is not None and current.sink is not None:
            sink, current.sink = current.sink, None
            sink.on_client_gone()

    def _linger(self) -> None:
        """Half-close and read on for a moment: a reset would destroy the reply on its way."""
        self._is_deaf = True
        self._linger_until = self._gateway.loop.time() + self._limits.linger_s
        if self._transport is not None and not self._transport.is_closing():
            self.set_reading(on=True)
            if not self.is_tls:  # which has no half-closed state
                self._transport.write_eof()
