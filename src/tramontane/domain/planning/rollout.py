"""How many replicas of which generation a deployment should have next: scale and rollout.

A rollout replaces one replica at a time: it has at most `SURGE_MAX` above the wanted count on
their nodes and drains an old replica only when as many as wanted are ready without it. A new
generation that cannot start or cannot be placed therefore leaves the old one serving.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tramontane.domain.deployment import Deployment
from tramontane.domain.replica import Replica, ReplicaStatus

# One more than wanted: a rollout then needs room for one replica, whatever the size.
SURGE_MAX: Final = 1

# Who goes first when there are too many: what serves least.
_VICTIM_RANK: Final = {
    ReplicaStatus.PENDING: 0,
    ReplicaStatus.STARTING: 1,
    ReplicaStatus.UNKNOWN: 2,
    ReplicaStatus.READY: 3,
}


@dataclass(frozen=True, slots=True)
class Rollout:
    """The next step of one deployment: who stops, and how many of the wanted generation to add."""

    victims: tuple[Replica, ...]
    missing: int


def wanted_replicas(deployment: Deployment) -> int:
    """Return how many replicas are wanted: none once it is deleted."""
    return deployment.wanted_replicas


def plan_rollout(deployment: Deployment, replicas: Sequence[Replica]) -> Rollout:
    """Return the next step, given the ``replicas`` that hold capacity.

    Replicas that stop already count for nothing. Old ones that serve nothing yet go at once; old
    ones on a cluster that does not answer may be serving, so they go like ready ones.
    """
    wanted = wanted_replicas(deployment)
    active = [r for r in replicas if r.status in _VICTIM_RANK]
    current = [r for r in active if r.generation == deployment.generation]
    old = [r for r in active if r.generation != deployment.generation]

    victims = [r for r in old if r.status in {ReplicaStatus.PENDING, ReplicaStatus.STARTING}]
    victims += _in_victim_order(current)[: max(0, len(current) - wanted)]
    victims += _drainable(_without(old, victims), _without(active, victims), wanted)
    left = _without(active, victims)
    kept = sum(r.generation == deployment.generation for r in left)
    draining = len(replicas) - len(left)  # still on their nodes: they count against the surge
    surge = max(0, SURGE_MAX - draining) if len(left) > kept else 0
    missing = min(wanted - kept, wanted + surge - len(left))
    return Rollout(tuple(victims), max(0, missing))


def _drainable(old: list[Replica], left: list[Replica], wanted: int) -> list[Replica]:
    ready = sum(r.status is ReplicaStatus.READY for r in left)
    if ready < wanted:
        return []
    unsure = [r for r in old if r.status is ReplicaStatus.UNKNOWN]
    sure = [r for r in old if r.status is ReplicaStatus.READY]
    return unsure + _in_victim_order(sure)[: ready - wanted]


def _in_victim_order(replicas: list[Replica]) -> list[Replica]:
    return sorted(
        replicas,
        key=lambda r: (_VICTIM_RANK[r.status], r.generation, -r.created_at_ms, r.id),
    )


def _without(replicas: list[Replica], victims: list[Replica]) -> list[Replica]:
    ids = {r.id for r in victims}
    return [r for r in replicas if r.id not in ids]
