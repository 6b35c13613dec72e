"""Takes a stream of server-sent events apart into their data (HTML standard, 9.2.6)."""

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from tramontane.gateway.calls.stream import EventTooLargeError

_EVENT_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class Splitter:
    """Gives the data of each event once all of it has come."""

    __slots__ = ("_bytes_max", "_partial", "_searched")

    def __init__(self, bytes_max: int) -> None:
        """``bytes_max`` bounds one event."""
        self._bytes_max = bytes_max
        self._partial = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the data of the events that are whole now. Raises `EventTooLargeError`."""
        partial = self._partial
        partial += data
        start = 0
        # An end may have been cut in two: up to three bytes of it were searched before.
        for match in _EVENT_END.finditer(bytes(partial), max(0, self._searched - 3)):
            yield data_of(bytes(partial[start : match.start()]))
            start = match.end()
        del partial[:start]
        self._searched = len(partial)
        if len(partial) > self._bytes_max:
            raise EventTooLargeError

    def end(self) -> bytes:
        """Return the data of an event that lacks its empty line."""
        rest = bytes(self._partial)
        self._partial.clear()
        return data_of(rest)


def data_of(event: bytes) -> bytes:
    """Return the ``data:`` lines of an event, joined; nothing of a comment."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line[:5] == b"data:"]
    return b"\n".join(lines)


def parse(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object in ``data``, or None."""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return chunk if isinstance(chunk, dict) else None
