"""Reads files that a tenant's processes can replace at any moment, without being led astray.

Each component of a path is opened by itself, and no symbolic link is followed. What is read is a
regular file that the expected user owns, so a pipe cannot hold the reader and a link of any kind
cannot show it what is another's. All is decided on the open file: a swap comes too late.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_BELOW: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
READ_BYTES_MAX: Final = 16 << 20  # at a time, whatever is asked for


class TenantFileError(Exception):
    """Something is at the path that must not be read; the message says what, not what it holds."""


def read_range(root: Path, relative: str, uid: int, *, offset: int, bytes_max: int) -> bytes | None:
    """Return up to ``bytes_max`` bytes from ``offset`` on; None when there is no such file.

    ``root`` is trusted, ``relative`` leads down from it, and ``uid`` must own the file. Raises
    `TenantFileError` for anything but such a file, and OSError when it cannot be read.
    """
    with _opened(root, relative, uid) as file:
        if file is None:
            return None
        return os.pread(file, min(bytes_max, READ_BYTES_MAX), max(0, offset))


def read_tail(root: Path, relative: str, uid: int, *, bytes_max: int) -> bytes | None:
    """Return the last bytes, as `read_range` would."""
    with _opened(root, relative, uid) as file:
        if file is None:
            return None
        wanted = min(bytes_max, READ_BYTES_MAX)
        return os.pread(file, wanted, max(0, os.fstat(file).st_size - wanted))


def size_of(root: Path, relative: str, uid: int) -> int | None:
    """Return how long the file is; None when there is none. Raises as `read_range`."""
    with _opened(root, relative, uid) as file:
        return None if file is None else os.fstat(file).st_size


@contextmanager
def _opened(root: Path, relative: str, uid: int) -> Iterator[int | None]:
    """Open the file; yields None when there is none."""
    try:
        place = _find(root, relative)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    try:
        found = os.fstat(place)
        if not stat.S_ISREG(found.st_mode):
            raise TenantFileError(f"{relative} is no regular file")
        if found.st_uid != uid:
            raise TenantFileError(f"{relative} belongs to user {found.st_uid}, not to {uid}")
        # Through what is open already: the name may mean something else by now.
        file = os.open(f"/proc/self/fd/{place}", _READ)
    finally:
        os.close(place)
    try:
        yield file
    finally:
        os.close(file)


def _find(root: Path, relative: str) -> int:
    """Return a descriptor of what is at the path: for looking at it, not for reading."""
    *folders, name = _parts(relative)
    here = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            below = os.open(part, _BELOW, dir_fd=here)
            os.close(here)
            here = below
            if not stat.S_ISDIR(os.fstat(here).st_mode):
                raise TenantFileError(f"{part} of {relative} is no folder")
        return os.open(name, _BELOW, dir_fd=here)
    finally:
        os.close(here)


def _parts(relative: str) -> list[str]:
    parts = relative.split("/")
    if "\0" in relative or any(part in {"", ".", ".."} for part in parts):
        msg = f"{relative!r} does not lead down from a folder"
        raise TenantFileError(msg)
    return parts
