"""Telling the control plane over HTTP, in a thread of its own: supervision never waits for it.

The thread starts nothing and collects nothing. It sends the newest report: when something changed
at once, when only the load changed every two seconds, else every ten. While the control plane is
away it keeps trying. The secret goes into one header and nowhere else; redirects are not followed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from typing import Any, Final
from urllib.parse import urlsplit

from tramontane.runner.output import say

LOAD_EVERY_S: Final = 2.0
HEARTBEAT_S: Final = 10.0
TIMEOUT_S: Final = 5.0  # for each step of one exchange
EXCHANGE_S_MAX: Final = 15.0  # for all of them
RETRY_MIN_S: Final = 0.5
RETRY_MAX_S: Final = 5.0
LAST_WORD_S: Final = 10.0  # how long the end of a run waits for a control plane that is away
REPLY_BYTES_MAX: Final = 4096
FIELDS: Final = (
    "run_state",
    "address",
    "reason",
    "requests_running",
    "requests_waiting",
    "exit_code",
    "outcome",
    "at_ms",
    "node_name",
)
_LOAD: Final = frozenset({"requests_running", "requests_waiting"})
_SILENT: Final = frozenset({"at_ms"})


class Poster:
    """Sends the reports of one run to ``POST {url}/cloud/v1/runners/{id}/report``.

    When the control plane answers that the run is not wanted any more, it sets `is_unwanted` and
    sends this process a SIGINT. ``source`` is the address of this node to send from: requests are
    only sent to where reports come from.
    """

    def __init__(self, url: str, id_: str, secret: str, source: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("the report URL must be http://HOST or https://HOST")
        self._host, self._port, self._scheme = parts.hostname, parts.port, parts.scheme
        self._source = (source, 0) if source else None
        self._path = f"{parts.path.rstrip('/')}/cloud/v1/runners/{id_}/report"
        self._headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        self._news = threading.Condition()
        self._newest: dict[str, Any] | None = None
        self._told: dict[str, Any] | None = None
        self._told_at = 0.0
        self._retry_at = 0.0
        self._failures = 0
        self._begun_at: float | None = None
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="post", daemon=True)
        self.is_unwanted = False

    def tell(self, report: dict[str, Any]) -> None:
        """Have ``report`` sent in place of what was not sent yet; returns at once."""
        with self._news:
            self._newest = {name: report.get(name) for name in FIELDS}
            self._news.notify()
        if self._thread.ident is None:
            self._thread.start()  # it inherits a mask that blocks our signals
        self._cut_short()

    def wait_until_told(self, limit_s: float = LAST_WORD_S) -> bool:
        """Wait until the newest report has arrived; a SIGTERM or SIGINT ends the wait."""
        ends_at = time.monotonic() + limit_s
        while self._is_news() and time.monotonic() < ends_at:
            if signal.sigtimedwait({signal.SIGTERM, signal.SIGINT}, 0.05) and not self.is_unwanted:
                return False
            self._cut_short()
        return not self._is_news()

    def _run(self) -> None:
        while True:
            with self._news:
                while (pause_s := self._pause_s()) > 0:
                    self._news.wait(pause_s)
                report = dict(self._newest or {})
            error = self._send(report)
            now = time.monotonic()
            if error is None:
                if self._failures:
                    say("the control plane was told again")
                self._told, self._told_at, self._failures = report, now, 0
            else:
                if not self._failures:
                    say(f"the control plane cannot be told: {error}; trying again")
                self._failures += 1
                backoff_s = RETRY_MIN_S * 2 ** min(self._failures, 10)
                self._retry_at = now + min(RETRY_MAX_S, backoff_s)

    def _pause_s(self) -> float:
        """Return for how long nothing has to be sent."""
        now = time.monotonic()
        if self._newest is None:
            return HEARTBEAT_S
        if self._is_news():
            due_at = 0.0
        elif any(self._newest[n] != (self._told or {})[n] for n in _LOAD):
            due_at = self._told_at + LOAD_EVERY_S
        else:
            due_at = self._told_at + HEARTBEAT_S
        return max(due_at, self._retry_at if self._failures else 0.0) - now

    def _is_news(self) -> bool:
        newest, told = self._newest, self._told
        if newest is None or told is None:
            return newest is not told
        return any(newest[name] != told[name] for name in FIELDS if name not in _LOAD | _SILENT)

    def _send(self, report: dict[str, Any]) -> str | None:
        """Make one exchange; return what went wrong."""
        connection: http.client.HTTPConnection | None = None
        try:
            self._begun_at = time.monotonic()
            connection = self._connect()
            connection.request("POST", self._path, json.dumps(report).encode(), self._headers)
            reply = connection.getresponse()
            return self._take(reply.status, reply.read(REPLY_BYTES_MAX))
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        except ValueError as error:  # such as a header that cannot be sent: not to be quoted
            return type(error).__name__
        finally:
            self._begun_at = self._socket = None
            if connection is not None:
                connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPConnection
        if self._scheme == "https":
            kind = http.client.HTTPSConnection  # it checks the certificate and its name
        connection = kind(self._host, self._port, timeout=TIMEOUT_S, source_address=self._source)
        connection.connect()
        self._socket = connection.sock
        return connection

    def _take(self, status: int, body: bytes) -> str | None:
        is_wanted: object = True
        if status == 200:
            try:
                told = json.loads(body)
                is_wanted = told.get("wanted", True) if isinstance(told, dict) else True
            except ValueError:
                return "its answer is not JSON"
        elif status != 410:
            return f"it answered {status}"
        if (status == 410 or is_wanted is False) and not self.is_unwanted:
            self.is_unwanted = True
            say("the control plane does not want this run any more")
            os.kill(os.getpid(), signal.SIGINT)
        return None

    def _cut_short(self) -> None:
        """End an exchange whose other side keeps it open without getting on."""
        begun_at, open_socket = self._begun_at, self._socket
        if begun_at is not None and time.monotonic() - begun_at > EXCHANGE_S_MAX and open_socket:
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
