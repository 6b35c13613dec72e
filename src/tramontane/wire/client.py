"""A small synchronous client of the management API and of streamed chat, for the command line.

It is written on the standard library: docs/decisions/0002-lazy-commands.md says what another
library would cost at each start. It never follows a redirect (the key would travel along), never
reads more than a bounded reply, and retries nothing but a GET and what carries an idempotency key.
"""

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from tramontane import __version__

Json = dict[str, Any]
Query = Mapping[str, object | None]  # a None is left out

REPLY_BYTES_MAX: Final = 16 << 20  # a page of 100 objects is far below; more is not our server
LINE_BYTES_MAX: Final = 1 << 20  # one event of a stream
PAGE_MAX: Final = 100  # the API's own limit of one page
_TRIES: Final = 3  # of a GET, and of what carries an idempotency key
_PIECE_BYTES: Final = 64 << 10
_PAUSE_S: Final = 0.5  # before the second try; doubled for each further one
_PAUSE_S_MAX: Final = 5.0  # an outage that lasts longer is for the user to decide about
_MANAGEMENT: Final = "/cloud/v1"
_INFERENCE_SUFFIX: Final = re.compile(r"(/openai|/mistral)?/v1/*$")


class UnusableError(Exception):
    """The URL, the key or a name cannot be sent at all, and was not; the message is one line."""


class UnreachableError(Exception):
    """No server answered; the message is one line that says where and why."""


class BadReplyError(Exception):
    """Something answered, but not as Tramontane does; the message is one line."""


