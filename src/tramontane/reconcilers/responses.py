"""The responses reconciler: ends those whose gateway is gone, deletes those kept long enough."""

from typing import Final

from tramontane.domain.responses.stored import PROJECT_BYTES_MAX, SILENCE_MS_MAX, lost
from tramontane.runtime.clock import Clock
from tramontane.store.db import Database, Transaction
from tramontane.store.responses import stored

DAY_MS: Final = 24 * 3600 * 1000


class ResponsesReconciler:
    """Keeps stored responses within their bounds: of silence, age and size."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        *,
        keep_days: int,
        project_bytes_max: int = PROJECT_BYTES_MAX,
    ) -> None:
        """A response is kept ``keep_days`` days, and a project at most ``project_bytes_max``."""
        self._db = db
        self._clock = clock
        self._keep_ms = keep_days * DAY_MS
        self._project_bytes_max = project_bytes_max
        # While we were away no gateway could speak to us.
        self._listening_since_ms = clock.now_ms()

    def step(self) -> bool:
        """Make one pass; return whether more is to be done. With nothing to do: no write."""
        now_ms = self._clock.now_ms()
        silent_since_ms = now_ms - SILENCE_MS_MAX
        is_listening = silent_since_ms >= self._listening_since_ms
        with self._db.read() as tx:
            silent = stored.list_silent(tx, silent_since_ms) if is_listening else []
            surplus = self._surplus(tx, now_ms)
        if silent:
            self._db.write(lambda tx: self._fail(tx, silent_since_ms))
        if surplus:
            self._db.write(lambda tx: stored.delete_all(tx, surplus))
        return bool(silent or surplus)

    def _surplus(self, tx: Transaction, now_ms: int) -> list[str]:
        older = stored.list_older(tx, now_ms - self._keep_ms)
        return older or stored.list_beyond(tx, self._project_bytes_max)

    def _fail(self, tx: Transaction, silent_since_ms: int) -> None:
        for response in stored.list_silent(tx, silent_since_ms):
            stored.update_response(tx, response, lost(response))
