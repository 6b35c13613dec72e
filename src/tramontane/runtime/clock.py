"""Time and identity come from here, and are handed to decisions as plain values."""

import os
import threading
import time
from typing import Protocol

from tramontane.domain import ids


class Clock(Protocol):
    """Tells the time."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970-01-01 UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that moves when told to, for simulation and tests."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        """Return the time it was last moved to."""
        return self._now_ms

    def advance(self, by_ms: int) -> None:
        """Move forward by ``by_ms`` milliseconds."""
        with self._lock:
            self._now_ms += by_ms


class IdSource(Protocol):
    """Makes what must not be guessed or repeated."""

    def new(self, prefix: str) -> str:
        """Return a fresh id of the kind ``prefix``."""
        ...

    def entropy(self, size_bytes: int) -> bytes:
        """Return ``size_bytes`` bytes for keys and secrets."""
        ...


class SystemIds:
    """Ids and secrets from the operating system's random source."""

    def new(self, prefix: str) -> str:
        """Return a fresh id of the kind ``prefix``."""
        return ids.make_id(prefix, os.urandom(ids.ENTROPY_BYTES))

    def entropy(self, size_bytes: int) -> bytes:
        """Return ``size_bytes`` bytes for keys and secrets."""
        return os.urandom(size_bytes)
