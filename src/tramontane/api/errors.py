"""What went wrong, as a reply: the only place where the API turns an error into a status.

Statuses, types and headers come from the one table in `wire.errors`; this module says which code
an exception stands for and puts validation errors into sentences.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from tramontane.domain.refusal import Code, Refusal, RefusedError
from tramontane.store.errors import NameTakenError, StaleError, StoreUnavailableError
from tramontane.wire import errors as wire
from tramontane.wire import unserved
from tramontane.wire.cloud_types import PATTERN_WORDS

_log = logging.getLogger(__name__)

STORE_RETRY_S: Final = 2  # a restart of PostgreSQL takes seconds
_SHOWN_MAX: Final = 80  # characters of what the client sent that a message repeats
_DOCUMENT: Final = "/cloud/v1/openapi.json"
_BODY: Final = (
    "the body must be a JSON object, sent with `content-type: application/json`: "
    f"{_DOCUMENT} says what it holds"
)


def install(app: FastAPI) -> None:
    """Register the handlers of every expected error; bugs are the front's."""
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(NameTakenError, _name_taken)
    app.add_exception_handler(StaleError, _stale)
    app.add_exception_handler(StoreUnavailableError, _store_unavailable)


def reply(refusal: Refusal, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the reply that says ``refusal``."""
    return JSONResponse(
        wire.body_of(refusal),
        status_code=wire.status_of(refusal.code),
        headers={
            **wire.headers_of(refusal.code, retry_after_s=refusal.retry_after_s),
            **(headers or {}),
        },
    )


def too_large(bytes_max: int) -> Refusal:
    """Return the refusal of a body over the limit."""
    return Refusal(Code.BODY_TOO_LARGE, f"the body is longer than the limit of {bytes_max} bytes")


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)  # what it is registered for
    refusal = error.refusal
    field = (refusal.param or "").partition(".")[0]
    if field not in refusal.message:
        refusal = replace(refusal, message=f"{refusal.param}: {refusal.message}")
    return reply(refusal)


async def _name_taken(_: Request, error: Exception) -> JSONResponse:
    return reply(Refusal(Code.NAME_TAKEN, str(error), param="name"))


async def _stale(_: Request, error: Exception) -> JSONResponse:
    return reply(Refusal(Code.CONFLICT, str(error)))


async def _store_unavailable(_: Request, error: Exception) -> JSONResponse:
    _log.warning("the store is not available: %s", error)
    message = "the database does not answer at the moment, nothing was changed: try again"
    return reply(Refusal(Code.UNAVAILABLE, message, retry_after_s=STORE_RETRY_S))


async def _http(request: Request, error: Exception) -> JSONResponse:
    """Answer what the framework refuses: unknown paths, wrong methods, broken bodies."""
    assert isinstance(error, HTTPException)  # what it is registered for
    path = _shown(request.scope["path"])
    if error.status_code == 413:
        return reply(too_large(request.scope["tramontane.body_bytes_max"]))
    if error.status_code == 404 and unserved.is_inference(path):
        return reply(unserved.refusal_at(request.method, path))
    if error.status_code == 404:
        message = f"there is no {request.method} {path}: {_DOCUMENT} lists what there is"
        return reply(Refusal(Code.NOT_FOUND, message))
    if error.status_code == 405:
        allowed = ", ".join(_methods(request))
        message = f"{request.method} is not possible at {path}: use {allowed}"
        return reply(Refusal(Code.METHOD_NOT_ALLOWED, message), {"allow": allowed})
    return reply(Refusal(Code.INVALID_JSON, _BODY))


def _methods(request: Request) -> list[str]:
    found: set[str] = set()
    for route in request.app.router.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return sorted(found)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # what it is registered for
    return reply(explain(error.errors()))


def explain(problems: Sequence[Any]) -> Refusal:
    """Return the first of pydantic's ``problems`` as a refusal that says what was expected."""
    first = problems[0]
    place, *inside = first["loc"]
    if first["type"] == "json_invalid":
        return Refusal(Code.INVALID_JSON, f"the body is not JSON: {first['ctx']['error']}")
    if not inside and first["type"] == "value_error":  # of several fields together
        return Refusal(Code.INVALID_VALUE, first["msg"].removeprefix("Value error, "))
    if not inside:
        return Refusal(Code.INVALID_JSON, _BODY)
    field = _shown(".".join(str(part) for part in inside))
    if place == "path":
        return Refusal(Code.NOT_FOUND, f"there is nothing with this {field}")
    more = f" ({len(problems) - 1} more to correct)" if len(problems) > 1 else ""
    is_missing = first["type"] == "missing"
    code = Code.MISSING_REQUIRED_PARAMETER if is_missing else Code.INVALID_VALUE
    return Refusal(code, _sentence(field, first) + more, param=field)


def _sentence(field: str, problem: Mapping[str, Any]) -> str:
    kind, context = problem["type"], problem.get("ctx") or {}
    if kind == "missing":
        return f"{field} is missing: {_DOCUMENT} says what it must be"
    if kind == "extra_forbidden":
        return f"{field} is not known here: leave it out; {_DOCUMENT} lists the fields"
    if kind == "string_pattern_mismatch" and context.get("pattern") in PATTERN_WORDS:
        return f"{field} must be {PATTERN_WORDS[context['pattern']]}{_got(problem)}"
    text: str = problem["msg"].removeprefix("Value error, ")
    for opening in ("Input should ", "String should ", "List should ", "Dictionary should "):
        if text.startswith(opening):
            return f"{field} must {text.removeprefix(opening)}{_got(problem)}"
    return f"{field}: {text}"


def _got(problem: Mapping[str, Any]) -> str:
    sent = problem.get("input")
    if isinstance(sent, str):
        return f", not {_shown(sent)!a}"
    if sent is None or isinstance(sent, bool | float):
        return f", not {sent}" if sent is not None else ", not null"
    if isinstance(sent, int) and abs(sent) < 1 << 64:
        return f", not {sent}"
    return ""


def _shown(text: str) -> str:
    """Return ``text`` safe for a message: printable ASCII, short."""
    safe = ascii(text)[1:-1]
    return safe if len(safe) <= _SHOWN_MAX else f"{safe[:_SHOWN_MAX]}..."
