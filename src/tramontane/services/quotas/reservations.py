"""Racks that are kept for one organization: made and ended by operators, seen by their owner."""

import difflib
from typing import Final

from tramontane.domain import ids as kinds
from tramontane.domain.fleet import Cluster
from tramontane.domain.quotas.quota import RackReservation
from tramontane.domain.refusal import Code, RefusedError, refuse
from tramontane.domain.tenancy import Principal
from tramontane.services.quotas.owned import OwnedItems, Told
from tramontane.services.scope import not_found, organization_named
from tramontane.store import fleet, tenancy
from tramontane.store.db import Transaction
from tramontane.store.quotas import reservations

_KEEPS: Final = "slurm"  # the driver whose clusters can keep a rack for somebody
_NAMED_MAX: Final = 10  # racks that a refusal lists


class Reservations(OwnedItems[RackReservation]):
    """Use cases of reserved racks. What others have running in one ends by itself."""

    noun = "reservation"
    gone = "ended"
    rows = reservations.ROWS

    def create(
        self, principal: Principal, organization: str, cluster: str, rack: str
    ) -> RackReservation:
        """Keep the rack for the organization."""
        reservation_id = self._ids.new(kinds.RESERVATION)

        def write(tx: Transaction) -> RackReservation:
            owner = organization_named(tx, principal, organization)
            found = _cluster(tx, cluster)
            _check_rack(tx, found, rack)
            new = RackReservation(reservation_id, owner.id, found.name, rack)
            if not reservations.insert(tx, new, self._clock.now_ms()):
                taken = reservations.find(tx, found.name, rack)
                if taken is not None and taken.organization_id == owner.id:
                    return taken
                raise _taken(tx, rack, taken)
            self._record(tx, principal, new, "made")
            return new

        return self._change(write)

    def _told(self, _tx: Transaction, item: RackReservation, /) -> Told:
        words = f"rack {item.rack} of {item.cluster}: reservation"
        return Told(None, words, {"organization_id": item.organization_id})


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
