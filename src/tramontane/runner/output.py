"""What processes wrote: the last lines of it, and a bound on how much is kept."""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import Final

REASON_LINES_MAX: Final = 20
REASON_BYTES_MAX: Final = 4096
PIECE_BYTES: Final = 1 << 20  # of a log that is moved

_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f]"
)


def tail_lines(path: str, lines_max: int, bytes_max: int = 1 << 16) -> list[str]:
    """Return the last lines of a log, without escape sequences; empty when there is no log."""
    data = b""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - bytes_max))
        data = file.read(bytes_max)
    return last_lines(data, lines_max)


def last_lines(data: bytes, lines_max: int) -> list[str]:
    """Return the last lines of ``data`` that say anything, without escape sequences."""
    text = data.decode(errors="replace")
    lines = (_ESCAPES.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in text.split("\n"))
    return [line.rstrip() for line in lines if line.strip()][-lines_max:] if lines_max > 0 else []


def explain(headline: str, log: str, secret: str) -> str:
    """Return ``headline`` and the last lines of a log, capped and without the secret."""
    text = "\n".join(tail_lines(log, REASON_LINES_MAX)).replace(secret or "\0", "***")
    room = REASON_BYTES_MAX - len(headline.encode()) - 2
    text = text.encode()[-room:].decode(errors="ignore")
    return f"{headline}:\n{text}" if text else headline


def plain(text: str | None) -> str | None:
    """Return ``text`` as it may stand in a report: capped, valid Unicode, no escape sequences."""
    if text is None:
        return None
    return _ESCAPES.sub("", text).encode(errors="replace").decode()[:REASON_BYTES_MAX]


def cap_log(path: str, bytes_max: int) -> int:
    """Move the end of a log that is too long to ``path.1``; return how much left ``path``.

    Whoever writes holds it open in append mode and goes on at its new beginning.
    """
    with contextlib.suppress(OSError):
        if os.stat(path).st_size > bytes_max:
            with open(path, "r+b") as file, open(f"{path}.1.tmp", "wb") as kept:
                # Less than there is room for: whoever writes goes on meanwhile.
                file.seek(-bytes_max * 7 // 8, os.SEEK_END)
                while (room := bytes_max - kept.tell()) > 0:
                    if not (piece := file.read(min(room, PIECE_BYTES))):
                        break
                    kept.write(piece)
                moved = file.tell()
                file.truncate(0)
            os.replace(f"{path}.1.tmp", f"{path}.1")
            return moved
    return 0


def replace_file(path: str, data: bytes) -> None:
    """Replace ``path`` as a whole."""
    with open(f"{path}.tmp", "wb") as file:
        file.write(data)
    os.replace(f"{path}.tmp", path)


def say(message: str, status: int = 0) -> int:
    """Write a line to the runner's own log; return ``status``."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(OSError):  # a full disk
        os.write(2, f"{now} {message}\n".encode(errors="replace"))
    return status
