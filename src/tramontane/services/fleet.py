"""The machines: read only, for operators. The reconcilers write what the drivers see."""

from tramontane.domain.fleet import Cluster, Node
from tramontane.domain.refusal import Code, refuse
from tramontane.services.scope import Page, not_found, page_of
from tramontane.store import fleet
from tramontane.store.db import Database


class Fleet:
    """Use cases of clusters and nodes."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def clusters(self, *, after: str | None, limit: int) -> Page[Cluster]:
        """Return a page of clusters, oldest first."""
        with self._db.read() as tx:
            found = fleet.list_clusters(tx)
        rest = _after([cluster.id for cluster in found], after)
        return page_of(found[rest : rest + limit + 1], limit)

    def nodes(self, cluster: str | None, *, after: str | None, limit: int) -> Page[Node]:
        """Return a page of nodes by cluster and name, of one cluster (id or name) if given."""
        with self._db.read() as tx:
            cluster_id = None
            if cluster is not None:
                owner = fleet.get_cluster(tx, cluster)
                if owner is None:
                    raise not_found("cluster", cluster, param="cluster")
                cluster_id = owner.id
            found = fleet.list_nodes(tx, cluster_id)
        rest = _after([node.id for node in found], after)
        return page_of(found[rest : rest + limit + 1], limit)


def _after(ids: list[str], after: str | None) -> int:
    """Return the position behind ``after``. There are few machines: lists are read whole."""
    if after is None:
        return 0
    if after not in ids:
        message = "after must be the id of an item of this list: start again without it"
        raise refuse(Code.INVALID_VALUE, message, param="after")
    return ids.index(after) + 1
