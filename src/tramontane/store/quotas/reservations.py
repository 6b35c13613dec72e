"""Racks that are kept for one organization: a rack for at most one."""

from typing import Final

from tramontane.domain.quotas.quota import RackReservation
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.quotas.owned import OwnedRows
from tramontane.store.quotas.tables import rack_reservations
from tramontane.store.statements import insert_if_free


def insert(tx: Transaction, reservation: RackReservation, now_ms: int) -> bool:
    """Insert it unless the rack is reserved; tell whether it did."""
    values = _values(reservation) | {"created_at_ms": now_ms}
    return insert_if_free(tx, rack_reservations, values, unique=("cluster", "rack"))


def find(tx: Transaction, cluster: str, rack: str) -> RackReservation | None:
    """Return the reservation of that rack."""
    return ROWS.one(tx, rack_reservations.c.cluster == cluster, rack_reservations.c.rack == rack)


def _values(reservation: RackReservation) -> dict[str, object]:
    return {
        "id": reservation.id,
        "organization_id": reservation.organization_id,
        "cluster": reservation.cluster,
        "rack": reservation.rack,
    }


def _reservation(row: AnyRow) -> RackReservation:
    return RackReservation(
        id=row.id, organization_id=row.organization_id, cluster=row.cluster, rack=row.rack
    )


ROWS: Final = OwnedRows(
    rack_reservations,
    values_of=_values,
    value_of=_reservation,
    binding=lambda owner: rack_reservations.c.organization_id == owner.organization_id,
)
