"""Who a cluster's accounts are for, in one reading."""

from typing import Final

from tramontane.domain.quotas.accounts import Tenants
from tramontane.domain.tenancy import Organization, Project
from tramontane.store import tenancy
from tramontane.store.db import Transaction
from tramontane.store.quotas import quotas, reservations

_PAGE: Final = 1_000


def read(tx: Transaction, cluster: str) -> Tenants:
    """Return all organizations, all projects that are not archived, and what bounds them."""
    organizations: list[Organization] = []
    after = None
    while page := tenancy.list_organizations(tx, after=after, limit=_PAGE):
        organizations += page
        after = page[-1].id
    projects: list[Project] = []
    after = None
    while page := tenancy.list_projects(tx, after=after, limit=_PAGE):
        projects += page
        after = page[-1].id
    return Tenants(
        organizations=tuple(organizations),
        projects=tuple(it for it in projects if it.archived_at_ms is None),
        quotas=tuple(quotas.ROWS.list_all(tx)),
        reservations=tuple(it for it in reservations.ROWS.list_all(tx) if it.cluster == cluster),
    )
