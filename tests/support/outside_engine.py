"""Puts an engine that a test runs itself into a system: as a replica on a cluster out of reach.

No driver is configured for that cluster, so the control plane knows nothing new about the
replica and, as unknown is not gone, keeps its route. Everything else on the way is the real thing.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import recording_engine
from tests.support.system import System
from tests.support.waiting import until
from tramontane.domain import ids
from tramontane.domain.catalog import Model, ModelVersion, WeightsFormat
from tramontane.domain.deployment import Deployment, DeploymentSpec, DeploymentStatus
from tramontane.domain.fleet import Cluster, ClusterStatus, Node, NodeStatus
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.resources import Resources
from tramontane.runtime.clock import SystemClock, SystemIds
from tramontane.store import catalog, deployments, fleet, replicas, tenancy
from tramontane.store.db import Database, Transaction


@dataclass(frozen=True)
class OutsideEngine:
    """A recording engine and the model name that leads to it."""

    model: str
    log: Path

    def request_ids(self) -> list[str]:
        """Return the id of every request that reached it, in order."""
        return [line.split()[0] for line in self.log.read_text().splitlines()]


@contextlib.contextmanager
def outside_engine(system: System, folder: Path, name: str = "outside") -> Iterator[OutsideEngine]:
    """Run a recording engine and route the model ``name`` of the system's project to it."""
    log, port_file = folder / "requests.log", folder / "port"
    log.touch()
    script = Path(recording_engine.__file__)
    command = [sys.executable, str(script), "--log", str(log), "--port-file", str(port_file)]
    with subprocess.Popen(command) as process:
        try:
            until(port_file.exists, "the recording engine")
            _record(system, name, f"127.0.0.1:{port_file.read_text()}")
            until(lambda: system.chat(model=name).status_code == 200, "the route to the engine", 30)
            yield OutsideEngine(name, log)
        finally:
            process.kill()


def _record(system: System, name: str, address: str) -> None:
    database = Database(f"sqlite:///{system.home / 'tramontane.sqlite'}")
    try:
        database.write(lambda tx: _insert(tx, system.credentials["project"], name, address))
    finally:
        database.close()


def _insert(tx: Transaction, project_ref: str, name: str, address: str) -> None:
    new, now_ms = SystemIds().new, SystemClock().now_ms()
    project = tenancy.get_project(tx, project_ref)
    assert project is not None
    model = Model(new(ids.MODEL), name, now_ms)
    version = ModelVersion(
        id=new(ids.MODEL_VERSION),
        model_id=model.id,
        number=1,
        format=WeightsFormat.GGUF,
        path="/nowhere.gguf",
        digest="sha256:" + "0" * 64,
        size_bytes=1,
        architecture="llama",
        context_length=2048,
        precision="Q8_0",
        licence="apache-2.0",
        created_at_ms=now_ms,
    )
    cluster = Cluster(new(ids.CLUSTER), "outside", "none", ClusterStatus.UNKNOWN, now_ms)
    room = Resources(cpu_millicores=1000, memory_bytes=1 << 30)
    node = Node(new(ids.NODE), cluster.id, "far", NodeStatus.UNKNOWN, room, (), now_ms)
    spec = DeploymentSpec(version.id, "llamacpp", replicas=1, context_length=2048, parallel=64)
    deployment = Deployment(
        id=new(ids.DEPLOYMENT),
        project_id=project.id,
        name=name,
        spec=spec,
        generation=1,
        created_at_ms=now_ms,
        observed_generation=1,
        status=DeploymentStatus.READY,
        ready_replicas=1,
    )
    launch = LaunchSpec(
        argv=("{python}",),
        env=(),
        resources=Resources(cpu_millicores=100, memory_bytes=1 << 20),
        health_path="/health",
        load=None,
        ready_timeout_s=60,
        drain_timeout_s=5,
    )
    replica = Replica(
        id=new(ids.REPLICA),
        deployment_id=deployment.id,
        project_id=project.id,
        generation=1,
        status=ReplicaStatus.READY,
        cluster_id=cluster.id,
        node_id=node.id,
        launch=launch,
        secret="outside-secret",
        created_at_ms=now_ms,
        changed_at_ms=now_ms,
        address=address,
        ready_at_ms=now_ms,
    )
    catalog.insert_model(tx, model)
    catalog.insert_model_version(tx, version)
    fleet.upsert_cluster(tx, cluster)
    fleet.upsert_node(tx, node)
    deployments.insert(tx, deployment)
    replicas.insert(tx, replica)
