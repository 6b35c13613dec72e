"""Stands in for the client of a response that runs in the background: takes what would be sent.

The gateway looks at it and ends it like a connection, so deadlines and a stop find it too.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from tramontane.gateway.client.request import Request, Sink

# Told the message of a refusal, and whether the caller could have known.
OnRefused = Callable[[int, str], None]


class Absent:
    """The place of a client that has its answer and is gone."""

    __slots__ = ("_on_abort", "_on_refused", "_sink", "current", "is_public")

    def __init__(
        self, request: "Request", sink: "Sink", on_refused: OnRefused, on_abort: Callable[[], None]
    ) -> None:
        """``sink`` serves the request. ``on_abort``: the gateway stops and waits no longer."""
        self.current: Request | None = request
        self.is_public = False
        self._sink = sink
        self._on_refused = on_refused
        self._on_abort = on_abort

    def send(self, data: bytes) -> None:
        """Take a piece of a stream; nobody reads it."""

    def reply(self, status: int, header_lines: bytes, body: bytes) -> None:  # noqa: ARG002
        """Take a refusal: answers never come this way."""
        self.current = None
        error = orjson.loads(body)["error"]
        self._on_refused(status, error["message"])

    def closing_line(self) -> bytes:
        """Return nothing: there is no connection to close."""
        return b""

    def finish(self) -> None:
        """The request is over."""
        self.current = None

    def set_reading(self, *, on: bool) -> None:
        """Do nothing: there is no upload."""

    def check(self, now: float) -> None:
        """Look at the request's deadlines."""
        if self.current is not None:
            self._sink.check(now)

    def abort(self) -> None:
        """End the request: the gateway stops."""
        self.current = None
        self._on_abort()
