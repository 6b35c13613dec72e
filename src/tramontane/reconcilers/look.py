"""Looking at the world: the drivers' views, and the rows beside them, as one snapshot."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tramontane.domain import ids
from tramontane.domain.catalog import ModelVersion
from tramontane.domain.deployment import Deployment
from tramontane.domain.fleet import Cluster, ClusterStatus, Node, Site
from tramontane.domain.observation import (
    ClusterView,
    Observation,
    Reachable,
    RunState,
    Unreachable,
)
from tramontane.domain.planning.fleet_view import merge_cluster
from tramontane.domain.planning.placement import Holding
from tramontane.domain.planning.reported import with_reports
from tramontane.domain.planning.snapshot import ClusterState, KeptRack, ReplicaSnapshot
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.report import RunnerReport
from tramontane.drivers.base import Driver, DriverUnavailableError
from tramontane.reconcilers.needs import Recipes, need_of, read_kept_racks, read_versions
from tramontane.runtime.clock import IdSource
from tramontane.store import deployments, fleet, replicas, routes
from tramontane.store.db import Database, StaleError, Transaction
from tramontane.store.jobs import attempts
from tramontane.store.reports import runners

log = logging.getLogger(__name__)

_FAILURE_CHARS_MAX: Final = 500
NOWHERE: Final[Mapping[str, Site]] = {}


@dataclass(frozen=True, slots=True)
class Rows:
    """What is recorded, read before the drivers are asked.

    That order makes silence mean something: a replica that was recorded as started before the
    driver was asked, and is not in its answer, does not run.
    """

    deployments: tuple[Deployment, ...]
    replicas: tuple[Replica, ...]
    clusters: tuple[Cluster, ...]
    nodes: tuple[Node, ...]
    versions: Mapping[str, ModelVersion]
    routed_replica_ids: frozenset[str]
    holdings: tuple[Holding, ...] = ()
    reports: Mapping[str, RunnerReport] = field(default_factory=dict[str, RunnerReport])
    kept_racks: tuple[KeptRack, ...] = ()


def read_rows(tx: Transaction, known_versions: Mapping[str, ModelVersion]) -> Rows:
    """Return everything that planning needs from the store."""
    live = deployments.list_live(tx)
    holding = replicas.list_holding(tx)
    recorded = {replica.id: replica for replica in holding}
    for deployment in live:
        if deployment.failures:  # its reason quotes its last failure
            recorded.update({r.id: r for r in replicas.list_of(tx, deployment.id)})
    # Only a drain waits for the routes; the table is large, so it is read only then.
    is_draining = any(replica.status is ReplicaStatus.STOPPING for replica in holding)
    table = routes.current(tx) if is_draining else None
    return Rows(
        deployments=tuple(live),
        replicas=tuple(recorded.values()),
        clusters=tuple(fleet.list_clusters(tx)),
        nodes=tuple(fleet.list_nodes(tx)),
        versions=read_versions(tx, live, known_versions),
        routed_replica_ids=frozenset(
            replica.id for route in (table.routes if table else ()) for replica in route.replicas
        ),
        holdings=tuple(attempts.holdings(tx)),
        reports=runners.list_of(tx, ids.REPLICA),
        kept_racks=read_kept_racks(tx, live),
    )


def ask(driver: Driver, reports: Mapping[str, RunnerReport] | None = None) -> ClusterView:
    """Return the driver's view; a driver that fails has not answered.

    What runners reported (``reports`` by id) completes the view of a cluster that queues: others
    read the reports of their runners themselves.
    """
    try:
        view = driver.view()
        return with_reports(view, reports) if reports and driver.queues else view
    except DriverUnavailableError as error:
        return Unreachable(str(error))
    except Exception as error:
        log.exception("driver %s: its view failed", driver.name)
        return Unreachable(f"its driver failed: {error!r}"[:_FAILURE_CHARS_MAX])


def prune_reports(db: Database, reports: Collection[str], live: Collection[str]) -> None:
    """Drop the ``reports`` (their ids) on what is over: all ids but those in ``live``."""
    over = sorted(set(reports) - set(live))
    if over:
        db.write(lambda tx: runners.delete_all(tx, over))


def merge_fleet(
    rows: Rows,
    views: Mapping[str, tuple[Driver, ClusterView]],
    seen_at_ms: Callable[[str], int],
    now_ms: int,
    new_ids: IdSource,
    *,
    sites: Mapping[str, Site] = NOWHERE,
) -> tuple[ClusterState, ...]:
    """Return each cluster with its nodes as the ``views`` (by cluster name) show them.

    ``seen_at_ms`` says when a cluster was last reachable. A recorded cluster without a driver is
    unreachable. ``sites`` says, by cluster name, where it stands.
    """
    recorded = {cluster.name: cluster for cluster in rows.clusters}
    states: list[ClusterState] = []
    for name in sorted({*recorded, *views}):
        driver_name = views[name][0].name if name in views else recorded[name].driver
        view = views[name][1] if name in views else Unreachable("no driver is configured for it")
        cluster = recorded.get(name) or Cluster(
            new_ids.new(ids.CLUSTER), name, driver_name, ClusterStatus.UNKNOWN, now_ms
        )
        states.append(
            merge_cluster(
                replace(cluster, driver=driver_name),
                [node for node in rows.nodes if node.cluster_id == cluster.id],
                view,
                seen_at_ms=seen_at_ms(name),
                new_id=new_ids.new,
                site=sites.get(name, Site()),
            )
        )
    return tuple(states)


def record_fleet(db: Database, rows: Rows, states: tuple[ClusterState, ...]) -> bool:
    """Write the clusters and nodes that changed; return whether any did.

    `StaleError` when someone else wrote one since ``rows`` were read.
    """
    clusters = {cluster.id: cluster for cluster in rows.clusters}
    nodes = {node.id: node for node in rows.nodes}
    changed_clusters = [s.cluster for s in states if clusters.get(s.cluster.id) != s.cluster]
    changed_nodes = [n for s in states for n in s.nodes if nodes.get(n.id) != n]
    if not changed_clusters and not changed_nodes:
        return False

    def record(tx: Transaction) -> None:
        if tuple(fleet.list_clusters(tx)) != rows.clusters:
            raise StaleError("fleet", "clusters")
        if tuple(fleet.list_nodes(tx)) != rows.nodes:
            raise StaleError("fleet", "nodes")
        for cluster in changed_clusters:
            fleet.upsert_cluster(tx, cluster)
        for node in changed_nodes:
            fleet.upsert_node(tx, node)

    db.write(record)
    return True


def listed_ids(states: tuple[ClusterState, ...]) -> set[str]:
    """Return the ids of all processes that reachable clusters list."""
    return {
        observation.replica_id
        for state in states
        if isinstance(state.view, Reachable)
        for observation in state.view.observations
    }


def with_listed(
    db: Database, rows: Rows, listed: set[str], ended: Mapping[str, Replica]
) -> tuple[Replica, ...]:
    """Return the recorded replicas, and those with ``listed`` ids beside them.

    Read after the drivers were asked: a listed id without a row then really has none. ``ended``
    are known already and not read again: an end is final.
    """
    recorded = {replica.id: replica for replica in rows.replicas}
    recorded |= {id_: ended[id_] for id_ in listed if id_ in ended and id_ not in recorded}
    unknown = sorted(listed - recorded.keys())
    if unknown:
        with db.read() as tx:
            found = [replicas.get_for(tx, None, replica_id) for replica_id in unknown]
        recorded |= {replica.id: replica for replica in found if replica is not None}
    return tuple(recorded.values())


def with_refusals(view: ClusterView, refused: Mapping[str, Observation]) -> ClusterView:
    """Return ``view`` with the starts that its driver refused for good shown as ended."""
    if isinstance(view, Unreachable) or not refused:
        return view
    listed = {observation.replica_id for observation in view.observations}
    added = tuple(o for replica_id, o in refused.items() if replica_id not in listed)
    return replace(view, observations=(*view.observations, *added))


def refusal(replica: Replica, node_name: str, error: Exception) -> Observation:
    """Return the observation of a start that the driver refused with ``error``."""
    reason = f"it could not be started: {error}"[:_FAILURE_CHARS_MAX]
    return Observation(replica.id, node_name, RunState.EXITED, reason=reason)


def snapshot_of(
    rows: Rows,
    states: tuple[ClusterState, ...],
    found: tuple[Replica, ...],
    *,
    recipes: Recipes,
    start_errors: Mapping[str, str],
    now_ms: int,
) -> ReplicaSnapshot:
    """Return the planner's input; ``found`` are the replicas that `with_listed` returned."""
    return ReplicaSnapshot(
        now_ms=now_ms,
        deployments=rows.deployments,
        needs=tuple(need_of(d, rows.versions, recipes) for d in rows.deployments),
        replicas=found,
        clusters=states,
        routed_replica_ids=rows.routed_replica_ids,
        start_errors=tuple(sorted(start_errors.items())),
        holdings=rows.holdings,
        kept_racks=rows.kept_racks,
    )
