"""Quotas: at most one row for each organization and project."""

from typing import Final

from tramontane.domain.quotas.quota import Quota, QuotaScope
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.quotas.owned import OwnedRows
from tramontane.store.quotas.tables import quotas


def find(tx: Transaction, subject_id: str) -> Quota | None:
    """Return the quota of that organization or project."""
    return ROWS.one(tx, quotas.c.subject_id == subject_id)


def _values(quota: Quota) -> dict[str, object]:
    return {
        "id": quota.id,
        "scope": quota.scope.value,
        "subject_id": quota.subject_id,
        "devices_max": quota.devices_max,
        "share": quota.share,
    }


def _quota(row: AnyRow) -> Quota:
    return Quota(
        id=row.id,
        scope=QuotaScope(row.scope),
        subject_id=row.subject_id,
        devices_max=row.devices_max,
        share=row.share,
    )


ROWS: Final = OwnedRows(
    quotas,
    values_of=_values,
    value_of=_quota,
    binding=lambda owner: quotas.c.subject_id.in_((owner.organization_id, owner.project_id)),
)
