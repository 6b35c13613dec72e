"""What an observation means for a replica, status by status."""

from dataclasses import replace

import pytest

from tests.support.planning import (
    NOW_MS,
    deployment_of,
    node_of,
    replica_of,
    seen,
    snapshot_of,
)
from tramontane.domain.fleet import NodeStatus
from tramontane.domain.observation import RunState, Unreachable
from tramontane.domain.planning.plan import Transition
from tramontane.domain.planning.watch import (
    ENDED_FROM_OUTSIDE,
    UNLISTED_MS_MAX,
    Watch,
    next_status,
)
from tramontane.domain.replica import Replica, ReplicaStatus

PENDING, STARTING, READY = ReplicaStatus.PENDING, ReplicaStatus.STARTING, ReplicaStatus.READY
STOPPING, STOPPED = ReplicaStatus.STOPPING, ReplicaStatus.STOPPED
FAILED, UNKNOWN = ReplicaStatus.FAILED, ReplicaStatus.UNKNOWN


def judge(replica: Replica, state: RunState | None, reason: str | None = None) -> Transition | None:
    observations = () if state is None else (seen(replica, state, reason),)
    snapshot = snapshot_of((deployment_of(),), (replica,), observations=observations)
    return next_status(replica, Watch(snapshot).sight(replica), NOW_MS)


@pytest.mark.parametrize(
    ("status", "state", "expected"),
    [
        (PENDING, None, None),  # its start is asked for again
        (PENDING, RunState.STARTING, STARTING),
        (PENDING, RunState.READY, STARTING),  # ready follows in the next pass
        (PENDING, RunState.EXITED, FAILED),
        (STARTING, RunState.STARTING, None),
        (STARTING, RunState.READY, READY),
        (STARTING, RunState.EXITED, FAILED),
        (STARTING, None, FAILED),
        (READY, RunState.READY, None),
        (READY, RunState.STARTING, None),
        (READY, RunState.DRAINING, STOPPING),
        (READY, RunState.EXITED, FAILED),
        (READY, None, FAILED),
        (UNKNOWN, RunState.READY, READY),
        (UNKNOWN, RunState.STARTING, READY),  # it was ready before: the engine did not end
        (UNKNOWN, RunState.EXITED, FAILED),
        (UNKNOWN, None, FAILED),
        (STOPPING, RunState.READY, None),
        (STOPPING, RunState.DRAINING, None),
        (STOPPING, RunState.EXITED, STOPPED),
        (STOPPING, None, STOPPED),
    ],
)
def test_each_state_on_each_status(
    status: ReplicaStatus, state: RunState | None, expected: ReplicaStatus | None
) -> None:
    replica = replica_of(1, deployment_of(), status, created_at_ms=NOW_MS - 1_000)
    transition = judge(replica, state)
    assert (transition.to if transition else None) is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [(PENDING, None), (STARTING, UNKNOWN), (READY, UNKNOWN), (UNKNOWN, None), (STOPPING, None)],
)
def test_silence_makes_unknown_and_nothing_else(
    status: ReplicaStatus, expected: ReplicaStatus | None
) -> None:
    replica = replica_of(1, deployment_of(), status)
    snapshot = snapshot_of((deployment_of(),), (replica,), view=Unreachable("timed out"))
    transition = next_status(replica, Watch(snapshot).sight(replica), NOW_MS)
    assert (transition.to if transition else None) is expected
    assert transition is None or transition.message == "timed out"


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (RunState.DRAINING, None, "it began to drain by itself"),
        (RunState.DRAINING, "is suspended on its cluster", "it is suspended on its cluster"),
        (RunState.EXITED, "drained and ended as asked", ENDED_FROM_OUTSIDE),
        (RunState.EXITED, "engine exited with status 3", "engine exited with status 3"),
    ],
)
def test_what_somebody_else_did_is_told(state: RunState, reason: str | None, words: str) -> None:
    ready = replica_of(1, deployment_of(), READY)
    transition = judge(ready, state, reason)
    assert transition is not None
    assert transition.message == words
    stopping = judge(replace(ready, status=STOPPING), state, reason)
    assert stopping is None or stopping.message == "it ended as asked"


def test_a_cluster_without_a_driver_is_silent() -> None:
    replica = replica_of(1, deployment_of(), READY, cluster_id="clu_other")
    snapshot = snapshot_of((deployment_of(),), (replica,))
    transition = next_status(replica, Watch(snapshot).sight(replica), NOW_MS)
    assert transition is not None
    assert transition.to is UNKNOWN


@pytest.mark.parametrize("status", [PENDING, STARTING, READY, UNKNOWN, STOPPING])
def test_a_lost_node_takes_its_replicas(status: ReplicaStatus) -> None:
    replica = replica_of(1, deployment_of(), status)
    nodes = (node_of(1, status=NodeStatus.LOST),)
    snapshot = snapshot_of((deployment_of(),), (replica,), nodes=nodes)
    transition = next_status(replica, Watch(snapshot).sight(replica), NOW_MS)
    assert transition is not None
    assert transition.to is (STOPPED if status is STOPPING else FAILED)


def test_ready_brings_its_address_and_time_once() -> None:
    first = judge(replica_of(1, deployment_of(), STARTING), RunState.READY)
    assert first is not None
    assert first.address is not None
    assert first.ready_at_ms == NOW_MS
    was_ready = replica_of(1, deployment_of(), UNKNOWN)
    again = judge(was_ready, RunState.READY)
    assert again is not None
    assert again.ready_at_ms == was_ready.ready_at_ms


def test_an_end_says_why() -> None:
    replica = replica_of(1, deployment_of(), STARTING)
    told = judge(replica, RunState.EXITED, "exit code 1\nno such file")
    assert told is not None
    assert told.message == "exit code 1\nno such file"
    silent = judge(replica, RunState.EXITED)
    assert silent is not None
    assert silent.message == "it ended without a reason"


def test_a_start_that_is_never_listed_ends_after_a_while() -> None:
    young = replica_of(1, deployment_of(), PENDING, created_at_ms=NOW_MS - UNLISTED_MS_MAX)
    assert judge(young, None) is None
    old = replica_of(1, deployment_of(), PENDING, created_at_ms=NOW_MS - UNLISTED_MS_MAX - 1)
    transition = judge(old, None)
    assert transition is not None
    assert transition.to is FAILED
