"""The one error table: stable code -> HTTP status, error type, headers and body.

Every error that leaves Tramontane, from the gateway or from the management API, has the union
body of both dialects: Mistral's flat keys, OpenAI's nested ``error`` object with the same values
and, with 422, the ``detail`` list that Mistral's client insists on. The official clients of both
read it; what they depend on is listed in the wire reference, section 2.2.
"""

import math
import re
from typing import Any, Final

from tramontane.domain.refusal import Code, Refusal
from tramontane.wire.dialect import Dialect

_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"

STATUS: Final[dict[Code, tuple[int, str]]] = {
    Code.INVALID_REQUEST: (400, _INVALID),
    Code.INVALID_JSON: (400, _INVALID),
    Code.INVALID_VALUE: (400, _INVALID),
    Code.MISSING_REQUIRED_PARAMETER: (400, _INVALID),
    Code.BODY_TOO_LARGE: (413, _INVALID),
    Code.HEADERS_TOO_LARGE: (431, _INVALID),
    Code.REQUEST_TIMEOUT: (408, _INVALID),
    Code.METHOD_NOT_ALLOWED: (405, _INVALID),
    Code.INVALID_API_KEY: (401, _INVALID),
    Code.PERMISSION_DENIED: (403, "permission_error"),
    Code.NOT_FOUND: (404, _INVALID),
    Code.MODEL_NOT_FOUND: (404, _INVALID),
    Code.NAME_TAKEN: (409, "conflict_error"),
    Code.CONFLICT: (409, "conflict_error"),
    Code.IN_USE: (409, "conflict_error"),
    Code.DIGEST_MISMATCH: (400, _INVALID),
    Code.UNSUPPORTED_FORMAT: (400, _INVALID),
    Code.UNSUPPORTED_BY_ENGINE: (400, _INVALID),
    Code.DOES_NOT_FIT: (400, _INVALID),
    Code.CONTEXT_LENGTH_EXCEEDED: (400, _INVALID),
    Code.MODEL_NOT_ALLOWED: (403, "permission_error"),
    Code.RATE_LIMIT_EXCEEDED: (429, "requests"),
    Code.TOKEN_LIMIT_EXCEEDED: (429, "tokens"),
    Code.INSUFFICIENT_QUOTA: (429, "insufficient_quota"),
    Code.NO_READY_REPLICA: (503, "overloaded"),
    Code.UPSTREAM_ERROR: (502, _SERVER),
    Code.UNAVAILABLE: (503, _SERVER),
    Code.INTERNAL: (500, _SERVER),
}

# Clients know one code of every rate limit and tell requests from tokens by the type.
_TOLD_AS: Final[dict[Code, Code]] = {Code.TOKEN_LIMIT_EXCEEDED: Code.RATE_LIMIT_EXCEEDED}

# A budget is not whole again because a client asks twice; OpenAI's retries every 429 and 409.
_NO_RETRY: Final = frozenset({Code.INSUFFICIENT_QUOTA})

# Mistral answers a body that fails validation with 422, OpenAI with 400.
_VALIDATION: Final[dict[Code, str]] = {
    Code.INVALID_JSON: "json_invalid",
    Code.INVALID_VALUE: "value_error",
    Code.MISSING_REQUIRED_PARAMETER: "missing",
}
_PATH_PART: Final = re.compile(r"[^.\[\]]+")


def status_of(code: Code, dialect: Dialect = Dialect.OPENAI) -> int:
    """Return the HTTP status of ``code``: validation errors are 422 in the Mistral dialect."""
    if dialect is Dialect.MISTRAL and code in _VALIDATION:
        return 422
    return STATUS[code][0]


def body(
    code: Code, message: str, *, param: str | None = None, dialect: Dialect = Dialect.OPENAI
) -> dict[str, Any]:
    """Return the union error body. ``param`` names the field, such as ``messages[0].role``.

    ``detail`` is there only with 422 and is always a list of ``{type, loc, msg, input}``: with
    anything else Mistral's client fails to decode the error itself.
    """
    kind = STATUS[code][1]
    error = {
        "message": message,
        "type": kind,
        "param": param,
        "code": str(_TOLD_AS.get(code, code)),
    }
    union: dict[str, Any] = {"object": "error", **error, "error": error}
    if status_of(code, dialect) == 422:
        loc = ["body", *_location(param)]
        union["detail"] = [{"type": _VALIDATION[code], "loc": loc, "msg": message, "input": None}]
    return union


def body_of(refusal: Refusal, dialect: Dialect = Dialect.OPENAI) -> dict[str, Any]:
    """Return the union error body of ``refusal``."""
    return body(refusal.code, refusal.message, param=refusal.param, dialect=dialect)


def headers_of(
    code: Code, *, retry_after_s: float | None = None, dialect: Dialect = Dialect.OPENAI
) -> dict[str, str]:
    """Return the headers that belong to an error, by lower-case name.

    401 names the scheme (RFC 9110, 11.6.1). A wait is told in both forms that clients read.
    OpenAI's client retries 409 and 429 unless ``x-should-retry`` forbids it.
    """
    status = status_of(code, dialect)
    headers: dict[str, str] = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 409 or code in _NO_RETRY:
        headers["x-should-retry"] = "false"
    if retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
        headers["retry-after-ms"] = str(max(1, math.ceil(retry_after_s * 1000)))
    return headers


def _location(param: str | None) -> list[str | int]:
    parts = _PATH_PART.findall(param) if param else []
    return [int(part) if part.isdecimal() else part for part in parts]
