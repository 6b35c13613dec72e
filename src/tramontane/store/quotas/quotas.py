"""Quotas: at most one row for each organization and project."""

from typing import Final

from tramontane.domain.launch import PriorityClass
from tramontane.domain.quotas.quota import Quota, QuotaScope
from tramontane.store.codec import decode_names, encode_names
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
        "priority_classes": encode_names(quota.priority_classes),
    }


def _quota(row: AnyRow) -> Quota:
    named = decode_names(row.priority_classes)
    return Quota(
        id=row.id,
        scope=QuotaScope(row.scope),
        subject_id=row.subject_id,
        devices_max=row.devices_max,
        share=row.share,
        priority_classes=None if named is None else tuple(map(PriorityClass, named)),
    )


ROWS: Final = OwnedRows(
    quotas,
    values_of=_values,
    value_of=_quota,
    binding=lambda owner: quotas.c.subject_id.in_((owner.organization_id, owner.project_id)),
)
