"""Removes folders that a tenant's processes can change at any moment, and nothing outside of them.

No link is followed and nothing but folders is opened, so neither a swapped name leads out nor does
a pipe in its place hold the remover. A tree may be of any depth and size: one call does a bounded
piece of the work, and the next one goes on from there.
"""

import errno
import os
import secrets
import stat
from contextlib import suppress
from itertools import islice
from typing import Final

ENTRIES_MAX: Final = 2_000  # in one call: some seconds on a slow network's file system
_NAMES_MAX: Final = 1_000
_PLACE: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def remove_piece(parent: int, name: str, *, entries_max: int = ENTRIES_MAX) -> bool:
    """Remove a piece of folder ``name``; tell whether nothing of it is left. See `remove_tree`."""
    try:
        remove_tree(parent, name, entries_max=entries_max)
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
        return False
    return True


def remove_tree(parent: int, name: str, *, entries_max: int = ENTRIES_MAX) -> None:
    """Remove folder ``name`` of the open folder ``parent``; one that is not there is fine.

    Raises OSError when something cannot be removed, and when there is more than ``entries_max``
    in it: then so much is gone, and it can be called again.
    """
    try:
        top = _open_folder(parent, name)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        os.unlink(name, dir_fd=parent)  # a file or a link in its place: the thing itself
        return
    try:
        _empty(top, entries_max)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _empty(top: int, entries_max: int) -> None:
    """Remove what is in the open folder ``top``, at most so many things.

    What lies in folders within is moved up into ``top`` first, under names of its own. So the
    depth of the tree costs neither open files nor a stack, and every path stays short.
    """
    device, left = os.fstat(top).st_dev, [entries_max]
    while names := _names(top):
        for name in names:
            _take_one(left)
            if _is_folder(top, name):
                _flatten(top, name, device, left)
            else:
                _unlink(top, name)


def _flatten(top: int, name: str, device: int, left: list[int]) -> None:
    """Remove folder ``name`` of ``top``; the folders in it come to lie in ``top``."""
    below = _open_folder(top, name)
    try:
        if os.fstat(below).st_dev != device:
            raise OSError(errno.EXDEV, "another file system is mounted in it")
        while names := _names(below):
            for inner in names:
                _take_one(left)
                if _is_folder(below, inner):
                    _unlock(below, inner)
                    os.rename(inner, f".{secrets.token_hex(16)}", src_dir_fd=below, dst_dir_fd=top)
                else:
                    _unlink(below, inner)
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=top)


def _open_folder(above: int, name: str) -> int:
    """Open a folder to empty it."""
    _unlock(above, name)
    return os.open(name, _FOLDER, dir_fd=above)


def _unlock(above: int, name: str) -> None:
    """Make a folder of our own such that it can be emptied and moved.

    Caches of packages are kept in folders that even their owner may not write to.
    """
    if os.geteuid() == 0:
        return  # who may write anywhere
    place = os.open(name, _PLACE, dir_fd=above)
    try:
        found = os.fstat(place)
        is_own_folder = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if is_own_folder and found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            # Through what is open already: the name may mean something else by now.
            os.chmod(f"/proc/self/fd/{place}", stat.S_IRWXU)  # noqa: PTH101
    finally:
        os.close(place)


def _take_one(left: list[int]) -> None:
    left[0] -= 1
    if left[0] < 0:
        raise OSError(errno.EAGAIN, "there is more in it than is removed at a time")


def _names(folder: int) -> list[str]:
    """Return names in the folder: not all of a large one at once."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in islice(entries, _NAMES_MAX)]


def _is_folder(above: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _unlink(above: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=above)
