"""Plain values to store: each with ids made from a number, so that a test reads well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tramontane.domain import ids
from tramontane.domain.catalog import Model, ModelVersion, WeightsFormat
from tramontane.domain.deployment import Deployment, DeploymentSpec, DeploymentStatus
from tramontane.domain.event import Event
from tramontane.domain.fleet import Cluster, ClusterStatus, Device, Node, NodeStatus
from tramontane.domain.launch import LaunchSpec, LoadProbe
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.resources import Resources
from tramontane.domain.routing import Route, RouteKey, RouteReplica, RouteTable
from tramontane.domain.tenancy import ApiKey, Organization, Project, Role
from tramontane.domain.usage import Outcome, TokenSource, UsageEvent
from tramontane.store import deployments, fleet, tenancy
from tramontane.store.db import Database, Transaction

NOW_MS = 1_700_000_000_000
GIB = 1 << 30


def make_id(prefix: str, number: int) -> str:
    # An id keeps the first 100 of 104 bits, so the number must not be in the last ones.
    return ids.make_id(prefix, (number << 8).to_bytes(ids.ENTROPY_BYTES, "big"))


ORG = make_id("org", 1)
OTHER_ORG = make_id("org", 2)
PROJECT = make_id("prj", 1)
OTHER_PROJECT = make_id("prj", 2)
CLUSTER = make_id("clu", 1)
NODE = make_id("nod", 1)
DEPLOYMENT = make_id("dep", 1)
OTHER_DEPLOYMENT = make_id("dep", 2)


def organization(number: int, **changes: Any) -> Organization:
    fields = {"name": f"org-{number}", "created_at_ms": NOW_MS + number} | changes
    return Organization(id=make_id("org", number), **fields)


def project(number: int, **changes: Any) -> Project:
    fields = {
        "organization_id": ORG,
        "name": f"project-{number}",
        "created_at_ms": NOW_MS + number,
    } | changes
    return Project(id=make_id("prj", number), **fields)


def api_key(number: int, **changes: Any) -> ApiKey:
    fields = {
        "project_id": PROJECT,
        "name": f"key-{number}",
        "role": Role.MEMBER,
        "key_hash": f"{number:064x}",
        "redacted": "tmt_ab12...ef34",
        "created_at_ms": NOW_MS + number,
    } | changes
    return ApiKey(id=make_id("key", number), **fields)


def model(number: int, **changes: Any) -> Model:
    fields = {"name": f"model-{number}", "created_at_ms": NOW_MS + number} | changes
    return Model(id=make_id("mdl", number), **fields)


def model_version(number: int, **changes: Any) -> ModelVersion:
    fields = {
        "model_id": make_id("mdl", 1),
        "number": number,
        "format": WeightsFormat.GGUF,
        "path": "/models/demo.gguf",
        "digest": f"sha256:{number:064x}",
        "size_bytes": 5 * GIB,
        "architecture": "llama",
        "context_length": 4096,
        "precision": "Q8_0",
        "licence": "apache-2.0",
        "created_at_ms": NOW_MS + number,
        "parameters": 7_000_000_000,
    } | changes
    return ModelVersion(id=make_id("mdv", number), **fields)


def cluster(number: int, **changes: Any) -> Cluster:
    fields = {
        "name": f"cluster-{number}",
        "driver": "process",
        "status": ClusterStatus.READY,
        "created_at_ms": NOW_MS + number,
    } | changes
    return Cluster(id=make_id("clu", number), **fields)


def node(number: int, **changes: Any) -> Node:
    fields = {
        "cluster_id": CLUSTER,
        "name": f"node-{number}",
        "status": NodeStatus.READY,
        "capacity": Resources(16_000, 64 * GIB, 2),
        "devices": (Device(0, "H200", 140 * GIB), Device(1, "H200", 140 * GIB)),
        "last_seen_at_ms": NOW_MS,
    } | changes
    return Node(id=make_id("nod", number), **fields)


def spec(**changes: Any) -> DeploymentSpec:
    fields = {
        "model_version_id": make_id("mdv", 1),
        "engine": "llamacpp",
        "replicas": 2,
        "context_length": 4096,
        "parallel": 4,
        "engine_options": (("threads", "2"),),
    } | changes
    return DeploymentSpec(**fields)


def deployment(number: int, **changes: Any) -> Deployment:
    fields = {
        "project_id": PROJECT,
        "name": f"deployment-{number}",
        "spec": spec(),
        "generation": 1,
        "created_at_ms": NOW_MS + number,
    } | changes
    return Deployment(id=make_id("dep", number), **fields)


def gone(seen: Deployment) -> Deployment:
    """Return the deployment deleted and fully stopped."""
    return replace(seen, deleted_at_ms=NOW_MS, status=DeploymentStatus.STOPPED)


LAUNCH = LaunchSpec(
    argv=("{python}", "-m", "engine", "--port", "{port}"),
    env=(("TRAMONTANE_REPLICA_SECRET", "s3cret"),),
    resources=Resources(2_000, 4 * GIB, 1),
    health_path="/health",
    load=LoadProbe("/metrics", "running", "waiting"),
    ready_timeout_s=60,
    drain_timeout_s=30,
    device_indexes=(0,),
)


def replica(number: int, **changes: Any) -> Replica:
    fields = {
        "deployment_id": DEPLOYMENT,
        "project_id": PROJECT,
        "generation": 1,
        "status": ReplicaStatus.PENDING,
        "cluster_id": CLUSTER,
        "node_id": NODE,
        "launch": LAUNCH,
        "secret": "s3cret",
        "created_at_ms": NOW_MS + number,
        "changed_at_ms": NOW_MS + number,
    } | changes
    return Replica(id=make_id("rep", number), **fields)


def event(number: int, **changes: Any) -> Event:
    fields = {
        "at_ms": NOW_MS + number,
        "subject_id": DEPLOYMENT,
        "project_id": PROJECT,
        "kind": "deployment.scaled",
        "message": f"scaled to {number}",
        "actor": make_id("key", 1),
        "data": {"replicas": number, "because": "asked", "limit": None},
    } | changes
    return Event(**fields)


def route_table(*routes: Route, **changes: Any) -> RouteTable:
    fields = {
        "revision": 0,
        "hmac_key": "ab" * 32,
        "keys": {
            "ff" * 32: RouteKey(make_id("key", 1), PROJECT, ORG, Role.MEMBER, NOW_MS),
            "00" * 32: RouteKey(make_id("key", 2), PROJECT, ORG, Role.OPERATOR),
        },
        "routes": routes,
        "probe_deployment_id": DEPLOYMENT,
    } | changes
    return RouteTable(**fields)


def route(number: int, **changes: Any) -> Route:
    fields = {
        "project_id": PROJECT,
        "model": f"deployment-{number}",
        "deployment_id": make_id("dep", number),
        "upstream_model": f"deployment-{number}",
        "engine": "llamacpp",
        "context_length": 4096,
        "created_at_ms": NOW_MS,
        "replicas": (RouteReplica(make_id("rep", number), "127.0.0.1:4000", "s3cret"),),
    } | changes
    return Route(**fields)


def usage_event(number: int, **changes: Any) -> UsageEvent:
    fields = {
        "request_id": make_id("req", number),
        "organization_id": ORG,
        "project_id": PROJECT,
        "api_key_id": make_id("key", 1),
        "deployment_id": DEPLOYMENT,
        "replica_id": make_id("rep", 1),
        "model": "deployment-1",
        "endpoint": "/v1/chat/completions",
        "outcome": Outcome.COMPLETED,
        "status": 200,
        "is_stream": number % 2 == 0,
        "prompt_tokens": 10 + number % 7,
        "completion_tokens": 20 + number % 5,
        "cached_tokens": number % 3,
        "token_source": TokenSource.ENGINE,
        "started_at_ms": NOW_MS + number,
        "duration_ms": 150,
        "first_byte_ms": 12,
        "gateway": "gw",
    } | changes
    return UsageEvent(id=make_id("evt", number), **fields)


def usage_events(numbers: Sequence[int]) -> list[UsageEvent]:
    return [usage_event(number) for number in numbers]


def populate(database: Database) -> None:
    """Store what the other values refer to: two tenants, a node, a deployment of each tenant."""

    def write(tx: Transaction) -> None:
        tenancy.insert_organization(tx, organization(1))
        tenancy.insert_organization(tx, organization(2))
        tenancy.insert_project(tx, project(1))
        tenancy.insert_project(tx, project(2, organization_id=OTHER_ORG))
        fleet.upsert_cluster(tx, cluster(1))
        fleet.upsert_node(tx, node(1))
        deployments.insert(tx, deployment(1))
        deployments.insert(tx, deployment(2, project_id=OTHER_PROJECT))

    database.write(write)
