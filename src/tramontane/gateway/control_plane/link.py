"""Talks to the control plane's internal endpoints, blocking, from threads of their own.

None of it is in the path of a request: the route table comes by a long poll, usage events go in
batches. Two threads that wait in the kernel cost nothing while there is nothing to say.
"""

import contextlib
import http.client
import select
import socket
import threading
from typing import Final
from urllib.parse import urlsplit

_TIMEOUT_S: Final = 10.0
_REPLY_BYTES_MAX: Final = 256 * 1024 * 1024  # a route table of a million keys


class ControlAwayError(Exception):
    """The control plane did not answer, or not as agreed; the message says what happened.

    ``is_unsent``: it did not even get the question. ``is_refused``: asked again, it would answer
    the same.
    """

    def __init__(self, why: str, *, is_unsent: bool = False, is_refused: bool = False) -> None:
        super().__init__(why)
        self.is_unsent = is_unsent
        self.is_refused = is_refused


class ControlLink:
    """One kept connection to the control plane, for one thread. `close` may come from another."""

    def __init__(self, url: str, token: str) -> None:
        """``url`` is ``http://host:port``. Raises ValueError when it is not."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in {"", "/"}:
            msg = f"the control plane's URL must look like http://host:port, not {url!r}"
            raise ValueError(msg)
        self.host = parts.hostname
        self.port = parts.port or 80
        self._url = url
        self._token = token
        self._connection: http.client.HTTPConnection | None = None
        self.closed = threading.Event()

    def another(self) -> "ControlLink":
        """Return a link to the same control plane, for one more thread."""
        return ControlLink(self._url, self._token)

    def request(
        self, method: str, path: str, body: bytes | None = None, *, timeout_s: float = _TIMEOUT_S
    ) -> tuple[int, bytes]:
        """Return status and body of one call. Raises `ControlAwayError`."""
        headers = {"authorization": f"Bearer {self._token}"}
        if body is not None:
            headers["content-type"] = "application/json"
        connection = self._connection
        if connection is None:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
            self._connection = connection
        if connection.sock is not None and _has_ended(connection.sock):
            connection.close()
        is_unsent = connection.sock is None
        try:
            if connection.sock is None:
                connection.timeout = timeout_s
                connection.connect()
                is_unsent = False
            else:
                connection.sock.settimeout(timeout_s)
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            data = reply.read(_REPLY_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            why = f"{type(error).__name__}: {error}"
            raise ControlAwayError(why, is_unsent=is_unsent) from error
        return reply.status, data

    def close(self) -> None:
        """Wake the thread that waits in `request` or on ``closed``; it then disconnects."""
        self.closed.set()
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def disconnect(self) -> None:
        """Close the connection; for the thread that uses it."""
        if self._connection is not None:
            self._connection.close()


def _has_ended(sock: socket.socket) -> bool:
    """Tell whether the other side closed a kept connection: nothing else can be readable."""
    poll = select.poll()  # not select(), which takes no descriptor above 1,023
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
