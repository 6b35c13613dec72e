"""The spool: usage events as lines in files, kept until the control plane has accepted them.

Only the loop's thread appends, with one ``pwrite`` per event into room that was reserved before
the request went to an engine, so a full disk refuses requests and never loses an event. Files
("segments") are zero-filled ahead; what counts ends at the last line feed before the first NUL.
A file is deleted once all of it was accepted; until then a crash sends it again, and the ids of
the events make that harmless.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tramontane.gateway.limits import RECORD_BYTES_MAX, Limits

SUFFIX: Final = ".jsonl"
_CHUNK: Final = 1024 * 1024


class Segment:
    """One spool file. ``size`` bytes of it are whole lines; a sealed one grows no more."""

    __slots__ = ("is_sealed", "path", "size")

    def __init__(self, path: Path, size: int = 0, *, is_sealed: bool = False) -> None:
        self.path = path
        self.size = size
        self.is_sealed = is_sealed


class Spool:
    """The segments of one gateway, oldest first; the last one is being written."""

    def __init__(self, folder: Path, owner: str, limits: Limits) -> None:
        """``owner`` names the gateway process; it begins the name of each file."""
        self._folder = folder
        self._owner = owner
        self._limits = limits
        self._next = 1
        self._fd: int | None = None
        self._allocated = 0
        self._reserved = 0
        self._sealed_bytes = 0
        self._current: Segment | None = None
        self.segments: list[Segment] = []
        self.lines = 0  # taken in so far, of our own and of dead gateways

    def adopt(self, paths: list[Path]) -> None:
        """Take over the segments of a dead gateway by renaming them. Raises OSError."""
        for path in paths:
            mine = self._new_path()
            try:
                path.rename(mine)
            except FileNotFoundError:
                continue  # another gateway was faster
            segment = Segment(mine, whole_bytes(mine), is_sealed=True)
            self.segments.insert(0, segment)
            self._sealed_bytes += segment.size
            self.lines += count_lines(segment)

    def reserve(self) -> str | None:
        """Reserve the room of one event; return why not when the disk or the limit is full."""
        if self._sealed_bytes > self._limits.spool_bytes_max:
            return "the spool holds as much as it may while the control plane is away"
        needed = (self._reserved + 1) * RECORD_BYTES_MAX
        try:
            if self._current is None:
                self._open_segment(needed)
            elif self._allocated - self._current.size < needed:
                self._allocate(needed - self._allocated + self._current.size)
        except OSError as error:
            return os.strerror(error.errno or 0).lower()
        self._reserved += 1
        return None

    def release(self) -> None:
        """Give back the room of an event that will not be written."""
        self._reserved -= 1

    def append(self, line: bytes) -> int:
        """Write ``line`` (no line feed in it) and return the descriptor to sync. Raises OSError.

        The reservation is used up only when the write succeeded.
        """
        if self._current is None or self._fd is None:
            self._open_segment(RECORD_BYTES_MAX)
        fd, segment = self._fd, self._current
        assert fd is not None and segment is not None  # noqa: PT018 - just opened
        data = line + b"\n"
        written = os.pwrite(fd, data, segment.size)
        if written != len(data):  # the next write goes over it; a reader stops at the torn line
            msg = f"wrote {written} of {len(data)} bytes"
            raise OSError(msg)
        segment.size += written
        self.lines += 1
        self._reserved -= 1
        return fd

    def rotate_if_full(self, retire: Callable[[int], None]) -> None:
        """Begin a new segment when this one is full; ``retire`` syncs and closes the old file.

        Without room for a new one the old one goes on growing.
        """
        if self._current is None or self._current.size < self._limits.segment_bytes:
            return
        old_fd, old = self._writing()
        try:
            self._open_segment(max(1, self._reserved) * RECORD_BYTES_MAX)
        except OSError:
            return
        self._seal(old_fd, old)
        retire(old_fd)

    def drop(self, segment: Segment) -> None:
        """Delete a sealed segment of which everything was accepted."""
        segment.path.unlink(missing_ok=True)
        self.segments.remove(segment)
        self._sealed_bytes -= segment.size

    def close(self) -> None:
        """Write everything to the disk and close. The files stay for the shipper or the next."""
        if self._current is not None:
            fd, segment = self._writing()
            self._seal(fd, segment)
            self._current = self._fd = None
            os.fsync(fd)
            os.close(fd)

    def _writing(self) -> tuple[int, Segment]:
        assert self._fd is not None
        assert self._current is not None
        return self._fd, self._current

    def _seal(self, fd: int, segment: Segment) -> None:
        os.ftruncate(fd, segment.size)
        segment.is_sealed = True
        self._sealed_bytes += segment.size

    def _allocate(self, missing: int) -> None:
        fd, _ = self._writing()
        step = max(missing, self._limits.spool_step_bytes)
        try:
            os.posix_fallocate(fd, self._allocated, step)
        except OSError:
            step = missing  # the last corner of the disk may still hold this one
            os.posix_fallocate(fd, self._allocated, step)
        self._allocated += step

    def _open_segment(self, needed: int) -> None:
        path = self._new_path()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        size = max(needed, self._limits.spool_step_bytes)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._fd, self._allocated = fd, size
        self._current = Segment(path)
        self.segments.append(self._current)

    def _new_path(self) -> Path:
        path = self._folder / f"{self._owner}-{self._next:08d}{SUFFIX}"
        self._next += 1
        return path


def owner_of(path: Path) -> str:
    """Return the name of the gateway process that wrote the segment ``path``."""
    return path.name[: -len(SUFFIX)].rpartition("-")[0]


def whole_bytes(path: Path) -> int:
    """Return how many bytes of a segment are whole lines: a torn last line does not count."""
    size = 0
    at = 0
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            end = data.find(b"\0")
            whole = data if end < 0 else data[:end]
            feed = whole.rfind(b"\n")
            if feed >= 0:
                size = at + feed + 1
            if end >= 0:
                break
            at += len(data)
    return size


def count_lines(segment: Segment) -> int:
    """Return how many events a sealed segment holds. Raises OSError."""
    with segment.path.open("rb") as file:
        return file.read(segment.size).count(b"\n")


def read_lines(segment: Segment, start: int, lines_max: int) -> tuple[list[bytes], int]:
    """Return up to ``lines_max`` lines from byte ``start``, and the byte after the last of them.

    Reads no more than a megabyte. Raises OSError.
    """
    with segment.path.open("rb") as file:
        file.seek(start)
        data = file.read(min(segment.size - start, _CHUNK))
    lines = data.split(b"\n")[:-1][:lines_max]
    return lines, start + sum(map(len, lines)) + len(lines)
