"""Usage: reported by gateways, read by tenants and operators."""

from collections.abc import Sequence
from typing import Final

from tramontane.domain.tenancy import Principal
from tramontane.domain.usage import UsageEvent, UsageTotal
from tramontane.runtime.clock import Clock
from tramontane.services.scope import Page, list_scope
from tramontane.store import usage
from tramontane.store.db import Database
from tramontane.store.usage import GroupBy

GROUPS: Final[dict[str, tuple[GroupBy, ...]]] = {
    "hour": ("hour",),
    "project": ("project",),
    "api_key": ("api_key",),
    "model": ("model",),
    "none": (),
}


class Usage:
    """Use cases of usage."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def accept(self, events: Sequence[UsageEvent]) -> int:
        """Record what gateways report and return how many were new; the rest was known by id."""
        now_ms = self._clock.now_ms()
        if not events:
            return 0
        return self._db.write(lambda tx: usage.accept(tx, events, now_ms))

    def totals(
        self,
        principal: Principal,
        *,
        project: str | None,
        from_ms: int,
        to_ms: int,
        group_by: str,
        limit: int,
    ) -> Page[UsageTotal]:
        """Return sums over the requests that started from ``from_ms`` to before ``to_ms``."""
        with self._db.read() as tx:
            scope = list_scope(tx, principal, project)
            sums = usage.totals(tx, scope, from_ms=from_ms, to_ms=to_ms, group_by=GROUPS[group_by])
        return Page(sums[:limit], len(sums) > limit)

    def events(
        self, principal: Principal, *, project: str | None, after: str | None, limit: int
    ) -> Page[UsageEvent]:
        """Return a page of events in the order in which they were accepted."""
        with self._db.read() as tx:
            scope = list_scope(tx, principal, project)
            found, has_more = usage.list_events(tx, scope, after=after, limit=limit)
        return Page(found, has_more)
