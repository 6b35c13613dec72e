"""Quotas: at most one row for each organization and project."""

from collections.abc import Collection
from dataclasses import replace

from sqlalchemy import ColumnElement, delete, select, update

from tramontane.domain.quotas.quota import Quota, QuotaScope
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.quotas.tables import quotas
from tramontane.store.statements import LIMIT_DEFAULT, page
from tramontane.store.statements import insert as insert_row


def find(tx: Transaction, subject_id: str) -> Quota | None:
    """Return the quota of that organization or project."""
    row = tx.execute(select(quotas).where(quotas.c.subject_id == subject_id)).one_or_none()
    return _quota(row) if row else None


def insert(tx: Transaction, quota: Quota, now_ms: int) -> None:
    """Insert it; that its subject has none is known from `find`."""
    insert_row(tx, quotas, {"id": quota.id, "created_at_ms": now_ms} | _values(quota))


def replace_bounds(tx: Transaction, seen: Quota, new: Quota) -> Quota:
    """Give the quota ``seen`` the bounds of ``new``."""
    stored = replace(new, id=seen.id)
    tx.execute(update(quotas).where(quotas.c.id == seen.id).values(_values(stored)))
    return stored


def remove(tx: Transaction, quota_id: str) -> None:
    """Remove it."""
    tx.execute(delete(quotas).where(quotas.c.id == quota_id))


def get_for(tx: Transaction, subjects: Collection[str] | None, quota_id: str) -> Quota | None:
    """Return the quota with that id if it is one of ``subjects``; None sees all."""
    query = select(quotas).where(quotas.c.id == quota_id, *_of(subjects))
    row = tx.execute(query).one_or_none()
    return _quota(row) if row else None


def list_for(
    tx: Transaction,
    subjects: Collection[str] | None,
    *,
    after: str | None = None,
    limit: int = LIMIT_DEFAULT,
) -> list[Quota]:
    """Return a page of the quotas of ``subjects`` (None: all), oldest first."""
    rows = page(tx, quotas, scope=_of(subjects), after=after, limit=limit)
    return [_quota(row) for row in rows]


def list_all(tx: Transaction) -> list[Quota]:
    """Return every quota, by id."""
    return [_quota(row) for row in tx.execute(select(quotas).order_by(quotas.c.id))]


def _of(subjects: Collection[str] | None) -> list[ColumnElement[bool]]:
    return [] if subjects is None else [quotas.c.subject_id.in_(sorted(subjects))]


def _values(quota: Quota) -> dict[str, object]:
    return {
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
