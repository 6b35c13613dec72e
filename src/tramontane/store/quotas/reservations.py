"""Racks that are kept for one organization: a rack for at most one."""

from sqlalchemy import ColumnElement, delete, select

from tramontane.domain.quotas.quota import RackReservation
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.quotas.tables import rack_reservations
from tramontane.store.statements import LIMIT_DEFAULT, insert_if_free, page


def insert(tx: Transaction, reservation: RackReservation, now_ms: int) -> bool:
    """Insert it unless the rack is reserved; tell whether it did."""
    values = {
        "id": reservation.id,
        "organization_id": reservation.organization_id,
        "cluster": reservation.cluster,
        "rack": reservation.rack,
        "created_at_ms": now_ms,
    }
    return insert_if_free(tx, rack_reservations, values, unique=("cluster", "rack"))


def find(tx: Transaction, cluster: str, rack: str) -> RackReservation | None:
    """Return the reservation of that rack."""
    query = select(rack_reservations).where(
        rack_reservations.c.cluster == cluster, rack_reservations.c.rack == rack
    )
    row = tx.execute(query).one_or_none()
    return _reservation(row) if row else None


def remove(tx: Transaction, reservation_id: str) -> None:
    """Remove it."""
    tx.execute(delete(rack_reservations).where(rack_reservations.c.id == reservation_id))


def get_for(
    tx: Transaction, organization_id: str | None, reservation_id: str
) -> RackReservation | None:
    """Return the reservation if it is that organization's; None sees all."""
    query = select(rack_reservations).where(
        rack_reservations.c.id == reservation_id, *_of(organization_id)
    )
    row = tx.execute(query).one_or_none()
    return _reservation(row) if row else None


def list_for(
    tx: Transaction,
    organization_id: str | None,
    *,
    after: str | None = None,
    limit: int = LIMIT_DEFAULT,
) -> list[RackReservation]:
    """Return a page of the organization's reservations (None: all), oldest first."""
    rows = page(tx, rack_reservations, scope=_of(organization_id), after=after, limit=limit)
    return [_reservation(row) for row in rows]


def list_all(tx: Transaction) -> list[RackReservation]:
    """Return every reservation, by cluster and rack."""
    order = (rack_reservations.c.cluster, rack_reservations.c.rack)
    return [_reservation(row) for row in tx.execute(select(rack_reservations).order_by(*order))]


def _of(organization_id: str | None) -> list[ColumnElement[bool]]:
    if organization_id is None:
        return []
    return [rack_reservations.c.organization_id == organization_id]


def _reservation(row: AnyRow) -> RackReservation:
    return RackReservation(
        id=row.id, organization_id=row.organization_id, cluster=row.cluster, rack=row.rack
    )
