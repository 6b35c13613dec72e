"""How many devices a project may use: what rules of jobs and deployments ask."""

from tramontane.store import tenancy
from tramontane.store.db import Transaction
from tramontane.store.quotas import quotas


def devices_max_for(tx: Transaction, project_id: str) -> int | None:
    """Return the most devices that the project may use at once; None: any number.

    The smaller of its own quota and its organization's.
    """
    project = tenancy.get_project(tx, project_id)
    subjects = [project_id, project.organization_id] if project else [project_id]
    found = [quotas.find(tx, subject_id) for subject_id in subjects]
    bounds = [quota.devices_max for quota in found if quota and quota.devices_max is not None]
    return min(bounds, default=None)
