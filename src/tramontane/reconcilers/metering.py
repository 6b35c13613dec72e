"""The metering reconciler: adds accepted usage events to the hourly totals, each exactly once."""

from typing import Final

from tramontane.runtime.clock import Clock
from tramontane.store import usage
from tramontane.store.db import Database

# A batch is one transaction of a few milliseconds; a backlog is worked off batch by batch.
BATCH_EVENTS_MAX: Final = 1_000


class MeteringReconciler:
    """Rolls usage up. Totals are exact at any moment; rolling up only makes them cheap to read."""

    def __init__(
        self, db: Database, clock: Clock, batch_events_max: int = BATCH_EVENTS_MAX
    ) -> None:
        self._db = db
        self._clock = clock
        self._batch_events_max = batch_events_max

    def step(self) -> bool:
        """Roll one batch up; return whether there may be more. Without new events: no write."""
        with self._db.read() as tx:
            if not usage.unrolled(tx, 1):
                return False
        now_ms = self._clock.now_ms()
        count = self._db.write(lambda tx: usage.roll_up(tx, now_ms, self._batch_events_max))
        return count == self._batch_events_max
