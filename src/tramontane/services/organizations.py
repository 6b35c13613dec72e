"""Organizations: made and listed by operators; a member sees its own."""

from tramontane.domain import ids as kinds
from tramontane.domain.event import Event
from tramontane.domain.tenancy import Organization, Principal
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.scope import Page, not_found, page_of
from tramontane.store import events, tenancy
from tramontane.store.db import Database, Transaction


class Organizations:
    """Use cases of organizations."""

    def __init__(self, db: Database, clock: Clock, ids: IdSource) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids

    def create(self, principal: Principal, name: str) -> Organization:
        """Make an organization; raises `NameTakenError` if another has the name."""
        organization = Organization(self._ids.new(kinds.ORGANIZATION), name, self._clock.now_ms())

        def write(tx: Transaction) -> Organization:
            tenancy.insert_organization(tx, organization)
            events.append(tx, _created(organization, principal))
            return organization

        return self._db.write(write)

    def get(self, principal: Principal, ref: str) -> Organization:
        """Return the organization with the id or name ``ref``."""
        with self._db.read() as tx:
            found = tenancy.get_organization(tx, ref)
        if found is None or not (principal.is_operator or found.id == principal.organization_id):
            raise not_found("organization", ref)
        return found

    def list(self, principal: Principal, *, after: str | None, limit: int) -> Page[Organization]:
        """Return a page of the organizations that the principal may see."""
        if not principal.is_operator:
            own = self.get(principal, principal.organization_id)
            return Page([own] if after is None else [], has_more=False)
        with self._db.read() as tx:
            found = tenancy.list_organizations(tx, after=after, limit=limit + 1)
        return page_of(found, limit)


def _created(organization: Organization, principal: Principal) -> Event:
    return Event(
        at_ms=organization.created_at_ms,
        subject_id=organization.id,
        project_id=None,
        kind="organization.created",
        message=f"organization {organization.name} created",
        actor=principal.key_id,
    )
