"""Who a cluster's accounts are for, in one reading."""

from typing import Final

from sqlalchemy import select

from tramontane.domain.launch import PriorityClass
from tramontane.domain.quotas.accounts import Tenants
from tramontane.domain.tenancy import Organization, Project
from tramontane.store import deployments, tenancy
from tramontane.store.db import Transaction
from tramontane.store.jobs.tables import JOB_IS_LIVE, jobs
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
    kept = reservations.ROWS.list_all(tx)
    return Tenants(
        organizations=tuple(organizations),
        projects=tuple(it for it in projects if it.archived_at_ms is None),
        quotas=tuple(quotas.ROWS.list_all(tx)),
        reservations=tuple(it for it in kept if it.cluster == cluster),
        rack_owners=frozenset(it.organization_id for it in kept),
        classes_in_use=_classes_in_use(tx),
    )


def _classes_in_use(tx: Transaction) -> dict[str, frozenset[PriorityClass]]:
    """Return the classes of all deployments and of jobs that are not over, by project."""
    used = {(it.project_id, it.spec.priority_class) for it in deployments.list_live(tx)}
    for each in PriorityClass:
        # Quotes inside of texts are escaped, so this is the field itself and no tenant's word.
        has_class = jobs.c.spec.contains(f'"priority_class":"{each}"', autoescape=True)
        query = select(jobs.c.project_id).where(JOB_IS_LIVE, has_class).distinct()
        used |= {(project_id, each) for project_id in tx.execute(query).scalars()}
    projects = {project_id for project_id, _ in used}
    return {each: frozenset(it for owner, it in used if owner == each) for each in projects}
