"""What the kernel says of processes, and what it can be asked to do for us."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from typing import Final

_prctl: Final = ctypes.CDLL(None).prctl
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


def start_ticks(pid: int) -> int | None:
    """Return when ``pid`` started, in clock ticks since boot; None when it is no more.

    Together with the pid this names a process until the next boot (field 22 of proc(5)'s stat).
    """
    fields = stat_fields(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def stat_fields(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on, or None when it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().decode(errors="replace").rpartition(")")[2].split()
    return None


def boot_id() -> str:
    """Return the name of this boot of the machine: a pid means nothing after the next."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def processes() -> Iterator[tuple[int, list[str]]]:
    """Yield the pid and the `stat_fields` of every process."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := stat_fields(int(name))) is not None:
            yield int(name), fields


def adopt_orphans() -> None:
    """Become the parent of whatever our descendants leave behind."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int, signum: int) -> bool:
    """Get ``signum`` when the thread that started us ends; False when ``parent`` is gone."""
    _prctl(_PR_SET_PDEATHSIG, signum)
    return os.getppid() == parent


def described(status: int) -> str:
    """Return how a process ended, from its status as `os.waitstatus_to_exitcode` gives it."""
    if status >= 0:
        return f"exited with status {status}"
    hint = ", perhaps for want of memory" if status == -signal.SIGKILL else ""
    return f"was ended by signal {-status} ({signal.strsignal(-status)}{hint})"