class ApiError(Exception):
    """The server said no. ``param`` names the field at fault; times are seconds."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.request_id = request_id


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class CloudClient:
    """Speaks to one installation with one key.

    ``base_url`` is the public origin, with or without the ``/v1`` that inference clients want.
    ``timeout_s`` bounds each wait for the network, not the whole call. Raises `UnusableError`;
    every method raises `UnreachableError`, `BadReplyError` or `ApiError`.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        timeout_s: float = 30.0,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            msg = "the API key must be printable ASCII without spaces, such as tmt_…; check it"
            raise UnusableError(msg)
        self.origin = _origin(base_url)
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._opener = urllib.request.build_opener(_EveryStatus)

    def get(self, path: str, query: Query | None = None) -> Json:
        """Return the JSON object at ``path`` below the management API; tried a few times."""
        url = self._url(_MANAGEMENT + path, query)
        pause_s = _PAUSE_S
        for _ in range(_TRIES - 1):
            try:
                return self._call("GET", url)
            except UnreachableError:
                self._sleep(pause_s)
            except ApiError as error:
                wait_s = pause_s if error.retry_after_s is None else error.retry_after_s
                if error.status != http.HTTPStatus.SERVICE_UNAVAILABLE or wait_s > _PAUSE_S_MAX:
                    raise
                self._sleep(wait_s)
            pause_s *= 2
        return self._call("GET", url)

    def post(
        self,
        path: str,
        body: Mapping[str, object],
        query: Query | None = None,
        *,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Json:
        """Send ``body`` to ``path`` and return the reply; repeated only with ``idempotency_key``.

        ``timeout_s`` is for what takes the server longer than the client's own timeout.
        """
        url = self._url(_MANAGEMENT + path, query)
        for _ in range(0 if idempotency_key is None else _TRIES - 1):
            try:
                return self._call("POST", url, body, timeout_s, idempotency_key)
            except UnreachableError:
                self._sleep(_PAUSE_S)
        return self._call("POST", url, body, timeout_s, idempotency_key)

    def patch(self, path: str, body: Mapping[str, object], query: Query | None = None) -> Json:
        """Change what is at ``path`` and return the reply; never repeated."""
        return self._call("PATCH", self._url(_MANAGEMENT + path, query), body)

    def put(self, path: str, body: Mapping[str, object], query: Query | None = None) -> Json:
        """Set what is at ``path`` and return the reply; never repeated."""
        return self._call("PUT", self._url(_MANAGEMENT + path, query), body)

    def delete(self, path: str, query: Query | None = None) -> Json:
        """Delete what is at ``path`` and return the reply; never repeated."""
        return self._call("DELETE", self._url(_MANAGEMENT + path, query))

    def list_all(self, path: str, query: Query | None = None, *, limit: int) -> Json:
        """Return up to ``limit`` items of a list, fetched page by page, as one list object."""
        items: list[Json] = []
        more, after = True, (query or {}).get("after")
        while more and len(items) < limit:
            size = min(PAGE_MAX, limit - len(items))
            page = self.get(path, {**(query or {}), "limit": size, "after": after})
            data = page.get("data")
            if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
                raise BadReplyError(_not_ours(self.origin, "a list without its data"))
            items += data[:size]
            after = page.get("last_id") or (data[-1].get("id") if data else None)
            more = page.get("has_more") is True and bool(data) and isinstance(after, str | int)
        ends = {"first_id": items[0].get("id"), "last_id": items[-1].get("id")} if items else {}
        return {"object": "list", "data": items, **ends, "has_more": more}

    def stream_chat(self, body: Mapping[str, object]) -> Iterator[Json]:
        """Yield the chunks of a streamed chat completion as they come; closing it hangs up."""
        request = self._request("POST", self._url("/v1/chat/completions"), {**body, "stream": True})
        request.add_header("Accept", "text/event-stream")
        try:
            with self._open(request) as response:
                if response.status != http.HTTPStatus.OK:
                    raise _api_error(self.origin, _read(self.origin, response))
                if "text/event-stream" not in (response.headers.get("Content-Type") or ""):
                    raise BadReplyError(_not_ours(self.origin, "no event stream"))
                yield from self._events(response)
        except (OSError, http.client.HTTPException) as error:
            msg = f"{self.origin} broke off its answer: {_reason(error)}"
            raise UnreachableError(msg) from error

    def stream_text(self, path: str, query: Query | None = None) -> Iterator[bytes]:
        """Yield the pieces of a text below the management API as they come."""
        with self._open(self._request("GET", self._url(_MANAGEMENT + path, query))) as response:
            if response.status != http.HTTPStatus.OK:
                raise _api_error(self.origin, _read(self.origin, response))
            if "text/plain" not in (response.headers.get("Content-Type") or ""):
                raise BadReplyError(_not_ours(self.origin, "something that is no text"))
            try:
                while piece := response.read1(_PIECE_BYTES):
                    yield piece
            except (OSError, http.client.HTTPException) as error:
                msg = f"{self.origin} broke off its answer: {_reason(error)}"
                raise UnreachableError(msg) from error

    def _events(self, response: http.client.HTTPResponse) -> Iterator[Json]:
        while line := response.readline(LINE_BYTES_MAX):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            chunk = _object(self.origin, data)
            if isinstance(chunk.get("error"), dict):
                raise _error_of(http.HTTPStatus.BAD_GATEWAY, chunk["error"], response.headers)
            yield chunk
        msg = f"{self.origin} broke off its answer before the end; ask again"
        raise UnreachableError(msg)

    def _url(self, path: str, query: Query | None = None) -> str:
        given = {name: str(value) for name, value in (query or {}).items() if value is not None}
        return f"{self.origin}{path}" + (f"?{urlencode(given, errors='replace')}" if given else "")

    def _request(
        self, method: str, url: str, body: Mapping[str, object] | None = None
    ) -> urllib.request.Request:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, method=method)  # noqa: S310 - http(s) only, see _origin
        request.add_header("Authorization", f"Bearer {self._api_key}")
        request.add_header("User-Agent", f"tramontane/{__version__}")
        if data is not None:
            request.add_header("Content-Type", "application/json")
        return request

    def _open(
        self, request: urllib.request.Request, timeout_s: float | None = None
    ) -> http.client.HTTPResponse:
        try:
            return self._opener.open(request, timeout=timeout_s or self._timeout_s)
        except (OSError, http.client.HTTPException) as error:
            msg = f"cannot reach {self.origin}: {_reason(error)}"
            raise UnreachableError(msg) from error

    def _call(
        self,
        method: str,
        url: str,
        body: Mapping[str, object] | None = None,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Json:
        request = self._request(method, url, body)
        if idempotency_key is not None:
            request.add_header("Idempotency-Key", idempotency_key)
        with self._open(request, timeout_s) as response:
            reply = _read(self.origin, response)
        if not 200 <= reply.status < 300:
            raise _api_error(self.origin, reply)
        return _object(self.origin, reply.body) if reply.body.strip() else {}


def segment(ref: str) -> str:
    """Return ``ref``, an id or a name that the user gave, as one segment of a path."""
    if ref in {"", ".", ".."}:
        msg = f"a name or an id is expected, not {ref!r}"
        raise UnusableError(msg)
    return quote(ref, safe="", errors="replace")


class _EveryStatus(urllib.request.HTTPErrorProcessor):
    """Hands every reply back as it is: no exception for an error, no step after a redirect."""

    def http_response(
        self, request: urllib.request.Request, response: http.client.HTTPResponse
    ) -> http.client.HTTPResponse:
        del request
        return response

    https_response = http_response


def _origin(base_url: str) -> str:
    try:
        parts = urlsplit(base_url.strip())
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        usable = usable and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not base_url.isprintable() or " " in base_url.strip():
        msg = f"the base URL must look like http://HOST:PORT/v1, not {base_url!r}"
        raise UnusableError(msg)
    return _INFERENCE_SUFFIX.sub("", base_url.strip()).rstrip("/")


def _read(origin: str, response: http.client.HTTPResponse) -> _Reply:
    try:
        body = response.read(REPLY_BYTES_MAX + 1)
    except (OSError, http.client.HTTPException) as error:
        msg = f"{origin} broke off its answer: {_reason(error)}"
        raise UnreachableError(msg) from error
    if response.length and len(body) <= REPLY_BYTES_MAX:
        msg = f"{origin} broke off its answer: {response.length} bytes are missing"
        raise UnreachableError(msg)
    if len(body) > REPLY_BYTES_MAX:
        raise BadReplyError(_not_ours(origin, f"more than {REPLY_BYTES_MAX >> 20} MiB"))
    return _Reply(response.status, response.headers, body)


def _object(origin: str, body: bytes) -> Json:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadReplyError(_not_ours(origin, "something that is not JSON")) from error
    if not isinstance(value, dict):
        raise BadReplyError(_not_ours(origin, "JSON that is not an object"))
    return value


def _api_error(origin: str, reply: _Reply) -> Exception:
    """Return the exception for an error reply, whoever sent it."""
    if 300 <= reply.status < 400:
        target = reply.headers.get("Location") or "elsewhere"
        return BadReplyError(_not_ours(origin, f"a redirect to {target}"))
    try:
        body = _object(origin, reply.body)
    except BadReplyError:
        body = {}
    nested = body.get("error")
    fields = nested if isinstance(nested, dict) else body
    if not isinstance(fields.get("message"), str):
        fields = {"message": f"{origin} answered {reply.status} without a message of Tramontane"}
    return _error_of(reply.status, fields, reply.headers)


def _error_of(status: int, fields: Json, headers: http.client.HTTPMessage) -> ApiError:
    param, code = fields.get("param"), fields.get("code")
    return ApiError(
        status,
        code if isinstance(code, str) else "",
        str(fields.get("message") or "no message"),
        param=param if isinstance(param, str) else None,
        retry_after_s=_seconds(headers.get("Retry-After")),
        request_id=headers.get("X-Request-Id"),
    )


def _seconds(value: str | None) -> float | None:
    return (
        float(value) if value and value.isascii() and value.isdigit() and len(value) < 8 else None
    )


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return str(cause) or type(cause).__name__


def _not_ours(origin: str, what: str) -> str:
    return f"{origin} answered with {what}; check that the base URL is that of a Tramontane"
