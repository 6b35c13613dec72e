"""A small client of slurmrestd: kept-alive connections, tokens, bounded replies, limits of time.

It knows HTTP and JSON and nothing of Slurm's versions. Whatever keeps an answer from coming is a
`DriverUnavailableError`; what Slurm answered is returned, refusals included.
"""

import http.client
import json
import select
import socket
import ssl
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlencode, urlsplit

import orjson

from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm.rest.jwt import TokenSource

REPLY_BYTES_MAX: Final = 256 << 20  # 50,000 listed jobs of 5 kB each
IDLE_CONNECTIONS_MAX: Final = 8
_STALE: Final = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class NotSentError(DriverUnavailableError):
    """The call was certainly not carried out."""


class NoAddressError(NotSentError):
    """There is no such address: slurmrestd may speak another version by now."""


class TokenRefusedError(NotSentError):
    """The cluster does not accept our token."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP status and the JSON object that came with it."""

    status: int
    document: Mapping[str, Any]


class RestClient:
    """Calls one slurmrestd; for any number of threads.

    ``url`` is ``http://host:port`` or https, with or without a path. ``timeout_s`` bounds the
    wait for each part of a reply.
    """

    def __init__(self, url: str, tokens: TokenSource, timeout_s: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname, "the settings check the address"
        self._url = url
        self._host, self._port = parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._tokens = tokens
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        weakref.finalize(self, _close_all, self._idle)

    def call(
        self,
        method: str,
        path: str,
        user: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Return the reply of slurmrestd, asked as Unix user ``user``.

        A GET goes over a kept connection and is asked again when that had been closed; anything
        else is sent exactly once. Raises `DriverUnavailableError`, as `NotSentError` where nothing
        can have happened.
        """
        headers = {
            "X-SLURM-USER-NAME": user,
            "X-SLURM-USER-TOKEN": self._tokens.token(user),
            "Accept": "application/json",
        }
        content = None
        if body is not None:
            content = json.dumps(body)
            headers["Content-Type"] = "application/json"
        target = f"{self._prefix}{path}" + (f"?{urlencode(query)}" if query else "")
        status, raw = self._exchange(method, target, content, headers)
        if status in {401, 403, 511}:
            self._tokens.discard(user)
            raise TokenRefusedError(f"{self._url} refuses our token (HTTP {status})")
        return Reply(status, self._parsed(status, raw))

    def _exchange(
        self, method: str, target: str, content: str | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        kept = self._take() if method == "GET" else None
        try:
            if kept is not None:
                try:
                    return self._once(kept, method, target, content, headers)
                except _STALE:
                    pass  # it was closed while it was kept: nobody read the question
            return self._once(self._connect(), method, target, content, headers)
        except TimeoutError as error:
            msg = f"{self._url} did not answer within {self._timeout_s:g} s"
            raise DriverUnavailableError(msg) from error
        except (OSError, http.client.HTTPException) as error:
            msg = f"{self._url} did not answer: {_words(error)}"
            raise DriverUnavailableError(msg) from error

    def _once(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        content: str | None,
        headers: Mapping[str, str],
    ) -> tuple[int, bytes]:
        try:
            connection.request(method, target, content, dict(headers))
            response = connection.getresponse()
            raw = response.read(REPLY_BYTES_MAX + 1)
        except BaseException:
            connection.close()
            raise
        if len(raw) > REPLY_BYTES_MAX:
            connection.close()
            raise http.client.HTTPException(f"more than {REPLY_BYTES_MAX} bytes")
        if response.length:  # of what was announced, so much did not come
            connection.close()
            raise http.client.HTTPException("the reply ended too early")
        if response.will_close:
            connection.close()
        else:
            self._keep(connection)
        return response.status, raw

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, self._timeout_s)
        else:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=self._tls
            )
        try:
            connection.connect()
        except OSError as error:
            raise NotSentError(f"cannot connect to {self._url}: {_words(error)}") from error
        # A question and its answer are one exchange: waiting to fill packets only delays it.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _take(self) -> http.client.HTTPConnection | None:
        """Return a kept connection that is open and on which nothing came unasked."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            # What can be read now is the end of the connection, or a second reply to an earlier
            # question, which must not become the answer to this one.
            if connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]:
                return connection
            connection.close()

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < IDLE_CONNECTIONS_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def _parsed(self, status: int, raw: bytes) -> Mapping[str, Any]:
        try:
            document = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            if status == 404:
                raise NoAddressError(f"{self._url} does not know the address") from error
            msg = f"{self._url} answered HTTP {status} with something that is not JSON"
            raise DriverUnavailableError(msg) from error
        if not isinstance(document, dict):
            msg = f"{self._url} answered HTTP {status} with something that is no object"
            raise DriverUnavailableError(msg)
        return cast("Mapping[str, Any]", document)


def _close_all(connections: list[http.client.HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
