"""How many replicas of which generation a deployment should have next: scale and rollout.

A rollout replaces one replica at a time: it has at most `SURGE_MAX` above the wanted count on
their nodes and drains an old replica only when as many as wanted are ready without it. A new
generation that cannot start or cannot be placed therefore leaves the old one serving. A replica
that has to leave its node or its cluster is replaced in the same way, and by the same steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tramontane.domain.deployment import Deployment
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.upkeep.evacuation import Leaving

NOBODY: Final[Mapping[str, Leaving]] = {}

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


def plan_rollout(
    deployment: Deployment,
    replicas: Sequence[Replica],
    leaving: Mapping[str, Leaving] = NOBODY,
) -> Rollout:
    """Return the next step, given the ``replicas`` that hold capacity.

    Replicas that stop already count for nothing. Old ones that serve nothing yet go at once; old
    ones on a cluster that does not answer may be serving, so they go like ready ones. Those that
    are ``leaving``, by id, are old ones whatever their generation; yet one that serves nothing
    goes only when another is there in its place, since it may never get one.
    """
    wanted = wanted_replicas(deployment)
    active = [r for r in replicas if r.status in _VICTIM_RANK]
    current = [r for r in active if r.generation == deployment.generation and r.id not in leaving]
    old = _without(active, current)
    idle = [r for r in old if r.status in {ReplicaStatus.PENDING, ReplicaStatus.STARTING}]

    victims = [r for r in active if r.id in leaving and leaving[r.id].is_due]
    victims += [r for r in _without(idle, victims) if r.generation != deployment.generation]
    victims += _in_victim_order(current)[: max(0, len(current) - wanted)]
    surplus = max(0, len(_without(active, victims)) - wanted)
    victims += _in_victim_order(_without(idle, victims))[:surplus]
    victims += _drainable(_without(old, victims), _without(active, victims), wanted, leaving)
    left = _without(active, victims)
    kept = len(_without(current, victims))
    draining = len(replicas) - len(left)  # still on their nodes: they count against the surge
    surge = max(0, SURGE_MAX - draining) if len(left) > kept else 0
    missing = min(wanted - kept, wanted + surge - len(left))
    return Rollout(tuple(victims), max(0, missing))


def _drainable(
    old: list[Replica], left: list[Replica], wanted: int, leaving: Mapping[str, Leaving]
) -> list[Replica]:
    ready = sum(r.status is ReplicaStatus.READY for r in left)
    if ready < wanted:
        return []
    unsure = [r for r in old if r.status is ReplicaStatus.UNKNOWN]
    sure = [r for r in old if r.status is ReplicaStatus.READY]
    pressed = [r for r in sure if r.id in leaving]
    ordered = _in_victim_order(pressed) + _in_victim_order(_without(sure, pressed))
    return unsure + ordered[: ready - wanted]


def _in_victim_order(replicas: list[Replica]) -> list[Replica]:
    return sorted(
        replicas,
        key=lambda r: (_VICTIM_RANK[r.status], r.generation, -r.created_at_ms, r.id),
    )


def _without(replicas: list[Replica], victims: list[Replica]) -> list[Replica]:
    ids = {r.id for r in victims}
    return [r for r in replicas if r.id not in ids]
