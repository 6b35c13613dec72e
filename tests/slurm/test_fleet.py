"""The replica reconciler on a real cluster: several nodes, a lost peer, the end of a walltime."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.support.planning import PROJECT, VERSION, TinyRecipe, plant, replica_of
from tests.support.slurm_driver import SlurmWorld, open_world
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster
from tramontane.domain.catalog import ModelVersion
from tramontane.domain.deployment import Deployment, DeploymentSpec
from tramontane.domain.launch import HEAD, RANK, LaunchSpec
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.resources import Resources
from tramontane.reconcilers.health import HealthReconciler
from tramontane.reconcilers.replicas import ReplicaReconciler
from tramontane.reconcilers.routes import RouteReconciler
from tramontane.runtime.clock import SystemClock, SystemIds
from tramontane.store import deployments, fleet, replicas
from tramontane.store.db import Database, Transaction

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

GANG = Resources(1_000, 64 << 20, 4)


class Recipe(TinyRecipe):
    """Tiny engines as the nodes of the cluster can run them."""

    def __init__(self, world: SlurmWorld, need: Resources) -> None:
        self._world, self._need = world, need

    def resources(
        self, spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion] = ()
    ) -> Resources:
        return self._need

    def launch(self, spec: DeploymentSpec, version: ModelVersion, **given: Any) -> LaunchSpec:
        wide = {"nodes": spec.nodes, "worker_argv": ("sh", "-c", "exec sleep 600", HEAD, RANK)}
        made = self._world.tiny(**(wide if spec.nodes > 1 else {}))
        indexes = given["device_indexes"]
        return replace(made, resources=self._need, device_indexes=indexes, drain_timeout_s=5)


class Steered:
    """One deployment of tiny engines on the cluster, and the reconcilers that watch it."""

    def __init__(self, world: SlurmWorld, db: Database, need: Resources, nodes: int) -> None:
        self.world, self.db = world, db
        plant(db)
        clock, ids = SystemClock(), SystemIds()
        recipes = {"tiny": Recipe(world, need)}
        self.reconciler = ReplicaReconciler(db, {"alps": world.driver}, recipes, clock, ids)
        self.routes = RouteReconciler(db, clock, "00")
        spec = DeploymentSpec(VERSION.id, "tiny", 1, 2_048, 1, cluster="alps", nodes=nodes)
        self.wanted = Deployment(ids.new("dep"), PROJECT.id, "chat", spec, 1, clock.now_ms())
        db.write(lambda tx: deployments.insert(tx, self.wanted))

    def replicas(self) -> list[Replica]:
        with self.db.read() as tx:
            return replicas.list_of(tx, self.wanted.id)

    def ready(self) -> list[Replica]:
        return [it for it in self.replicas() if it.status is ReplicaStatus.READY]

    def names(self, replica: Replica) -> list[str]:
        with self.db.read() as tx:
            known = {node.id: node for node in fleet.list_nodes(tx)}
        return [known[node_id].name for node_id in replica.node_ids]

    def until(self, look: Callable[[], Any], what: str, limit_s: float = 40) -> Any:
        def passed() -> Any:
            self.reconciler.step()
            self.routes.step()
            time.sleep(0.1)
            return look()

        return until(passed, what, limit_s)


@pytest.fixture
def world(slurm: SlurmCluster) -> Iterator[SlurmWorld]:
    with open_world(slurm) as world:
        yield world


def test_a_replica_on_two_nodes_of_a_rack_is_lost_with_its_peer_and_placed_anew(
    slurm: SlurmCluster, world: SlurmWorld, sqlite_database: Database
) -> None:
    steered = Steered(world, sqlite_database, GANG, nodes=2)
    (first,) = steered.until(steered.ready, "the replica on two nodes")
    names = steered.names(first)
    assert len(names) == 2
    assert names[0][:2] == names[1][:2], "of one rack"
    assert first.launch.tenancy is not None
    try:
        slurm.lose_node(names[1])

        def anew() -> list[Replica]:
            return [it for it in steered.ready() if it.id != first.id]

        (second,) = steered.until(anew, "another one", 60)
        assert not set(steered.names(second)) & {names[1]}
        lost = next(it for it in steered.replicas() if it.id == first.id)
        assert not lost.holds_capacity
    finally:
        slurm.heal()


def test_a_node_on_which_things_keep_failing_is_drained_in_slurm_with_the_evidence(
    slurm: SlurmCluster, world: SlurmWorld, sqlite_database: Database
) -> None:
    steered = Steered(world, sqlite_database, Resources(1_000, 64 << 20), nodes=1)
    steered.until(steered.ready, "a replica, and the nodes")
    clock = SystemClock()
    other = replace(steered.wanted, id=SystemIds().new("dep"), name="other")
    now_ms = clock.now_ms()

    def fail(tx: Transaction) -> list[Replica]:
        deployments.insert(tx, other)
        bad = next(node for node in fleet.list_nodes(tx) if node.name == "r2n2")
        made = [
            replica_of(
                number,
                owner,
                ReplicaStatus.FAILED,
                cluster_id=bad.cluster_id,
                node_id=bad.id,
                reason="engine exited with status 1: 'out of memory'; $(reboot)",
                changed_at_ms=now_ms + number * 60_000,
            )
            for number, owner in enumerate((steered.wanted, other, other), 1)
        ]
        for replica in made:
            replicas.insert(tx, replica)
        return made

    failed = sqlite_database.write(fail)
    health = HealthReconciler(
        sqlite_database, {"alps": world.driver}, clock, failures_max=len(failed)
    )
    health.step()
    try:
        shown = slurm.run("scontrol", "--oneliner", "show", "node", "r2n2")
        assert "DRAIN" in shown
        assert f"Reason=drained by Tramontane: the last {len(failed)} on it failed" in shown
        for replica in failed:
            assert f"{replica.id}: engine exited with status 1" in shown
        others = slurm.run("sinfo", "-h", "--states=drain", "--format=%N").split()
        assert others == ["r2n2"]
    finally:
        world.driver.set_drained("r2n2", None)


def test_before_its_walltime_ends_a_replica_has_a_successor(
    slurm: SlurmCluster, sqlite_database: Database
) -> None:
    with open_world(slurm, walltime_s=60) as world:
        steered = Steered(world, sqlite_database, Resources(1_000, 64 << 20), nodes=1)
        (first,) = steered.until(steered.ready, "the first")
        lowest: list[int] = []

        def replaced() -> bool:
            lowest.append(len(steered.ready()))
            return first.id not in {it.id for it in steered.ready()}

        steered.until(replaced, "its successor", 60)
        assert min(lowest) >= 1
        ended = next(it for it in steered.replicas() if it.id == first.id)
        assert ended.reason == "its time on the cluster ends soon"
