"""One request's head, checked beyond what the parser checks, and who serves it."""

from typing import Final, Protocol

import httptools

from tramontane.gateway.telemetry.trace_context import TraceContext
from tramontane.wire.dialect import Dialect, dialect_of


class Sink(Protocol):
    """Who serves a request: it gets the body, and is told what the client does."""

    def on_upload(self, data: bytes) -> None:
        """Take a piece of the request's body."""
        ...

    def on_upload_end(self) -> None:
        """The request's body is whole."""
        ...

    def on_client_gone(self) -> None:
        """Nobody reads the reply any more."""
        ...

    def on_client_paused(self, is_paused: bool) -> None:  # noqa: FBT001 - a plain event
        """The client takes no more bytes for now, or takes them again."""
        ...

    def check(self, now: float) -> None:
        """Look at deadlines."""
        ...


class Request:
    """One parsed request head, and what came of its body before somebody took it."""

    __slots__ = (
        "authorization",
        "body_bytes",
        "chunks",
        "expects_continue",
        "has_body",
        "has_reply",
        "headers",
        "host_count",
        "id",
        "is_chunked",
        "is_complete",
        "is_head",
        "is_http_10",
        "keeps_alive",
        "length",
        "method",
        "path",
        "query",
        "since",
        "sink",
        "target",
        "trace",
        "trace_headers",
        "trace_lines",
        "user_agent",
        "wire_bytes",
    )

    def __init__(self, since: float) -> None:
        self.since = since
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.body_bytes = 0
        self.wire_bytes = 0  # of a chunked body with its framing
        self.host_count = 0
        self.length: int | None = None
        self.method = b""
        self.path = ""
        self.query = b""
        self.id = ""
        self.authorization: bytes | None = None
        self.user_agent: bytes | None = None
        self.trace_headers: tuple[tuple[bytes, bytes], ...] = ()  # as sent, names in lower case
        self.trace: TraceContext | None = None  # of the span that this request gets
        self.trace_lines = b""  # what an engine is told of it
        self.has_body = False
        self.has_reply = False  # the first bytes of one went out
        self.expects_continue = False
        self.is_chunked = False
        self.is_complete = False
        self.is_head = False
        self.is_http_10 = False
        self.keeps_alive = True
        self.sink: Sink | None = None

    def again(self, since: float, length: int) -> "Request":
        """Return a further request with the same head, whose body of ``length`` bytes is whole."""
        request = Request(since)
        request.target = self.target
        request.headers = self.headers
        request.host_count = self.host_count
        request.method = self.method
        request.path = self.path
        request.query = self.query
        request.authorization = self.authorization
        request.user_agent = self.user_agent
        request.length = request.body_bytes = length
        request.has_body = request.is_complete = True
        return request

    def apart(self) -> "Request":
        """Return a copy, which goes on when the client has the reply to this one."""
        request = self.again(self.since, self.length or 0)
        request.length = self.length
        request.id = self.id
        request.trace_headers = self.trace_headers
        request.trace = self.trace
        request.trace_lines = self.trace_lines
        request.has_reply = self.has_reply
        request.is_http_10 = self.is_http_10
        request.keeps_alive = self.keeps_alive
        return request

    @property
    def can_come_again(self) -> bool:
        """Tell whether the head is all that a further request with the same head needs."""
        is_plain = self.method == b"POST" and not (self.is_http_10 or self.expects_continue)
        is_plain = is_plain and not self.trace_headers  # these differ each time
        return is_plain and self.is_complete and self.keeps_alive and bool(self.length)

    @property
    def dialect(self) -> Dialect:
        """Return the dialect of the caller."""
        agent = self.user_agent.decode("latin-1") if self.user_agent is not None else None
        return dialect_of(self.path, agent)


# Most headers of most requests are none of these.
_READ: Final = frozenset(
    {
        b"authorization",
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"user-agent",
        b"expect",
        b"traceparent",
        b"tracestate",
    }
)


def read_head(request: Request) -> str | None:
    """Note what the head says; return what is wrong with it."""
    for name, value in request.headers:
        lower = name.lower()
        if lower not in _READ:
            continue
        if lower == b"authorization":
            if request.authorization is not None:
                return "there are two Authorization headers; send one"
            request.authorization = value
        elif lower == b"host":
            request.host_count += 1
        elif lower == b"content-length":
            request.length = int(value)  # the parser has seen to the digits, and that it is one
        elif lower == b"transfer-encoding":
            if value.lower() != b"chunked" or request.is_chunked:
                return "the only transfer coding understood is chunked"
            request.is_chunked = True
        elif lower == b"user-agent":
            request.user_agent = value
        elif lower == b"expect":
            if value.lower() != b"100-continue":
                return "the only expectation understood is 100-continue"
            request.expects_continue = not request.is_http_10
        else:  # the trace context, which few send
            request.trace_headers = (*request.trace_headers, (lower, value))
    return _read_framing(request) or _read_target(request)


def _read_framing(request: Request) -> str | None:
    if request.is_chunked and request.length is not None:
        return "Content-Length and Transfer-Encoding exclude each other; send one"
    if request.is_chunked and request.is_http_10:
        return "Transfer-Encoding needs HTTP/1.1"
    if request.host_count > 1 or (request.host_count == 0 and not request.is_http_10):
        return "exactly one Host header is needed"
    request.has_body = request.is_chunked or bool(request.length)
    return None


def _read_target(request: Request) -> str | None:
    target = request.target
    if not target.startswith(b"/"):
        if target == b"*" and request.method == b"OPTIONS":
            request.path = "*"
            return None
        try:  # the absolute form, which servers must accept (RFC 9112, 3.2.2)
            url = httptools.parse_url(target)
        except httptools.HttpParserInvalidURLError:
            return "the request target is not a path"
        if not url.schema or not url.path:
            return "the request target is not a path"
        target = url.path + (b"?" + url.query if url.query is not None else b"")
    path, _, request.query = target.partition(b"?")
    request.path = path.decode("latin-1")
    return None
