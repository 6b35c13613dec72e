"""Which nodes are drained for what fails on them, and which never are."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.planning import NOW_MS, deployment_of, node_of, replica_of, typed_id
from tramontane.domain import ids
from tramontane.domain.fleet import Node, NodeStatus
from tramontane.domain.jobs.job import Attempt, AttemptStatus
from tramontane.domain.planning.watch import ENDED_FROM_OUTSIDE
from tramontane.domain.replica import ReplicaStatus
from tramontane.domain.upkeep.evidence import endings_of
from tramontane.domain.upkeep.health import AUTOMATIC, Ending, failures_in_row, plan_drains

CLUSTER = typed_id(ids.CLUSTER, 1)


def fleet(count: int) -> list[Node]:
    return [node_of(number) for number in range(1, count + 1)]


def endings(node: int, *words: str, first_ms: int = NOW_MS) -> list[Ending]:
    """Return one for each word, oldest first: the name of an owner that failed, or "+"."""
    return [
        Ending(
            f"end_{node}_{number}",
            word,
            typed_id(ids.NODE, node),
            first_ms + number,
            has_failed=word != "+",
            reason="exit code 1\nCUDA error: an illegal memory access",
        )
        for number, word in enumerate(words)
    ]


def drained(nodes: Sequence[Node], found: Sequence[Ending], failures_max: int = 3) -> list[str]:
    return [drain.node.name for drain in plan_drains(nodes, found, failures_max)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("a", "b", "a"), ["node-1"]),
        (("+", "a", "b", "a"), ["node-1"]),
        (("a", "b"), []),
        (("a", "a", "a", "a"), []),  # one owner: it is broken itself
        (("b", "a", "a", "a"), []),  # the last three are what counts
        (("a", "b", "+", "a"), []),
        (("a", "b", "a", "+"), []),
        (("a", "+", "a", "b"), []),  # what worked is no failure itself
    ],
)
def test_so_many_failures_in_a_row_of_more_than_one_owner(
    words: tuple[str, ...], expected: list[str]
) -> None:
    assert drained(fleet(2), endings(1, *words)) == expected
    assert drained(fleet(2), endings(1, *words), failures_max=0) == []


def test_one_loss_of_a_node_is_one_failure_whatever_ran_there() -> None:
    lost = [replace(it, was_lost=True) for it in endings(1, "a", "b", "c", "d")]
    assert drained(fleet(2), lost) == []
    hour_ms = 3_600_000
    often = [replace(it, at_ms=it.at_ms + n * hour_ms) for n, it in enumerate(lost)]
    assert drained(fleet(2), often) == ["node-1"]
    again = [replace(it, at_ms=NOW_MS + hour_ms) for it in lost]
    then = endings(1, "e", first_ms=NOW_MS + 2 * hour_ms)
    (drain,) = plan_drains(fleet(2), lost + again + then, 3)
    assert drain.subject_ids == ("end_1_0", "end_1_0", "end_1_3")


def test_a_loss_is_told_within_a_minute() -> None:
    first, second = (replace(it, was_lost=True) for it in endings(1, "a", "b"))
    for apart_ms, count in ((60_000, 1), (60_001, 2)):
        later = replace(second, at_ms=first.at_ms + apart_ms)
        rows = failures_in_row([first, later], fleet(1))
        assert len(rows[first.node_id]) == count


def test_the_reason_holds_the_evidence_and_nothing_that_was_printed() -> None:
    (drain,) = plan_drains(fleet(2), endings(1, "a", "b", "a"), 3)
    assert drain.subject_ids == ("end_1_2", "end_1_1", "end_1_0")
    assert drain.reason == (
        "drained by Tramontane: the last 3 on it failed (end_1_2: exit code 1; "
        "end_1_1: exit code 1; end_1_0: exit code 1)"
    )


def test_the_evidence_is_short_and_there_without_a_reason() -> None:
    first, second, third = endings(1, "a", "b", "a")
    found = [
        replace(first, reason=None),
        replace(second, reason="x" * 60),
        replace(third, reason="y" * 61),
    ]
    (drain,) = plan_drains(fleet(2), found, 3)
    told = f"end_1_2: {'y' * 59}…; end_1_1: {'x' * 60}; end_1_0: no reason is known"
    assert drain.reason.endswith(f"({told})")


def test_a_cluster_spares_one_node_or_a_tenth_and_never_its_only_one() -> None:
    bad = [it for node in range(1, 20) for it in endings(node, "a", "b", "a")]
    assert drained(fleet(1), bad) == []
    assert drained(fleet(2), bad) == ["node-1"]
    assert len(drained(fleet(19), bad)) == 1
    assert len(drained([node_of(n) for n in range(1, 41)], bad)) == 4
    there = replace(node_of(2), wanted_drain_reason=f"{AUTOMATIC}x", status=NodeStatus.DRAINED)
    assert drained([node_of(1), there], bad) == []
    by_hand = replace(there, wanted_drain_reason="new disks")
    assert drained([node_of(1), by_hand], bad) == ["node-1"]


def test_the_worst_goes_first() -> None:
    found = endings(1, "a", "b", "a") + endings(2, "a", "b", "a", "b")
    assert drained(fleet(3), found) == ["node-2"]


def test_what_was_before_a_resume_is_no_longer_held_against_a_node() -> None:
    found = endings(1, "a", "b", "a")
    first, second = fleet(2)
    assert drained([replace(first, counted_from_ms=NOW_MS + 1), second], found) == []
    rows = failures_in_row(found, [replace(first, counted_from_ms=NOW_MS + 1), second])
    assert [len(rows[node.id]) for node in (first, second)] == [2, 0]


@pytest.mark.parametrize("status", [NodeStatus.DRAINED, NodeStatus.LOST, NodeStatus.UNKNOWN])
def test_only_a_node_that_takes_things_is_drained(status: NodeStatus) -> None:
    nodes = [replace(node_of(1), status=status), node_of(2)]
    assert drained(nodes, endings(1, "a", "b", "a")) == []
    nodes = [replace(node_of(1), wanted_drain_reason="new disks"), node_of(2)]
    assert drained(nodes, endings(1, "a", "b", "a")) == []


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 40), st.sampled_from("ab+")), max_size=200),
    st.integers(1, 5),
)
def test_never_more_than_a_cluster_can_spare(
    size: int, told: list[tuple[int, str]], failures_max: int
) -> None:
    nodes = fleet(size)
    found = [
        it
        for number, (node, word) in enumerate(told)
        for it in endings(node, word, first_ms=NOW_MS + number)
    ]
    drains = plan_drains(nodes, found, failures_max)
    assert len(drains) <= (max(1, size // 10) if size > 1 else 0)
    assert len({drain.node.id for drain in drains}) == len(drains)


def attempt_of(status: AttemptStatus, **fields: Any) -> Attempt:
    made = Attempt(
        id=typed_id(ids.ATTEMPT, 1),
        job_id=typed_id(ids.JOB, 1),
        project_id=typed_id(ids.PROJECT, 1),
        array_index=0,
        number=1,
        cluster_id=CLUSTER,
        secret="s",
        created_at_ms=NOW_MS,
        changed_at_ms=NOW_MS,
        status=status,
        node_names=("node-1",),
        ended_at_ms=NOW_MS + 5,
    )
    return replace(made, **fields)


def told(*things: Any) -> list[tuple[str, str, bool]]:
    replicas = [it for it in things if not isinstance(it, Attempt)]
    attempts = [it for it in things if isinstance(it, Attempt)]
    found = endings_of(replicas, attempts, fleet(2))
    names = {node.id: node.name for node in fleet(2)}
    return [(names[it.node_id], it.owner, it.has_failed) for it in found]


def test_what_replicas_say_about_their_nodes() -> None:
    me = deployment_of()
    failed = replica_of(1, me, ReplicaStatus.FAILED, reason="exit code 1")
    assert told(failed) == [("node-1", me.id, True)]
    for reason in (
        "it could not be started: no such user",
        "it is gone: its cluster forgot it",
        ENDED_FROM_OUTSIDE,
        "was cancelled",
        "was put back into the queue on its cluster, and nothing runs twice",
    ):
        assert told(replace(failed, reason=reason)) == []
    peers: dict[str, Any] = {"peer_node_ids": (typed_id(ids.NODE, 2),)}
    assert told(replace(failed, **peers)) == []
    both = [("node-1", me.id, False), ("node-2", me.id, False)]
    assert told(replica_of(1, me, **peers)) == both
    assert told(replica_of(1, me, ReplicaStatus.STARTING)) == []
    stopped = replica_of(1, me, ReplicaStatus.STOPPED, ready_at_ms=NOW_MS)
    assert told(stopped) == [("node-1", me.id, False)]
    assert told(replace(failed, reason=None)) == [("node-1", me.id, True)]


def test_a_replica_worked_when_it_became_ready_and_while_it_did() -> None:
    ready = replica_of(1, deployment_of(), ready_at_ms=7, changed_at_ms=9)
    stopped = replace(ready, status=ReplicaStatus.STOPPED)
    assert [it.at_ms for it in endings_of([ready, stopped], [], fleet(2))] == [7, 9]


def test_what_ended_with_its_node_is_told_apart() -> None:
    failed = replica_of(1, deployment_of(), ReplicaStatus.FAILED, reason="exit code 1")
    lost = [replace(failed, reason=it) for it in ("its node was lost", "its node failed: node-1")]
    attempts = [attempt_of(status) for status in (AttemptStatus.FAILED, AttemptStatus.NODE_FAILED)]
    found = endings_of([failed, *lost], attempts, fleet(2))
    assert [it.was_lost for it in found] == [False, True, True, False, True]


def test_what_attempts_say_about_their_nodes() -> None:
    job, project = typed_id(ids.JOB, 1), typed_id(ids.PROJECT, 1)
    assert told(attempt_of(AttemptStatus.FAILED)) == [("node-1", project, True)]
    assert told(attempt_of(AttemptStatus.NODE_FAILED)) == [("node-1", job, True)]
    assert told(attempt_of(AttemptStatus.SUCCEEDED)) == [("node-1", job, False)]
    for status in (AttemptStatus.CANCELLED, AttemptStatus.PREEMPTED, AttemptStatus.TIMED_OUT):
        assert told(attempt_of(status)) == []
    for status in (AttemptStatus.FAILED, AttemptStatus.SUCCEEDED):
        assert told(attempt_of(status, ended_at_ms=None)) == []
    gang = {"node_names": ("node-1", "node-2", "node-9")}
    assert told(attempt_of(AttemptStatus.FAILED, **gang)) == []
    assert [it[0] for it in told(attempt_of(AttemptStatus.SUCCEEDED, **gang))] == [
        "node-1",
        "node-2",
    ]
    placed = {"node_names": (), "node_id": typed_id(ids.NODE, 2)}
    assert told(attempt_of(AttemptStatus.FAILED, **placed))[0][0] == "node-2"
