"""The input of replica planning: everything a plan depends on, as one frozen value.

A snapshot can be written to a file and planned again elsewhere (``tramontane plan --snapshot``),
so its JSON form holds no secret: replica secrets and environment values are redacted, and
nothing that planning reads is.
"""

import json
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from tramontane.domain.deployment import Deployment
from tramontane.domain.fleet import Cluster, Node
from tramontane.domain.observation import ClusterView
from tramontane.domain.planning.placement import Holding
from tramontane.domain.planning.plain import NotPlainError, from_plain, to_plain
from tramontane.domain.replica import Replica
from tramontane.domain.resources import Resources
from tramontane.domain.strict_json import StrictJsonError, loads

REDACTED: Final = "[redacted]"
SNAPSHOT_FORMAT: Final = 3


@dataclass(frozen=True, slots=True)
class ClusterState:
    """A cluster, its nodes as merged with the view, and what its driver just said."""

    cluster: Cluster
    nodes: tuple[Node, ...]
    view: ClusterView


@dataclass(frozen=True, slots=True)
class Need:
    """What one more replica of a deployment needs, or why its engine's recipe refuses it."""

    deployment_id: str
    resources: Resources | None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class KeptRack:
    """A rack of a cluster, by name, that only deployments of ``project_ids`` may use."""

    cluster: str
    rack: str
    project_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplicaSnapshot:
    """Desired and observed state at ``now_ms``.

    ``deployments`` are the live ones. ``replicas`` are all that hold capacity, all that a driver
    lists, and the ended ones of deployments whose last start failed. ``routed_replica_ids`` are
    those that the published route table names. ``start_errors`` are pairs of a replica's id and
    what its driver said when its start was last tried in vain. ``holdings`` are those of attempts
    at jobs, which share the nodes with replicas. ``kept_racks`` are reserved for someone.
    """

    now_ms: int
    deployments: tuple[Deployment, ...]
    needs: tuple[Need, ...]
    replicas: tuple[Replica, ...]
    clusters: tuple[ClusterState, ...]
    routed_replica_ids: frozenset[str] = frozenset()
    start_errors: tuple[tuple[str, str], ...] = ()
    holdings: tuple[Holding, ...] = ()
    kept_racks: tuple[KeptRack, ...] = ()
    format: int = SNAPSHOT_FORMAT


class UnreadableSnapshotError(ValueError):
    """A text is not a snapshot that this version can plan; the message says what is wrong."""


def redact(snapshot: ReplicaSnapshot) -> ReplicaSnapshot:
    """Return ``snapshot`` without secrets; its plan is the same."""
    return replace(snapshot, replicas=tuple(_redact_replica(r) for r in snapshot.replicas))


def to_json(snapshot: ReplicaSnapshot) -> str:
    """Return the snapshot as JSON text without secrets."""
    return json.dumps(to_plain(redact(snapshot)), indent=1, sort_keys=True)


def from_json(text: str) -> ReplicaSnapshot:
    """Return the snapshot in ``text``; `UnreadableSnapshotError` says what is wrong with it.

    The API's answer, ``{"snapshot": ..., "plan": ...}``, is taken too.
    """
    try:
        data: Any = loads(text.encode())
    except StrictJsonError as error:
        raise UnreadableSnapshotError(str(error)) from error
    if isinstance(data, dict) and "snapshot" in data and "plan" in data:
        data = cast("dict[str, Any]", data)["snapshot"]
    return from_plain_snapshot(cast("object", data))


def from_plain_snapshot(data: object) -> ReplicaSnapshot:
    """Return the snapshot in plain ``data``, as `from_json` does."""
    try:
        snapshot = from_plain(ReplicaSnapshot, data)
    except NotPlainError as error:
        raise UnreadableSnapshotError(str(error)) from error
    if snapshot.format != SNAPSHOT_FORMAT:
        msg = f"its format is {snapshot.format}; expected {SNAPSHOT_FORMAT}"
        raise UnreadableSnapshotError(msg)
    return snapshot


def _redact_replica(replica: Replica) -> Replica:
    env = tuple((name, REDACTED) for name, _ in replica.launch.env)
    return replace(replica, secret=REDACTED, launch=replace(replica.launch, env=env))
