"""A thread that runs one reconciler: when woken, at intervals, and only while it has the lease."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from tramontane.runtime.clock import Clock
from tramontane.store import leases
from tramontane.store.db import Database, StoreUnavailableError

log = logging.getLogger(__name__)

# Another holder takes over this long after the last one fell silent.
LEASE_MS: Final = 15_000
# One write per loop every five seconds; three chances to prolong before the lease ends.
PROLONG_MS: Final = 5_000
# While passes leave something under way, the next one comes after this part of the time that it
# has been so, within these bounds: a start of half a second is seen at once, and one that takes
# minutes costs five passes a second.
BUSY_PART: Final = 10
BUSY_INTERVAL_MIN_S: Final = 0.02
BUSY_INTERVAL_S: Final = 0.2
STOP_TIMEOUT_S: Final = 30


class Loop:
    """Runs ``reconcile`` in a thread of its own until `stop`.

    ``reconcile`` returns whether more is under way: then the next pass comes within
    `BUSY_INTERVAL_S` instead of ``interval_s``, which may be a function that is asked after each
    pass. What it raises is logged, and the next pass comes
    as usual. ``holder`` names this process in the lease; a name that survives a restart takes its
    own lease over at once.
    """

    def __init__(
        self,
        name: str,
        reconcile: Callable[[], bool],
        interval_s: float | Callable[[], float],
        *,
        db: Database,
        clock: Clock,
        holder: str,
    ) -> None:
        self.name = name
        self._reconcile = reconcile
        self._interval_s = interval_s
        self._busy_since_s: float | None = None
        self._db = db
        self._clock = clock
        self._holder = holder
        self._wake = threading.Event()
        self._is_stopping = threading.Event()
        self._lease_until_ms = 0
        self._thread = threading.Thread(target=self._run, name=f"reconcile-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Have a pass begin now, or right after the one that is under way."""
        self._busy_since_s = None  # what begins now is looked at closely again
        self._wake.set()

    def stop(self) -> None:
        """End after the pass that is under way and give the lease up; waits for that."""
        self._is_stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_S)
        self._release()

    def run_once(self) -> bool:
        """Make one pass if the lease can be had; return whether more is under way."""
        try:
            return self._has_lease() and self._reconcile()
        except StoreUnavailableError as error:
            log.warning("%s: the database is not available: %s", self.name, error)
        except Exception:
            log.exception("%s: a pass failed; the next one follows", self.name)
        return False

    def _run(self) -> None:
        while True:
            self._wake.clear()  # before the question: whoever stops us now wakes us from the wait
            if self._is_stopping.is_set():
                return
            is_busy = self.run_once()
            self._wake.wait(self._pause_s(time.monotonic(), is_busy=is_busy))

    def _pause_s(self, now_s: float, *, is_busy: bool) -> float:
        longest_s = self._interval_s() if callable(self._interval_s) else self._interval_s
        if not is_busy:
            self._busy_since_s = None
            return longest_s
        if self._busy_since_s is None:
            self._busy_since_s = now_s
        part_s = (now_s - self._busy_since_s) / BUSY_PART
        return min(longest_s, BUSY_INTERVAL_S, max(BUSY_INTERVAL_MIN_S, part_s))

    def _has_lease(self) -> bool:
        now_ms = self._clock.now_ms()
        if now_ms < self._lease_until_ms - LEASE_MS + PROLONG_MS:
            return True
        is_held = self._db.write(
            lambda tx: leases.acquire(tx, self._lease, self._holder, now_ms, LEASE_MS)
        )
        self._lease_until_ms = now_ms + LEASE_MS if is_held else 0
        return is_held

    def _release(self) -> None:
        if not self._lease_until_ms:
            return
        self._lease_until_ms = 0
        try:
            self._db.write(lambda tx: leases.release(tx, self._lease, self._holder))
        except StoreUnavailableError as error:
            log.warning("%s: its lease ends by itself, the database is away: %s", self.name, error)

    @property
    def _lease(self) -> str:
        return f"reconciler/{self.name}"
