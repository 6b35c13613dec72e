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
class Site:
    """Where machines stand, as the operator says: a place, and the country whose law it is in."""

    name: str | None = None
    country: str | None = None


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
    """One machine. ``capacity`` is what replicas may use of it in all.

    ``rack`` names the nodes with the fastest network between them; None where the cluster does
    not tell. ``site`` and ``country`` are those of its cluster. ``reason`` says why it is drained
    or lost. ``wanted_drain_reason`` is set while it is to be drained, and says why;
    ``is_resume_wanted`` while it is to start things again. Without either, whoever drained it on
    its cluster decides. Failures before ``counted_from_ms`` are no longer held against it.
    """

    id: str
    cluster_id: str
    name: str
    status: NodeStatus
    capacity: Resources
    devices: tuple[Device, ...]
    last_seen_at_ms: int
    rack: str | None = None
    site: str | None = None
    country: str | None = None
    reason: str | None = None
    wanted_drain_reason: str | None = None
    is_resume_wanted: bool = False
    counted_from_ms: int = 0
    revision: int = 1
