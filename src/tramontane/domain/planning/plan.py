"""What a reconciler decided: explicit actions that leave whoever carries them out no choice.

`Place`, `Transition` and `SetStatus` are written to the store, those of one deployment in one
transaction. `Ensure`, `Stop`, `StopOrphan` and `Forget` are calls to a driver, made after that.
"""

from dataclasses import dataclass
from typing import Any

from tramontane.domain.deployment import DeploymentStatus
from tramontane.domain.planning.plain import to_plain
from tramontane.domain.replica import ReplicaStatus
from tramontane.domain.resources import Resources


@dataclass(frozen=True, slots=True)
class Place:
    """Record one more replica of a deployment's generation on a node, or on it and its peers."""

    deployment_id: str
    generation: int
    cluster_id: str
    node_id: str
    device_indexes: tuple[int, ...]
    resources: Resources
    peer_node_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Transition:
    """Record that a replica is now ``to``. ``ready_at_ms`` is set when it became ready."""

    replica_id: str
    deployment_id: str
    to: ReplicaStatus
    message: str
    address: str | None = None
    ready_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Record what became of a deployment; written only when something in it changed."""

    deployment_id: str
    status: DeploymentStatus
    ready_replicas: int
    reason: str | None
    observed_generation: int
    failures: int
    retry_at_ms: int
    start_ms: int


@dataclass(frozen=True, slots=True)
class Ensure:
    """Have the driver start a recorded replica that it does not list yet."""

    cluster_id: str
    replica_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Have the driver end a replica that no route names; ``drain`` lets requests finish."""

    cluster_id: str
    replica_id: str
    drain: bool


@dataclass(frozen=True, slots=True)
class StopOrphan:
    """Have the driver end, now, a process whose replica is not recorded or recorded as ended."""

    cluster_id: str
    replica_id: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Have the driver drop the report and logs of an ended process."""

    cluster_id: str
    replica_id: str


StoreAction = Place | Transition | SetStatus
DriverAction = Ensure | Stop | StopOrphan | Forget
Action = StoreAction | DriverAction


@dataclass(frozen=True, slots=True)
class Unplaced:
    """``count`` replicas of a deployment that are wanted and have no place, and why."""

    deployment_id: str
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order in which they are carried out, and what could not be placed."""

    actions: tuple[Action, ...]
    unplaced: tuple[Unplaced, ...]

    def store_actions(self) -> dict[str, list[StoreAction]]:
        """Return the writes by deployment; those that free capacity before those that take it."""
        groups: dict[str, list[StoreAction]] = {}
        for action in self.actions:
            if isinstance(action, (Place, Transition, SetStatus)):
                groups.setdefault(action.deployment_id, []).append(action)
        return dict(sorted(groups.items(), key=lambda group: _takes_capacity(group[1])))

    def driver_actions(self) -> list[DriverAction]:
        """Return the calls to drivers, in order."""
        return [
            action
            for action in self.actions
            if isinstance(action, (Ensure, Stop, StopOrphan, Forget))
        ]


def plan_to_plain(plan: Plan) -> dict[str, Any]:
    """Return ``plan`` as plain data: each action names its kind in ``action``."""
    actions = [{"action": type(a).__name__.lower(), **to_plain(a)} for a in plan.actions]
    return {"actions": actions, "unplaced": to_plain(plan.unplaced)}


def _takes_capacity(actions: list[StoreAction]) -> bool:
    return any(isinstance(action, Place) for action in actions)
