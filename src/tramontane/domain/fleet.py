"""The machines: clusters, their nodes and the devices on them, as last seen by a driver."""

from dataclasses import dataclass
from enum import StrEnum

from tramontane.domain.resources import Resources


class ClusterStatus(StrEnum):
    """``unknown`` means that the driver got no answer; nothing is concluded from it."""

    READY = "ready"
    UNKNOWN = "unknown"


class NodeStatus(StrEnum):
    """``lost`` means that the cluster itself says that the node is gone."""

    READY = "ready"
    DRAINED = "drained"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Device:
    """An accelerator of a node; ``index`` is what the engine is given to see it."""

    index: int
    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """A set of nodes behind one driver."""

    id: str
    name: str
    driver: str
    status: ClusterStatus
    created_at_ms: int
    reason: str | None = None
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Node:
    """One machine. ``capacity`` is what replicas may use of it in all."""

    id: str
    cluster_id: str
    name: str
    status: NodeStatus
    capacity: Resources
    devices: tuple[Device, ...]
    last_seen_at_ms: int
    revision: int = 1
