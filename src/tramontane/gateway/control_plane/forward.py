"""Passes a request that is not for an engine on to the control plane, both ways as a stream.

One connection per request: management calls are few, and a kept connection that the control
plane closes while it restarts would lose a call that must not be made twice.
"""

from typing import TYPE_CHECKING, Final

from tramontane.domain.refusal import Refusal
from tramontane.gateway import refusals
from tramontane.gateway.client import replies
from tramontane.gateway.upstream.connection import DialError, Headers, UpstreamConnection, dial

if TYPE_CHECKING:
    from tramontane.gateway.client.connection import ClientConnection
    from tramontane.gateway.client.request import Request
    from tramontane.gateway.dispatch import Gateway

# RFC 9110, 7.6.1: these speak of one connection only. Content-Length is copied, see below.
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
        b"x-request-id",
        b"date",
    }
)
_LENGTH: Final = frozenset({b"content-length"})
_FORWARDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"})


class Forward:
    """One request on its way to the control plane and back."""

    __slots__ = (
        "_client",
        "_connection",
        "_gateway",
        "_has_framing",
        "_is_chunked_up",
        "_is_over",
        "_progress_s",
        "_request",
        "_target",
        "_waiting",
        "_waiting_bytes",
    )

    def __init__(
        self,
        gateway: "Gateway",
        client: "ClientConnection",
        request: "Request",
        target: str,
        address: tuple[str, int],
    ) -> None:
        """``target`` is path and query for the control plane, which listens on ``address``."""
        self._gateway = gateway
        self._client = client
        self._request = request
        self._target = target
        self._connection: UpstreamConnection | None = None
        self._waiting: list[bytes] = []  # what came of the body before the connection stood
        self._waiting_bytes = 0
        self._is_chunked_up = request.is_chunked
        self._is_over = False
        self._has_framing = False
        self._progress_s = gateway.loop.time()
        gateway.spawn(self._dial(address))

    async def _dial(self, address: tuple[str, int]) -> None:
        gateway = self._gateway
        try:
            connection = await dial(*address, gateway.limits.connect_s)
        except DialError:
            self._refuse(refusals.CONTROL_AWAY)
            return
        if self._is_over:
            connection.close()
            return
        self._connection = connection
        pieces, self._waiting = [self._head(), *self._waiting], []
        if not connection.send(self, (b"".join(pieces),)):
            self._refuse(refusals.CONTROL_AWAY)
            return
        connection.has_no_body = self._request.is_head
        self._client.set_reading(on=True)

    # The client's side.

    def on_upload(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        self._progress_s = self._gateway.loop.time()
        self._upload(replies.chunk(data) if self._is_chunked_up else data)

    def on_upload_end(self) -> None:
        """Close a chunked body."""
        if self._is_chunked_up:
            self._upload(replies.LAST_CHUNK)

    def on_client_gone(self) -> None:
        """Drop the call."""
        self._is_over = True
        self._drop_connection()

    def on_client_paused(self, is_paused: bool) -> None:  # noqa: FBT001 - a plain event
        """Hold the control plane back while the client is slow."""
        if self._connection is not None:
            self._connection.set_reading(on=not is_paused)

    def check(self, now: float) -> None:
        """Give the control plane up when nothing moves for as long as an engine may think."""
        if now - self._progress_s > self._gateway.limits.first_byte_s:
            self._drop_connection()
            self.on_reply_broken("it said nothing")

    # The control plane's side.

    def on_reply_head(self, status: int, headers: Headers) -> None:
        """Pass the head on, with our own word on framing and connection."""
        self._progress_s = self._gateway.loop.time()
        request, client = self._request, self._client
        listed = _listed(headers)
        kept = [(n, v) for n, v in headers if n.lower() not in _HOP_BY_HOP | listed]
        has_no_body = request.is_head or status in {204, 304}
        self._has_framing = has_no_body or any(n.lower() == b"content-length" for n, _ in kept)
        if not self._has_framing and request.is_http_10:
            request.keeps_alive = False
        head = b"%b%b%bx-request-id: %b\r\n%b%b\r\n" % (
            replies.status_line(status),
            self._gateway.date,
            b"".join(b"%b: %b\r\n" % pair for pair in kept),
            request.id.encode(),
            client.closing_line(),
            b"" if self._has_framing or request.is_http_10 else replies.CHUNKED,
        )
        request.has_reply = True
        client.send(head)

    def on_reply_data(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        self._progress_s = self._gateway.loop.time()
        is_raw = self._has_framing or self._request.is_http_10
        self._client.send(data if is_raw else replies.chunk(data))

    def on_reply_end(self) -> None:
        """End the reply."""
        self._connection = None
        if self._is_over:
            return
        self._is_over = True
        if not self._has_framing and not self._request.is_http_10:
            self._client.send(replies.LAST_CHUNK)
        self._client.finish()

    def on_reply_broken(self, reason: str) -> None:  # noqa: ARG002 - all reasons read the same
        """Tell the client, or cut its reply short where it has begun."""
        self._connection = None
        if self._request.has_reply and not self._is_over:
            self._is_over = True
            self._request.keeps_alive = False
            self._client.abort()
        else:
            self._refuse(refusals.CONTROL_BROKE)

    def on_upload_paused(self, is_paused: bool) -> None:  # noqa: FBT001 - a plain event
        """Hold the client back while the control plane is slow."""
        self._client.set_reading(on=not is_paused)

    # Below: leaves.

    def _upload(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.write(data)
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > self._gateway.limits.forward_buffer_bytes:
            self._client.set_reading(on=False)

    def _refuse(self, refusal: Refusal) -> None:
        if not self._is_over:
            self._is_over = True
            self._gateway.refuse(self._client, self._request, refusal)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _head(self) -> bytes:
        request = self._request
        listed = _listed(request.headers)
        dropped = _HOP_BY_HOP | _FORWARDED | _LENGTH | listed
        kept = [(n, v) for n, v in request.headers if n.lower() not in dropped]
        lines = [b"%b: %b\r\n" % pair for pair in kept]
        lines.append(b"x-request-id: %b\r\n" % request.id.encode())
        lines.append(b"x-forwarded-for: %b\r\n" % self._client.peer.encode())
        scheme = b"https" if self._client.is_tls else b"http"
        lines.append(b"x-forwarded-proto: %b\r\nconnection: close\r\n" % scheme)
        if self._is_chunked_up:
            lines.append(replies.CHUNKED)
        elif request.length is not None:
            # Not the header: those of a head that came before stand for many lengths.
            lines.append(b"content-length: %d\r\n" % request.length)
        target = self._target.encode("latin-1")
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method, target, b"".join(lines))


def _listed(headers: Headers) -> frozenset[bytes]:
    """Return the further hop-by-hop headers that Connection names."""
    values = [value for name, value in headers if name.lower() == b"connection"]
    names = {item.strip().lower() for value in values for item in value.split(b",")}
    # Framing and identity are never dropped because a client says so.
    return frozenset(names - {b"content-length", b"host", b"authorization"})
