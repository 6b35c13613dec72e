"""Values for tests of planning and reconciling: small, explicit, the same each time."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tramontane.domain import ids
from tramontane.domain.catalog import Capabilities, Model, ModelVersion, WeightsFormat
from tramontane.domain.deployment import Deployment, DeploymentSpec
from tramontane.domain.fleet import Cluster, ClusterStatus, Device, Node, NodeStatus
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.observation import (
    ClusterView,
    NodeObservation,
    Observation,
    Reachable,
    RunState,
)
from tramontane.domain.planning.snapshot import ClusterState, Need, ReplicaSnapshot
from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.resources import Resources
from tramontane.domain.tenancy import Organization, Project
from tramontane.store import catalog, tenancy
from tramontane.store.db import Database

NOW_MS = 1_700_000_000_000
GIB = 1 << 30
SMALL = Resources(1_000, 1 * GIB)
NODE = Resources(8_000, 16 * GIB)


def typed_id(prefix: str, number: int) -> str:
    """Return the same well-formed id for the same number."""
    # An id keeps 100 of the 104 bits, so the lowest byte is left alone.
    return ids.make_id(prefix, (number << 8).to_bytes(13, "big"))


class CountingIds:
    """Ids in a fixed order, for tests and simulations that must replay."""

    def __init__(self, first: int = 1) -> None:
        self._next = first

    def new(self, prefix: str) -> str:
        self._next += 1
        return typed_id(prefix, self._next)

    def entropy(self, size_bytes: int) -> bytes:
        self._next += 1
        return self._next.to_bytes(size_bytes, "big")


def launch_of(need: Resources = SMALL, devices: tuple[int, ...] = ()) -> LaunchSpec:
    return LaunchSpec(
        argv=("engine", "--port", "{port}"),
        env=(("TRAMONTANE_REPLICA_SECRET", "very-secret"),),
        resources=need,
        health_path="/health",
        load=None,
        ready_timeout_s=60,
        drain_timeout_s=30,
        device_indexes=devices,
    )


def deployment_of(number: int = 1, *, replicas: int = 1, **fields: Any) -> Deployment:
    spec = DeploymentSpec("mdv_x", "tiny", replicas, context_length=2_048, parallel=1)
    made = Deployment(
        id=typed_id(ids.DEPLOYMENT, number),
        project_id=typed_id(ids.PROJECT, 1),
        name=f"chat-{number}",
        spec=spec,
        generation=1,
        created_at_ms=NOW_MS - 1_000_000 + number,
        observed_generation=1,
    )
    return replace(made, **fields)


def replica_of(
    number: int,
    deployment: Deployment,
    status: ReplicaStatus = ReplicaStatus.READY,
    *,
    node: int = 1,
    need: Resources = SMALL,
    devices: tuple[int, ...] = (),
    **fields: Any,
) -> Replica:
    was_ready = status in {ReplicaStatus.READY, ReplicaStatus.STOPPING, ReplicaStatus.UNKNOWN}
    made = Replica(
        id=typed_id(ids.REPLICA, number),
        deployment_id=deployment.id,
        project_id=deployment.project_id,
        generation=deployment.generation,
        status=status,
        cluster_id=typed_id(ids.CLUSTER, 1),
        node_id=typed_id(ids.NODE, node),
        launch=launch_of(need, devices),
        secret="very-secret",
        created_at_ms=NOW_MS - 500_000 + number,
        changed_at_ms=NOW_MS - 400_000,
        address=f"127.0.0.1:{20_000 + number}" if was_ready else None,
        ready_at_ms=NOW_MS - 400_000 if was_ready else None,
    )
    return replace(made, **fields)


def node_of(
    number: int = 1,
    capacity: Resources = NODE,
    status: NodeStatus = NodeStatus.READY,
    devices: int = 0,
) -> Node:
    return Node(
        id=typed_id(ids.NODE, number),
        cluster_id=typed_id(ids.CLUSTER, 1),
        name=f"node-{number}",
        status=status,
        capacity=capacity,
        devices=tuple(Device(index, "gpu", 80 * GIB) for index in range(devices)),
        last_seen_at_ms=NOW_MS,
    )


def seen(
    replica: Replica, state: RunState = RunState.READY, reason: str | None = None
) -> Observation:
    number = {typed_id(ids.NODE, n): n for n in range(1, 20)}[replica.node_id]
    address = replica.address or f"127.0.0.1:{30_000 + number}"
    return Observation(
        replica.id,
        f"node-{number}",
        state,
        address=address if state in {RunState.READY, RunState.DRAINING} else None,
        reason=reason,
    )


def state_of(
    nodes: tuple[Node, ...], observations: tuple[Observation, ...] = (), view: Any = None
) -> ClusterState:
    cluster = Cluster(typed_id(ids.CLUSTER, 1), "local", "fake", ClusterStatus.READY, NOW_MS)
    reachable: ClusterView = Reachable(
        tuple(NodeObservation(n.name, n.capacity, n.devices) for n in nodes), observations
    )
    return ClusterState(cluster, nodes, view or reachable)


def snapshot_of(
    deployments: tuple[Deployment, ...],
    replicas: tuple[Replica, ...] = (),
    *,
    nodes: tuple[Node, ...] | None = None,
    observations: tuple[Observation, ...] | None = None,
    view: ClusterView | None = None,
    need: Resources = SMALL,
    routed: frozenset[str] = frozenset(),
    now_ms: int = NOW_MS,
) -> ReplicaSnapshot:
    """Return a snapshot of one cluster; by default it lists what the rows say is live."""
    if observations is None:
        states = {
            ReplicaStatus.STARTING: RunState.STARTING,
            ReplicaStatus.READY: RunState.READY,
            ReplicaStatus.STOPPING: RunState.READY,
            ReplicaStatus.UNKNOWN: RunState.READY,
        }
        observations = tuple(seen(r, states[r.status]) for r in replicas if r.status in states)
    nodes = (node_of(1), node_of(2)) if nodes is None else nodes
    return ReplicaSnapshot(
        now_ms=now_ms,
        deployments=deployments,
        needs=tuple(Need(d.id, need) for d in deployments),
        replicas=replicas,
        clusters=(state_of(nodes, observations, view),),
        routed_replica_ids=routed,
    )


class TinyRecipe:
    """An engine recipe for tests: one gibibyte and a core, unless the spec says otherwise."""

    name = "tiny"

    def check(
        self, spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion] = ()
    ) -> Refusal | None:
        if ("refuse", "yes") in spec.engine_options:
            return Refusal(Code.UNSUPPORTED_BY_ENGINE, "tiny refuses this option")
        return None

    def capabilities(self, spec: DeploymentSpec, version: ModelVersion) -> Capabilities:
        return version.capabilities

    def resources(
        self, spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion] = ()
    ) -> Resources:
        return Resources(
            spec.cpu_millicores or SMALL.cpu_millicores,
            spec.memory_bytes or SMALL.memory_bytes,
            spec.devices,
        )

    def launch(
        self,
        spec: DeploymentSpec,
        version: ModelVersion,
        *,
        served_name: str,
        secret: str,
        device_indexes: tuple[int, ...],
        adapters: Sequence[ModelVersion] = (),
    ) -> LaunchSpec:
        made = launch_of(self.resources(spec, version), device_indexes)
        env = (("TRAMONTANE_REPLICA_SECRET", secret),)
        return replace(made, env=env, adapters=spec.adapters)


RECIPES = {"tiny": TinyRecipe()}
ORGANIZATION = Organization(typed_id(ids.ORGANIZATION, 1), "acme", NOW_MS)
PROJECT = Project(typed_id(ids.PROJECT, 1), ORGANIZATION.id, "default", NOW_MS)
MODEL = Model(typed_id(ids.MODEL, 1), "demo", NOW_MS)
VERSION = ModelVersion(
    id=typed_id(ids.MODEL_VERSION, 1),
    model_id=MODEL.id,
    number=1,
    format=WeightsFormat.GGUF,
    path="demo.gguf",
    digest="sha256:00",
    size_bytes=1_000,
    architecture="llama",
    context_length=2_048,
    precision="F16",
    licence="apache-2.0",
    created_at_ms=NOW_MS,
)


def plant(db: Database) -> None:
    """Insert what a deployment refers to: an organization, a project, a model and a version."""

    def insert(tx: Any) -> None:
        tenancy.insert_organization(tx, ORGANIZATION)
        tenancy.insert_project(tx, PROJECT)
        catalog.insert_model(tx, MODEL)
        catalog.insert_model_version(tx, VERSION)

    db.write(insert)


def stored_deployment(number: int = 1, *, replicas: int = 1, **fields: Any) -> Deployment:
    """Return a deployment that refers to what `plant` inserted, not yet observed."""
    made = deployment_of(number, replicas=replicas, observed_generation=0)
    made = replace(made, spec=replace(made.spec, model_version_id=VERSION.id))
    return replace(made, **fields)
