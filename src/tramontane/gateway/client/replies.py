"""What goes back to a client: status lines, headers, error bodies, model cards. Bytes only."""

import http
import time
from collections.abc import Iterable
from typing import Any, Final

import orjson

from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import Route
from tramontane.wire import errors
from tramontane.wire.dialect import Dialect

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = "JanFebMarAprMayJunJulAugSepOctNovDec"
_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    for status in http.HTTPStatus
}
JSON_TYPE: Final = b"content-type: application/json\r\n"
STREAM_TYPE: Final = (
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
)
CLOSE: Final = b"connection: close\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"


def status_line(status: int) -> bytes:
    """Return the status line with its registered phrase."""
    return _LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


def date_line(now_s: float) -> bytes:
    """Return the Date header (RFC 9110, 6.6.1) of a time in seconds since the epoch."""
    t = time.gmtime(now_s)
    day, month = _DAYS[t.tm_wday], _MONTHS[3 * t.tm_mon - 3 : 3 * t.tm_mon]
    clock = f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
    return f"date: {day}, {t.tm_mday:02} {month} {t.tm_year} {clock} GMT\r\n".encode()


def header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return header lines of our own making."""
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers)


def chunk(data: bytes) -> bytes:
    """Return ``data`` in the chunked transfer coding (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_head(date: bytes, lines: bytes, request_id: str, *, is_chunked: bool) -> bytes:
    """Return the head of a reply that comes as server-sent events; ``lines`` are further ones."""
    framing = CHUNKED if is_chunked else b""
    rid = request_id.encode()
    return b"%b%b%b%bx-request-id: %b\r\n%b\r\n" % (
        status_line(200),
        date,
        STREAM_TYPE,
        lines,
        rid,
        framing,
    )


def error(refusal: Refusal, dialect: Dialect) -> tuple[int, bytes, bytes]:
    """Return status, header lines and body of a refusal in the caller's dialect."""
    status = errors.status_of(refusal.code, dialect)
    headers = errors.headers_of(refusal.code, retry_after_s=refusal.retry_after_s, dialect=dialect)
    body = orjson.dumps(errors.body_of(refusal, dialect))
    return status, JSON_TYPE + header_lines(headers.items()), body


def card(route: Route) -> dict[str, Any]:
    """Return the model card that both dialects' clients read (wire reference, 2.9).

    Where nobody can tell, a model chats and calls functions, and does not fill in the middle.
    """
    able = route.capabilities
    chats = able.generates is not False and able.chats is not False
    return {
        "id": route.model,
        "object": "model",
        "created": route.created_at_ms // 1000,
        "owned_by": "tramontane",
        "type": "base",
        "name": route.model,
        "description": None,
        "root": route.upstream_model,
        "capabilities": {
            "completion_chat": chats,
            "completion_fim": able.fills_in is True,
            "function_calling": chats and able.calls_functions is not False,
            "fine_tuning": False,
            "vision": False,
            "classification": False,
        },
        "max_context_length": route.context_length,
        "aliases": [],
        "deprecation": None,
        "default_model_temperature": None,
    }


def cards(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the list of a project's models, oldest first."""
    data = [card(route) for route in sorted(routes, key=lambda r: (r.created_at_ms, r.model))]
    return {"object": "list", "data": data, "has_more": False}
