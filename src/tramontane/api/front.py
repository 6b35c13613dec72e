"""What every request meets first: its id, the limit of its body and, if all fails, a clean 500."""

import asyncio
import contextlib
import logging
import re
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tramontane.api import errors
from tramontane.domain import ids as kinds
from tramontane.domain.refusal import Code, Refusal
from tramontane.runtime.clock import IdSource
from tramontane.wire.cloud_jobs import BODY_BYTES_MAX as JOB_BYTES_MAX
from tramontane.wire.runner_report import BODY_BYTES_MAX as RUNNER_BYTES_MAX

_log = logging.getLogger(__name__)

BODY_BYTES_MAX: Final = 1 << 20  # the largest body, sixty-four engine options, is under 50 kB
REPORT_BYTES_MAX: Final = 4 << 20  # a gateway's thousand usage events take 650 kB
# Of a body that was refused: as much as a client may send before it looks for the reply.
DISCARDED_BYTES_MAX: Final = 64 << 20
DISCARD_S: Final = 10.0
_INTERNAL: Final = "/internal/"
_RUNNERS: Final = "/cloud/v1/runners/"
_JOBS: Final = "/cloud/v1/jobs"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Front:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, ids: IdSource) -> None:
        self._app = app
        self._ids = ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = self._request_id(headers)
        path: str = scope["path"]
        bytes_max = _bytes_max(path)
        scope["tramontane.body_bytes_max"] = bytes_max
        # Both /x and /x/ mean /x: a redirect would lose the body in some clients.
        scope["path"] = path.rstrip("/") or "/"
        body = _Body(receive, bytes_max)
        out = _Out(send, request_id, body)
        if _stated_bytes(headers) > bytes_max:
            await errors.reply(errors.too_large(bytes_max))(scope, receive, out.send)
            return
        try:
            await self._app(scope, body.receive, out.send)
        except Exception as error:
            if out.has_started:
                raise
            # The message of a bug may quote what was sent, so the client does not see it.
            _log.exception("%s %s failed, request id %s", scope["method"], path, request_id)
            message = (
                f"this is a bug in Tramontane ({type(error).__name__}): report it with the "
                f"request id {request_id}, under which the log tells more"
            )
            await errors.reply(Refusal(Code.INTERNAL, message))(scope, receive, out.send)

    def _request_id(self, headers: Headers) -> str:
        """Return the id that the gateway gave the request, or a fresh one."""
        given = headers.get("x-request-id", "")
        return given if _REQUEST_ID.fullmatch(given) else self._ids.new(kinds.REQUEST)


class _Body:
    """A request's body on its way in: bounded, and read on when nobody wants it."""

    def __init__(self, receive: Receive, bytes_max: int) -> None:
        self._receive = receive
        self._bytes_max = bytes_max
        self._received = 0
        self.has_ended = False

    async def receive(self) -> Message:
        """Return the next piece; 413 beyond the bound, also of a body of unstated length."""
        message = await self._next()
        if self._received > self._bytes_max:
            raise HTTPException(413)
        return message

    async def discard(self) -> None:
        """Read the rest away: a connection closed over unread bytes is reset, reply and all."""
        end = self._received + DISCARDED_BYTES_MAX
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                while not self.has_ended and self._received < end:
                    await self._next()

    async def _next(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self.has_ended = not message.get("more_body", False)
        return message


class _Out:
    """Adds the headers that every reply carries."""

    def __init__(self, send: Send, request_id: str, body: _Body) -> None:
        self._send = send
        self._request_id = request_id
        self._body = body
        self.has_started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._request_id
            headers["cache-control"] = "no-store"
        elif not (message.get("more_body", False) or self._body.has_ended):
            # The server may close the connection after the last piece, so that one is empty.
            await self._send({**message, "more_body": True})
            await self._body.discard()
            message = {"type": "http.response.body"}
        await self._send(message)


def _bytes_max(path: str) -> int:
    if path.rstrip("/") == _JOBS:
        return JOB_BYTES_MAX
    if path.startswith(_RUNNERS):
        return RUNNER_BYTES_MAX
    return REPORT_BYTES_MAX if path.startswith(_INTERNAL) else BODY_BYTES_MAX


def _stated_bytes(headers: Headers) -> int:
    stated = headers.get("content-length", "0")
    return int(stated) if stated.isdecimal() and len(stated) < 20 else 0
