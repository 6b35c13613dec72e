"""The working folder of a job: made, and filled with the files that were shipped along.

What an earlier attempt left there may be a trap: nothing here follows a symbolic link, and
nothing is written outside of the folder.
"""

from __future__ import annotations

import base64
import contextlib
import os
from typing import Any

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def make_folder(parent: str, name: str) -> str:
    """Make the folder ``name`` unless it is there; return its path. OSError if it is a link."""
    _parts(name)
    above = os.open(parent, _FOLDER)
    try:
        os.close(_enter(above, name))
    finally:
        os.close(above)
    return f"{parent}/{name}"


def lay_files(folder: str, files: list[dict[str, Any]]) -> None:
    """Lay each file at its relative ``path``, from its base64 ``content``.

    Raises ValueError for a path that leads out, and OSError where something is in the way.
    """
    for file in files:
        parts = _parts(file["path"])
        content = base64.b64decode(file["content"], validate=True)
        here = os.open(folder, _FOLDER)
        try:
            for part in parts[:-1]:
                below = _enter(here, part)
                os.close(here)
                here = below
            _write(here, parts[-1], content, 0o700 if file.get("is_executable") else 0o600)
        finally:
            os.close(here)


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    if not path or "\0" in path or any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"{path!r} is not a relative path inside the working folder")
    return parts


def _enter(above: int, name: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=above)
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except OSError as error:
        raise OSError(error.errno, f"{name} is in the way of a folder", name) from error


def _write(above: int, name: str, content: bytes, mode: int) -> None:
    draft = f".tramontane-{os.urandom(6).hex()}"
    descriptor = os.open(draft, _NEW, mode, dir_fd=above)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.rename(draft, name, src_dir_fd=above, dst_dir_fd=above)
    except (OSError, ValueError):  # such as a name that is no Unicode
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=above)
        raise
