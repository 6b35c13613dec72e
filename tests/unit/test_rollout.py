"""Who stops and how many are added: scale, rollout, and what never happens."""

import pytest

from tests.support.planning import deployment_of, replica_of
from tramontane.domain.planning.rollout import plan_rollout
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.upkeep.evacuation import Leaving

PENDING, STARTING, READY = ReplicaStatus.PENDING, ReplicaStatus.STARTING, ReplicaStatus.READY
STOPPING, UNKNOWN = ReplicaStatus.STOPPING, ReplicaStatus.UNKNOWN


def fleet(*kinds: tuple[int, ReplicaStatus]) -> list[Replica]:
    """Return one replica for each (generation, status), the later the younger."""
    return [
        replica_of(number, deployment_of(), status, generation=generation)
        for number, (generation, status) in enumerate(kinds, start=1)
    ]


@pytest.mark.parametrize(
    ("wanted", "generation", "there", "victims", "missing"),
    [
        # scale
        (2, 1, [], [], 2),
        (2, 1, [(1, READY)], [], 1),
        (1, 1, [(1, READY), (1, READY)], [2], 0),  # the youngest
        (1, 1, [(1, STARTING), (1, READY)], [1], 0),  # not ready first
        (1, 1, [(1, STARTING), (1, PENDING), (1, READY)], [2, 1], 0),
        (1, 1, [(1, UNKNOWN), (1, READY)], [1], 0),
        (0, 1, [(1, READY), (1, UNKNOWN), (1, STOPPING)], [2, 1], 0),
        (1, 1, [(1, STOPPING)], [], 1),  # scaled to 0 and back: no waiting for the drain
        (1, 1, [(1, UNKNOWN)], [], 0),  # unknown is not gone
        # rollout
        (2, 2, [(1, READY), (1, READY)], [], 1),  # one above, none below
        (2, 2, [(1, READY), (1, READY), (2, STARTING)], [], 0),
        (2, 2, [(1, READY), (1, READY), (2, READY)], [2], 0),  # ready: one old may go
        (2, 2, [(1, READY), (1, STOPPING), (2, READY)], [], 0),  # the drain counts as the surge
        (2, 2, [(1, READY), (2, READY)], [], 1),
        (2, 2, [(2, READY), (1, READY), (2, READY)], [2], 0),
        (1, 2, [(1, STARTING)], [1], 1),  # an old one that serves nothing goes at once
        (1, 2, [(1, UNKNOWN)], [], 1),  # an old one on a silent cluster may serve
        (1, 2, [(1, UNKNOWN), (2, READY)], [1], 0),
        (1, 3, [(1, READY), (2, STARTING)], [2], 0),  # patched twice: its place comes free first
        (2, 2, [(1, READY)], [], 2),  # one old died: one to fill in, one above
        (3, 2, [(1, READY), (1, READY), (2, READY)], [], 1),
        # scale during a rollout
        (1, 2, [(1, READY), (1, READY), (1, READY)], [3, 2], 0),
        (1, 2, [(1, READY), (1, READY), (2, STARTING)], [2], 0),
        (1, 2, [(2, READY), (2, READY), (1, READY)], [2, 3], 0),
        (0, 2, [(1, READY), (2, READY)], [2, 1], 0),
    ],
)
def test_next_step(
    wanted: int,
    generation: int,
    there: list[tuple[int, ReplicaStatus]],
    victims: list[int],
    missing: int,
) -> None:
    replicas = fleet(*there)
    deployment = deployment_of(replicas=wanted, generation=generation)
    rollout = plan_rollout(deployment, replicas)
    numbers = {replica.id: number for number, replica in enumerate(replicas, start=1)}
    assert [numbers[victim.id] for victim in rollout.victims] == victims
    assert rollout.missing == missing


def test_a_deleted_deployment_keeps_nothing() -> None:
    deployment = deployment_of(replicas=3, deleted_at_ms=1)
    rollout = plan_rollout(deployment, fleet((1, READY), (1, PENDING)))
    assert len(rollout.victims) == 2
    assert rollout.missing == 0


@pytest.mark.parametrize(
    ("wanted", "there", "leaving", "due", "victims", "missing"),
    [
        (2, [(2, READY), (2, READY)], [1], [], [], 1),  # one above, none below
        (2, [(2, READY), (2, READY)], [1, 2], [], [], 1),  # one after the other
        (2, [(2, READY), (2, READY), (2, STARTING)], [1, 2], [], [], 0),
        (2, [(2, READY), (2, READY), (2, READY)], [1, 2], [], [2], 0),  # of equals the youngest
        (2, [(2, READY), (2, STOPPING), (2, READY)], [1], [], [], 0),  # the drain is the surge
        (1, [(1, READY), (2, READY), (2, READY)], [3], [], [3, 1], 0),  # before the older one
        (2, [(2, READY), (2, READY)], [1], [1], [1], 1),  # due: whatever becomes of it
        (1, [(2, READY), (2, STARTING)], [1], [1], [1], 0),
        (1, [(2, STARTING)], [1], [], [], 1),  # it may serve yet
        (1, [(2, STARTING), (2, PENDING)], [1], [], [1], 0),
        (3, [(2, STARTING), (2, STARTING), (2, STARTING), (2, STARTING)], [1, 2, 3], [], [3], 0),
        (1, [(1, STARTING)], [1], [], [1], 1),  # an old generation serves nothing anyway
        (0, [(2, READY)], [1], [], [1], 0),
    ],
)
def test_who_leaves_is_replaced_like_one_of_an_older_generation(
    wanted: int,
    there: list[tuple[int, ReplicaStatus]],
    *,
    leaving: list[int],
    due: list[int],
    victims: list[int],
    missing: int,
) -> None:
    replicas = fleet(*there)
    found = {replicas[n - 1].id: Leaving("drained", is_due=n in due) for n in leaving}
    rollout = plan_rollout(deployment_of(replicas=wanted, generation=2), replicas, found)
    numbers = {replica.id: number for number, replica in enumerate(replicas, start=1)}
    assert [numbers[victim.id] for victim in rollout.victims] == victims
    assert rollout.missing == missing
