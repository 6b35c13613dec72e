"""Draining everything, when the control plane of one machine shuts down for good."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from tramontane.domain.deployment import DeploymentStatus
from tramontane.domain.observation import ClusterView, Observation, Reachable, RunState
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.drivers.base import Driver
from tramontane.reconcilers.commit import ACTOR
from tramontane.reconcilers.look import ask
from tramontane.runtime.clock import Clock
from tramontane.store import deployments, fleet, replicas
from tramontane.store.db import Database, Transaction

log = logging.getLogger(__name__)

POLL_S: Final = 0.1
# After the time for draining is over, processes are ended at once and given this long to go.
KILL_WAIT_S: Final = 10.0
WHY: Final = "the control plane shuts down"


def drain(
    db: Database,
    drivers: Mapping[str, Driver],
    clock: Clock,
    timeout_s: float,
    *,
    wait: Callable[[float], None],
) -> tuple[str, ...]:
    """Stop every replica on ``drivers``; return the ids of those whose end was not confirmed."""
    db.write(lambda tx: _record_stopping(tx, drivers, clock.now_ms()))
    left = _stop(db, drivers, clock, timeout_s, drain=True, wait=wait)
    if left:
        log.warning("%d replicas did not drain in %g s and are ended now", len(left), timeout_s)
        left = _stop(db, drivers, clock, KILL_WAIT_S, drain=False, wait=wait)
    db.write(_record_silence)
    return tuple(sorted(left))


def _record_stopping(tx: Transaction, drivers: Mapping[str, Driver], now_ms: int) -> None:
    for replica in _holding(tx, drivers):
        if replica.status is not ReplicaStatus.STOPPING:
            replicas.transition(
                tx,
                replica,
                ReplicaStatus.STOPPING,
                now_ms=now_ms,
                actor=ACTOR,
                message=WHY,
                reason=WHY,
            )


def _stop(
    db: Database,
    drivers: Mapping[str, Driver],
    clock: Clock,
    timeout_s: float,
    *,
    drain: bool,
    wait: Callable[[float], None],
) -> set[str]:
    """Ask what still runs to end, and record each end; return who is left after ``timeout_s``."""
    asked: set[str] = set()
    for _ in range(max(1, round(timeout_s / POLL_S))):
        with db.read() as tx:
            holding = {replica.id: replica for replica in _holding(tx, drivers)}
            names = {cluster.id: cluster.name for cluster in fleet.list_clusters(tx)}
        views = {name: ask(driver) for name, driver in drivers.items()}
        running = _running(views)
        for replica_id, (name, observation) in running.items():
            is_draining = drain and observation.run_state is RunState.DRAINING
            if replica_id not in asked and not is_draining:
                is_owned = drain and replica_id in holding
                asked |= _ask_to_end(drivers[name], replica_id, drain=is_owned)
        ended = [
            replica
            for replica in holding.values()
            if replica.id not in running and isinstance(views[names[replica.cluster_id]], Reachable)
        ]
        if ended:
            db.write(lambda tx, ended=ended: _record_stopped(tx, ended, clock.now_ms()))
        if not running and len(ended) == len(holding):
            return set()
        wait(POLL_S)
    with db.read() as tx:
        return {replica.id for replica in _holding(tx, drivers)}


def _running(views: Mapping[str, ClusterView]) -> dict[str, tuple[str, Observation]]:
    """Return what runs, by id, each with the name of its cluster."""
    return {
        observation.replica_id: (name, observation)
        for name, view in views.items()
        if isinstance(view, Reachable)
        for observation in view.observations
        if observation.run_state is not RunState.EXITED
    }


def _ask_to_end(driver: Driver, replica_id: str, *, drain: bool) -> set[str]:
    try:
        driver.stop(replica_id, drain=drain)
    except Exception:
        log.exception("%s: it could not be asked to end", replica_id)
        return set()
    return {replica_id}


def _record_stopped(tx: Transaction, ended: list[Replica], now_ms: int) -> None:
    for replica in ended:
        replicas.transition(
            tx, replica, ReplicaStatus.STOPPED, now_ms=now_ms, actor=ACTOR, message=WHY
        )


def _record_silence(tx: Transaction) -> None:
    """Say of each deployment whether it still serves; the next start serves it again."""
    holding = {replica.deployment_id for replica in replicas.list_holding(tx)}
    for deployment in deployments.list_live(tx):
        if deployment.id in holding or deployment.status is DeploymentStatus.STOPPED:
            continue
        is_unwanted = deployment.wanted_replicas == 0
        status = DeploymentStatus.STOPPED if is_unwanted else DeploymentStatus.PENDING
        new = replace(
            deployment, status=status, ready_replicas=0, reason=None if is_unwanted else WHY
        )
        if new != deployment:
            deployments.update(tx, deployment, new)


def _holding(tx: Transaction, drivers: Mapping[str, Driver]) -> list[Replica]:
    """Return the replicas that hold capacity on clusters that ``drivers`` reach."""
    known = {cluster.id for cluster in fleet.list_clusters(tx) if cluster.name in drivers}
    return [replica for replica in replicas.list_holding(tx) if replica.cluster_id in known]
