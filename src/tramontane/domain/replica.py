"""Replicas: one running engine each, and the state machine of its life.

A replica id is started at most once ever: a restart is a new replica. That makes every start
idempotent by id, and every story of a replica end.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tramontane.domain.launch import LaunchSpec


class ReplicaStatus(StrEnum):
    """Status words, lower case as everywhere."""

    PENDING = "pending"  # placed and recorded; the driver has not confirmed the start yet
    STARTING = "starting"  # the driver accepted it
    READY = "ready"  # it serves
    STOPPING = "stopping"  # routes no longer name it; it drains, then ends
    STOPPED = "stopped"  # it ended because we asked
    FAILED = "failed"  # it ended by itself
    UNKNOWN = "unknown"  # its cluster did not answer; it keeps its place, device and route


TRANSITIONS: Final[dict[ReplicaStatus, frozenset[ReplicaStatus]]] = {
    ReplicaStatus.PENDING: frozenset(
        {
            ReplicaStatus.STARTING,
            ReplicaStatus.STOPPING,
            ReplicaStatus.FAILED,
            ReplicaStatus.UNKNOWN,
        }
    ),
    ReplicaStatus.STARTING: frozenset(
        {
            ReplicaStatus.READY,
            ReplicaStatus.STOPPING,
            ReplicaStatus.FAILED,
            ReplicaStatus.UNKNOWN,
        }
    ),
    ReplicaStatus.READY: frozenset(
        {ReplicaStatus.STOPPING, ReplicaStatus.FAILED, ReplicaStatus.UNKNOWN}
    ),
    ReplicaStatus.UNKNOWN: frozenset(
        {
            ReplicaStatus.PENDING,
            ReplicaStatus.STARTING,
            ReplicaStatus.READY,
            ReplicaStatus.STOPPING,
            ReplicaStatus.FAILED,
        }
    ),
    ReplicaStatus.STOPPING: frozenset({ReplicaStatus.STOPPED}),
    ReplicaStatus.STOPPED: frozenset(),
    ReplicaStatus.FAILED: frozenset(),
}

# These hold their node's capacity and devices: freed only when the driver says that they ended.
HOLDS_CAPACITY: Final = frozenset(ReplicaStatus) - {ReplicaStatus.STOPPED, ReplicaStatus.FAILED}


class IllegalTransitionError(AssertionError):
    """A bug: a replica was asked to go where the table does not lead."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine process: where it was placed, what was started and how it is.

    ``launch`` is fixed when the replica is placed. ``peer_node_ids`` are the further nodes of one
    on several; it lives as long as all of them do. ``secret`` is what the gateway shows to the
    engine. ``address`` is ``host:port`` once it is ready. ``generation`` is the deployment's at
    the time of placement.
    """

    id: str
    deployment_id: str
    project_id: str
    generation: int
    status: ReplicaStatus
    cluster_id: str
    node_id: str
    launch: LaunchSpec
    secret: str
    created_at_ms: int
    changed_at_ms: int
    address: str | None = None
    ready_at_ms: int | None = None
    reason: str | None = None
    peer_node_ids: tuple[str, ...] = ()
    revision: int = 1

    @property
    def holds_capacity(self) -> bool:
        """Tell whether the replica still occupies its node."""
        return self.status in HOLDS_CAPACITY

    @property
    def node_ids(self) -> tuple[str, ...]:
        """Return every node that it runs on, the first one first."""
        return (self.node_id, *self.peer_node_ids)

    @property
    def is_routable(self) -> bool:
        """Tell whether requests may be sent to it: it is ready, or was and nobody said it ended."""
        was_ready = self.ready_at_ms is not None and self.address is not None
        return was_ready and self.status in {ReplicaStatus.READY, ReplicaStatus.UNKNOWN}


def check_transition(replica: Replica, to: ReplicaStatus, story: tuple[str, ...] = ()) -> None:
    """Raise `IllegalTransitionError`, with the replica's story, unless the table allows ``to``."""
    if to not in TRANSITIONS[replica.status]:
        told = "".join(f"\n  {line}" for line in story)
        msg = f"{replica.id} cannot go from {replica.status} to {to}{told}"
        raise IllegalTransitionError(msg)
