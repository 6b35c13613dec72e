"""Racks that are kept for one organization: made and ended by operators, seen by their owner."""

import difflib
from collections.abc import Callable
from typing import Final

from tramontane.domain import ids as kinds
from tramontane.domain.event import Event
from tramontane.domain.fleet import Cluster
from tramontane.domain.quotas.quota import RackReservation
from tramontane.domain.refusal import Code, RefusedError, refuse
from tramontane.domain.tenancy import Principal
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.scope import Page, not_found, page_of
from tramontane.store import events, fleet, tenancy
from tramontane.store.db import Database, Transaction
from tramontane.store.quotas import reservations

_KEEPS: Final = "slurm"  # the driver whose clusters can keep a rack for somebody
_NAMED_MAX: Final = 10  # racks that a refusal lists


class Reservations:
    """Use cases of reserved racks. ``wake`` is called after a change, so that clusters hear."""

    def __init__(self, db: Database, clock: Clock, ids: IdSource, wake: Callable[[], None]) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._wake = wake

    def create(
        self, principal: Principal, organization: str, cluster: str, rack: str
    ) -> RackReservation:
        """Keep the rack for the organization; what others have running there ends by itself."""
        reservation_id, now_ms = self._ids.new(kinds.RESERVATION), self._clock.now_ms()

        def write(tx: Transaction) -> RackReservation:
            owner = tenancy.get_organization(tx, organization)
            if owner is None:
                raise not_found("organization", organization, param="organization")
            found = _cluster(tx, cluster)
            _check_rack(tx, found, rack)
            new = RackReservation(reservation_id, owner.id, found.name, rack)
            if not reservations.insert(tx, new, now_ms):
                taken = reservations.find(tx, found.name, rack)
                if taken is not None and taken.organization_id == owner.id:
                    return taken
                raise _taken(tx, rack, taken)
            events.append(tx, _event(new, principal, "made", now_ms))
            return new

        reservation = self._db.write(write)
        self._wake()
        return reservation

    def get(self, principal: Principal, reservation_id: str) -> RackReservation:
        """Return one reservation that the principal may see."""
        with self._db.read() as tx:
            return _get(tx, principal, reservation_id)

    def list(self, principal: Principal, *, after: str | None, limit: int) -> Page[RackReservation]:
        """Return a page of the reservations that the principal may see."""
        with self._db.read() as tx:
            found = reservations.list_for(tx, _visible(principal), after=after, limit=limit + 1)
        return page_of(found, limit)

    def remove(self, principal: Principal, reservation_id: str) -> RackReservation:
        """Let everybody use the rack again."""
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> RackReservation:
            seen = _get(tx, principal, reservation_id)
            reservations.remove(tx, seen.id)
            events.append(tx, _event(seen, principal, "ended", now_ms))
            return seen

        reservation = self._db.write(write)
        self._wake()
        return reservation


def _visible(principal: Principal) -> str | None:
    return None if principal.is_operator else principal.organization_id


def _get(tx: Transaction, principal: Principal, reservation_id: str) -> RackReservation:
    found = reservations.get_for(tx, _visible(principal), reservation_id)
    if found is None:
        raise not_found("reservation", reservation_id)
    return found


def _cluster(tx: Transaction, ref: str) -> Cluster:
    clusters = fleet.list_clusters(tx)
    found = next((cluster for cluster in clusters if ref in {cluster.id, cluster.name}), None)
    if found is None:
        raise not_found("cluster", ref, param="cluster")
    if found.driver != _KEEPS:
        message = (
            f"the cluster {found.name} has the driver {found.driver} and cannot keep racks: name "
            "one of Slurm"
        )
        raise refuse(Code.INVALID_VALUE, message, param="cluster")
    return found


def _check_rack(tx: Transaction, cluster: Cluster, rack: str) -> None:
    """Refuse a rack that no node is in; without any known rack, it may still come."""
    nodes = [node for node in fleet.list_nodes(tx) if node.cluster_id == cluster.id]
    racks = sorted({node.rack for node in nodes if node.rack is not None})
    if not racks or rack in racks:
        return
    near = difflib.get_close_matches(rack, racks, n=1) or racks[:_NAMED_MAX]
    message = f"the cluster {cluster.name} has no rack {rack}: expected such as {', '.join(near)}"
    raise refuse(Code.INVALID_VALUE, message, param="rack")


def _taken(tx: Transaction, rack: str, taken: RackReservation | None) -> RefusedError:
    owner = tenancy.get_organization(tx, taken.organization_id) if taken else None
    message = f"the rack {rack} is kept for {owner.name if owner else 'another organization'}"
    if taken is not None:
        message += f": delete the reservation {taken.id} first"
    return refuse(Code.CONFLICT, message, param="rack")


def _event(reservation: RackReservation, principal: Principal, what: str, now_ms: int) -> Event:
    return Event(
        at_ms=now_ms,
        subject_id=reservation.id,
        project_id=None,
        kind=f"reservation.{what}",
        message=f"rack {reservation.rack} of {reservation.cluster}: reservation {what}",
        actor=principal.key_id,
        data={"organization_id": reservation.organization_id},
    )
