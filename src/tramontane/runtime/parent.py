"""Ties a process's life to its parent's (Linux ``prctl``, see prctl(2))."""

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


def die_with_parent(parent_pid: int | None = None) -> None:
    """Have the kernel send SIGKILL when the parent ends; exit at once if it has ended already.

    Only who knows its number, ``parent_pid``, from the parent itself can tell that: a process asks
    for its parent some time after it was started, and may then hear of whoever adopted it.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent_pid is not None and os.getppid() != parent_pid:
        raise SystemExit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that none stays a zombie."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
