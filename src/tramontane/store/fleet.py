"""Clusters and nodes, as a driver last saw them. One reconciler writes them, by id."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy import Table, select

from tramontane.domain import ids
from tramontane.domain.fleet import Cluster, ClusterStatus, Node, NodeStatus
from tramontane.domain.upkeep.evidence import endings_of
from tramontane.domain.upkeep.health import Ending
from tramontane.store import replicas
from tramontane.store.codec import (
    decode_devices,
    decode_resources,
    encode_devices,
    encode_resources,
)
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.jobs import attempts
from tramontane.store.statements import Values
from tramontane.store.tables import clusters, nodes

# Of replicas and of attempts, the newest: a row of failures is a handful.
ENDINGS_MAX: Final = 500


def upsert_cluster(tx: Transaction, cluster: Cluster) -> Cluster:
    """Insert the cluster or write it over the one with its id; return it with its revision.

    Another cluster with the same name is a bug: look the name up first.
    """
    values = {
        "name": cluster.name,
        "driver": cluster.driver,
        "status": cluster.status.value,
        "reason": cluster.reason,
    }
    first = {"id": cluster.id, "created_at_ms": cluster.created_at_ms}
    return replace(cluster, revision=_upsert(tx, clusters, first, values))


def get_cluster(tx: Transaction, ref: str) -> Cluster | None:
    """Return the cluster with the id or name ``ref``."""
    column = clusters.c.id if ids.prefix_of(ref) == ids.CLUSTER else clusters.c.name
    row = tx.execute(select(clusters).where(column == ref)).one_or_none()
    return _cluster(row) if row else None


def list_clusters(tx: Transaction) -> list[Cluster]:
    """Return every cluster, oldest first."""
    query = select(clusters).order_by(clusters.c.created_at_ms, clusters.c.id)
    return [_cluster(row) for row in tx.execute(query)]


def upsert_node(tx: Transaction, node: Node) -> Node:
    """Insert the node or write it over the one with its id; return it with its revision.

    Another node of the cluster with the same name is a bug: look the name up first.
    """
    values = {
        "name": node.name,
        "status": node.status.value,
        "capacity": encode_resources(node.capacity),
        "devices": encode_devices(node.devices),
        "last_seen_at_ms": node.last_seen_at_ms,
        "rack": node.rack,
        "site": node.site,
        "country": node.country,
        "reason": node.reason,
        "wanted_drain_reason": node.wanted_drain_reason,
        "is_resume_wanted": int(node.is_resume_wanted),
        "counted_from_ms": node.counted_from_ms,
    }
    first = {"id": node.id, "cluster_id": node.cluster_id}
    return replace(node, revision=_upsert(tx, nodes, first, values))


def list_nodes(tx: Transaction, cluster_id: str | None = None) -> list[Node]:
    """Return every node, of one cluster if given, by cluster and name."""
    query = select(nodes).order_by(nodes.c.cluster_id, nodes.c.name)
    if cluster_id is not None:
        query = query.where(nodes.c.cluster_id == cluster_id)
    return [_node(row) for row in tx.execute(query)]


def find_nodes(tx: Transaction, ref: str) -> list[Node]:
    """Return the nodes with the id or name ``ref``: a name may repeat on another cluster."""
    column = nodes.c.id if ids.prefix_of(ref) == ids.NODE else nodes.c.name
    query = select(nodes).where(column == ref).order_by(nodes.c.cluster_id)
    return [_node(row) for row in tx.execute(query)]


def list_endings(tx: Transaction, of_nodes: Sequence[Node], since_ms: int) -> list[Ending]:
    """Return what ended on these nodes since ``since_ms``, and what works there now."""
    known = replicas.list_ended_since(tx, since_ms, limit=ENDINGS_MAX)
    known += replicas.list_holding(tx)
    over = attempts.list_ended_since(tx, since_ms, limit=ENDINGS_MAX)
    return endings_of(known, over, of_nodes)


def _upsert(tx: Transaction, table: Table, first: Values, values: Values) -> int:
    """Insert ``first`` and ``values`` or, if the id is there, write ``values``; return revision."""
    statement = tx.insert(table).values(dict(first) | dict(values) | {"revision": 1})
    statement = statement.on_conflict_do_update(
        index_elements=("id",), set_=dict(values) | {"revision": table.c.revision + 1}
    )
    return tx.execute(statement.returning(table.c.revision)).scalar_one()


def _cluster(row: AnyRow) -> Cluster:
    return Cluster(
        id=row.id,
        name=row.name,
        driver=row.driver,
        status=ClusterStatus(row.status),
        created_at_ms=row.created_at_ms,
        reason=row.reason,
        revision=row.revision,
    )


def _node(row: AnyRow) -> Node:
    return Node(
        id=row.id,
        cluster_id=row.cluster_id,
        name=row.name,
        status=NodeStatus(row.status),
        capacity=decode_resources(row.capacity),
        devices=decode_devices(row.devices),
        last_seen_at_ms=row.last_seen_at_ms,
        rack=row.rack,
        site=row.site,
        country=row.country,
        reason=row.reason,
        wanted_drain_reason=row.wanted_drain_reason,
        is_resume_wanted=bool(row.is_resume_wanted),
        counted_from_ms=row.counted_from_ms,
        revision=row.revision,
    )
