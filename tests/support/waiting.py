"""Waiting in tests: look again and again, up to a limit that a busy machine keeps too."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LIMIT_S = 60.0
PAUSE_S = 0.02


def until(look: Callable[[], T | None], what: str = "it", limit_s: float = LIMIT_S) -> T:
    """Return the first true thing that ``look`` returns; fail after ``limit_s``, with ``what``."""
    ends_at = time.monotonic() + limit_s
    while True:
        if found := look():
            return found
        assert time.monotonic() < ends_at, f"waited {limit_s:g} s in vain for {what}"
        time.sleep(PAUSE_S)
