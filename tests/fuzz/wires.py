"""What a connection needs around it to be fed bytes without a network or a loop."""

import os
from collections.abc import Callable, Iterable
from typing import Any


class StillLoop:
    """A loop whose time stands still; callbacks run when told to."""

    def __init__(self) -> None:
        self._soon: list[Callable[[], Any]] = []

    def time(self) -> float:
        return 1_000.0

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self._soon.append(lambda: callback(*args))

    def settle(self) -> None:
        """Run what is due, and what that makes due."""
        for _ in range(10_000):
            if not self._soon:
                return
            self._soon.pop(0)()
        msg = "the connection never comes to rest"
        raise AssertionError(msg)


class Wire:
    """A transport and its socket at once; what is sent is kept in a file in memory."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("wire")
        self.is_closed = False
        self.is_eof_sent = False

    def sent(self) -> bytes:
        """Return all that was written."""
        return os.pread(self._fd, 1 << 26, 0)

    def release(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    def get_extra_info(self, name: str) -> Any:
        return {"socket": self, "peername": ("127.0.0.1", 1)}.get(name)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def write(self, data: bytes) -> None:
        os.write(self._fd, data)

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        for piece in pieces:
            os.write(self._fd, piece)

    def write_eof(self) -> None:
        self.is_eof_sent = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def cut(data: bytes) -> tuple[int, list[bytes]]:
    """Read a fuzzer's input: a byte of switches, a count of cuts, so many lengths, the stream.

    Lengths are in bytes; the rest of the stream is the last piece.
    """
    if len(data) < 2:
        return 0, [data]
    switches, count = data[0], data[1] % 8
    stream, pieces = data[2 + count :], []
    for length in data[2 : 2 + count]:
        pieces.append(stream[:length])
        stream = stream[length:]
    return switches, [piece for piece in [*pieces, stream] if piece]
