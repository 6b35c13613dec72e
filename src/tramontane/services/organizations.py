"""Organizations: made, changed and listed by operators; a member sees its own."""

from collections.abc import Callable
from dataclasses import replace

from tramontane.domain import ids as kinds
from tramontane.domain.event import Event
from tramontane.domain.tenancy import Organization, Principal
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.scope import Page, organization_named, page_of
from tramontane.store import events, tenancy
from tramontane.store.db import Database, Transaction


class Organizations:
    """Use cases of organizations.

    ``wake`` is called when gateways have to hear of a change, ``wake_accounts`` for clusters.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: IdSource,
        wake: Callable[[], None],
        wake_accounts: Callable[[], None] = lambda: None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._wake = wake
        self._wake_accounts = wake_accounts

    def create(self, principal: Principal, name: str) -> Organization:
        """Make an organization; raises `NameTakenError` if another has the name."""
        now_ms = self._clock.now_ms()
        organization = Organization(self._ids.new(kinds.ORGANIZATION), name, now_ms)

        def write(tx: Transaction) -> Organization:
            tenancy.insert_organization(tx, organization)
            events.append(tx, _event(organization, principal, "created", now_ms))
            return organization

        made = self._db.write(write)
        self._wake_accounts()
        return made

    def get(self, principal: Principal, ref: str) -> Organization:
        """Return the organization with the id or name ``ref``."""
        with self._db.read() as tx:
            return organization_named(tx, principal, ref, param=None)

    def change(
        self,
        principal: Principal,
        ref: str,
        *,
        is_blocked: bool | None,
        may_store_responses: bool | None,
    ) -> Organization:
        """Change the organization; None leaves a thing as it is. Gateways hear of it at once."""
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> Organization:
            new = seen = organization_named(tx, principal, ref, param=None)
            whats: list[str] = []
            if is_blocked is not None and is_blocked != (seen.blocked_at_ms is not None):
                new = replace(new, blocked_at_ms=now_ms if is_blocked else None)
                whats.append("blocked" if is_blocked else "unblocked")
            if may_store_responses not in {None, seen.may_store_responses}:
                new = replace(new, may_store_responses=bool(may_store_responses))
                whats.append("allowed to store" if may_store_responses else "forbidden to store")
            for what in whats:
                events.append(tx, _event(seen, principal, what, now_ms))
            return tenancy.update_organization(tx, seen, new) if whats else seen

        organization = self._db.write(write)
        self._wake()
        return organization

    def list(self, principal: Principal, *, after: str | None, limit: int) -> Page[Organization]:
        """Return a page of the organizations that the principal may see."""
        if not principal.is_operator:
            own = self.get(principal, principal.organization_id)
            return Page([own] if after is None else [], has_more=False)
        with self._db.read() as tx:
            found = tenancy.list_organizations(tx, after=after, limit=limit + 1)
        return page_of(found, limit)


def _event(organization: Organization, principal: Principal, what: str, now_ms: int) -> Event:
    return Event(
        at_ms=now_ms,
        subject_id=organization.id,
        project_id=None,
        kind=f"organization.{what.replace(' ', '_')}",
        message=f"organization {organization.name} {what}",
        actor=principal.key_id,
    )
