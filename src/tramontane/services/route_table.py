"""The route table as gateways pull it."""

from tramontane.domain.routing import RouteTable
from tramontane.store import routes
from tramontane.store.db import Database


class RouteTables:
    """Reads what the route reconciler published."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def revision(self) -> int:
        """Return the current revision, 0 before the first; cheap enough to ask often."""
        with self._db.read() as tx:
            return routes.current_revision(tx)

    def current(self) -> RouteTable | None:
        """Return the current table, None before the first."""
        with self._db.read() as tx:
            return routes.current(tx)
