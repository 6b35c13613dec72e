"""Where the output of attempts is: the driver of each one's cluster."""

import logging
from collections.abc import Mapping

from tramontane.domain.jobs.job import Attempt
from tramontane.drivers.base import Driver, DriverUnavailableError
from tramontane.store import fleet
from tramontane.store.db import Database

log = logging.getLogger(__name__)


class DriverLogs:
    """Reads what attempts write; ``drivers`` are by the names of their clusters."""

    def __init__(self, db: Database, drivers: Mapping[str, Driver]) -> None:
        self._db = db
        self._drivers = drivers

    def tail(self, attempt: Attempt, lines_max: int) -> list[str] | None:
        """Return the last lines, oldest first; None when the cluster does not answer."""
        driver = self._driver_of(attempt)
        try:
            return None if driver is None else driver.logs(attempt.id, lines_max)
        except DriverUnavailableError as error:
            log.warning("the output of %s cannot be read now: %s", attempt.id, error)
            return None

    def read(self, attempt: Attempt, rank: int, offset: int, bytes_max: int) -> bytes | None:
        """Return a piece of the output of one node; None when the cluster does not answer."""
        driver = self._driver_of(attempt)
        try:
            if driver is None:
                return None
            return driver.read_log(attempt.id, rank, offset, bytes_max)
        except DriverUnavailableError as error:
            log.warning("the output of %s cannot be read now: %s", attempt.id, error)
            return None

    def _driver_of(self, attempt: Attempt) -> Driver | None:
        with self._db.read() as tx:
            names = {cluster.id: cluster.name for cluster in fleet.list_clusters(tx)}
        return self._drivers.get(names.get(attempt.cluster_id, ""))
