"""Planning jobs, at the edges: the exact moments, and what stays when less is said."""

from dataclasses import replace

import pytest

from tests.support.jobs import (
    CLUSTER_ID,
    attempt_of,
    cluster_of,
    job_of,
    listed,
    plan_of,
    record_of,
    writes_of,
)
from tests.support.planning import GIB, NOW_MS, node_of, typed_id
from tramontane.domain import ids
from tramontane.domain.jobs.attempt import AttemptState, Topology
from tramontane.domain.jobs.fit import check_fit, facts_of
from tramontane.domain.jobs.job import Attempt, AttemptStatus, Job, JobStatus
from tramontane.domain.jobs.snapshot import Move, SetJob, Settle, Start, StopAttempt, Submit
from tramontane.domain.resources import Resources

OVER = AttemptStatus.SUCCEEDED


def moved(job: Job, attempt: Attempt, **said: object) -> Attempt:
    state = said.pop("state", AttemptState.RUNNING)
    seen = replace(listed(attempt), state=state, **said)  # pyright: ignore[reportArgumentType]
    plan = plan_of(job, attempts=[attempt], clusters=[cluster_of(seen)])
    return next((move.new for move in writes_of(plan, Move)), attempt)


def reason_of(plan: object, job: Job) -> str | None:
    (told,) = writes_of(plan, SetJob, job)  # pyright: ignore[reportArgumentType]
    return told.reason


@pytest.mark.parametrize(
    ("started_at_ms", "patience_ms"), [(NOW_MS - 90_000_000, 86_400_000), (None, 600_000)]
)
def test_accounting_is_waited_for_so_long_and_no_longer(
    started_at_ms: int | None, patience_ms: int
) -> None:
    over = attempt_of(
        job_of(),
        OVER,
        is_accounted=False,
        started_at_ms=started_at_ms,
        ended_at_ms=NOW_MS - 1,
        changed_at_ms=NOW_MS - patience_ms,
    )
    assert writes_of(plan_of(attempts=[over]), Settle) == []
    late = replace(over, changed_at_ms=NOW_MS - patience_ms - 1)
    (settle,) = writes_of(plan_of(attempts=[late]), Settle)
    assert (settle.attempt, settle.new.is_accounted, settle.is_certain) == (late, True, False)


def test_what_its_cluster_never_listed_is_lost_after_five_minutes() -> None:
    job = job_of(cluster_id=CLUSTER_ID)
    asked = attempt_of(job, AttemptStatus.PENDING, created_at_ms=NOW_MS - 300_000)
    plan = plan_of(job, attempts=[asked])
    assert plan.calls == (Submit(CLUSTER_ID, asked.id),)
    assert writes_of(plan, Move) == []
    lost = replace(asked, created_at_ms=asked.created_at_ms - 1)
    (move,) = writes_of(plan_of(job, attempts=[lost]), Move)
    assert (move.new.status, move.new.ended_at_ms) == (AttemptStatus.NODE_FAILED, NOW_MS)
    assert "never listed it" in move.new.reason


def test_what_a_cluster_does_not_say_again_stays_known() -> None:
    job = job_of(cluster_id=CLUSTER_ID)
    running = attempt_of(
        job, node_names=("old",), devices=4, started_at_ms=5, external_id="11", exit_code=None
    )
    silent = moved(job, running, node_names=(), reason="slow")
    assert silent == replace(running, reason="slow")
    told = moved(job, running, devices=2, started_at_ms=6, external_id="12")
    assert told == replace(
        running, node_names=("node-1",), devices=2, started_at_ms=6, external_id="12"
    )
    ended = moved(job, running, state=AttemptState.FAILED, exit_code=3)
    assert (ended.status, ended.exit_code) == (AttemptStatus.FAILED, 3)
    assert (ended.ended_at_ms, ended.changed_at_ms) == (NOW_MS, NOW_MS), "as seen here"
    ended = moved(job, running, state=AttemptState.FAILED, ended_at_ms=NOW_MS - 7)
    assert (ended.ended_at_ms, ended.changed_at_ms) == (NOW_MS - 7, NOW_MS)
    long = moved(job, running, state=AttemptState.FAILED, reason="x" * 5_000 + "end")
    assert long.reason == "x" * 3_997 + "end"


def test_an_end_that_only_accounting_knows_is_taken_whole() -> None:
    job = job_of(cluster_id=CLUSTER_ID)
    running = attempt_of(job, starts_at_ms=9, external_id="old")
    record = record_of(running, AttemptState.FAILED, exit_code=4)
    plan = plan_of(job, attempts=[running], records=(record,))
    (move,) = writes_of(plan, Move)
    assert move.new == replace(
        running,
        status=AttemptStatus.FAILED,
        reason="how it ended is not known: only its cluster's accounting tells of it",
        exit_code=4,
        devices=2,
        started_at_ms=NOW_MS - 10_000,
        ended_at_ms=NOW_MS,
        starts_at_ms=None,
        external_id="4711",
        changed_at_ms=NOW_MS,
    )
    told = replace(record, reason="out of memory")
    (move,) = writes_of(plan_of(job, attempts=[running], records=(told,)), Move)
    assert move.new.reason == "out of memory"
    fine = replace(told, state=AttemptState.SUCCEEDED)
    (move,) = writes_of(plan_of(job, attempts=[running], records=(fine,)), Move)
    assert move.new.reason is None


@pytest.mark.parametrize(
    ("known_s", "said_s", "told_s"),
    [(3_600, 4_799, 3_600), (3_600, 4_800, 4_800), (100, 159, 100), (100, 160, 160), (0, 60, 60)],
)
def test_an_estimate_moves_by_a_minute_or_a_quarter(known_s: int, said_s: int, told_s: int) -> None:
    job = job_of(cluster_id=CLUSTER_ID)
    at_ms = NOW_MS + 1_000 * known_s
    queued = attempt_of(job, AttemptStatus.QUEUED, node_names=("node-1",), starts_at_ms=at_ms)
    said_ms = NOW_MS + 1_000 * said_s
    found = moved(job, queued, state=AttemptState.QUEUED, starts_at_ms=said_ms)
    assert found.starts_at_ms == NOW_MS + 1_000 * told_s


def test_who_waited_for_ten_minutes_is_passed_no_more() -> None:
    busy, small = job_of(1), job_of(3)
    running = attempt_of(busy)
    need = Resources(1_000, GIB, 2)
    for waited_ms, passes in ((600_000, True), (600_001, False)):
        large = job_of(2, resources=need, created_at_ms=NOW_MS - waited_ms)
        clusters = [cluster_of(listed(running))]
        plan = plan_of(busy, large, small, attempts=[running], clusters=clusters)
        assert [start.job_id for start in writes_of(plan, Start)] == [small.id] * passes


def test_a_job_says_what_its_first_open_index_waits_for() -> None:
    job = job_of(array=3, cluster_id=CLUSTER_ID)
    done = attempt_of(job, OVER, index=0)
    waits = [attempt_of(job, AttemptStatus.QUEUED, index=i, reason=f"r{i}") for i in (1, 2)]
    seen = [listed(it, AttemptState.QUEUED, reason=it.reason) for it in waits]
    plan = plan_of(job, attempts=[done, *waits], clusters=[cluster_of(*seen)])
    assert reason_of(plan, job) == "queued on local: r1"
    failed = [
        attempt_of(job, AttemptStatus.FAILED, index=index, reason=f"r{index}") for index in (1, 2)
    ]
    plan = plan_of(job, attempts=[done, *failed])
    assert reason_of(plan, job) == "2 of 3 failed; index 1: attempt 1 failed: r1"


def test_of_many_dependencies_three_are_named() -> None:
    needed = [typed_id(ids.JOB, n) for n in (5, 6, 7, 8)]
    job = job_of(depends_on=tuple(needed))
    plan = plan_of(job, dependencies=tuple((id_, JobStatus.RUNNING) for id_ in needed))
    assert reason_of(plan, job) == f"waits for {', '.join(needed[:3])}"
    plan = plan_of(job, dependencies=tuple((id_, JobStatus.RUNNING) for id_ in needed[:3]))
    assert reason_of(plan, job) == f"it depends on {needed[3]}, which is gone"


def test_a_job_is_ended_at_once_a_minute_after_it_was_asked_to() -> None:
    for passed_ms, drain in ((60_000, True), (60_001, False)):
        job = job_of(cancelled_at_ms=NOW_MS - passed_ms, cluster_id=CLUSTER_ID)
        running = attempt_of(job)
        plan = plan_of(job, attempts=[running], clusters=[cluster_of(listed(running))])
        assert plan.calls == (StopAttempt(CLUSTER_ID, running.id, drain=drain),)
        over = listed(running, AttemptState.FAILED)
        assert plan_of(job, attempts=[running], clusters=[cluster_of(over)]).calls == ()


def test_a_cluster_that_there_is_not_is_named() -> None:
    job = job_of(cluster="alps")
    assert reason_of(plan_of(job), job) == "there is no cluster alps"
    job = job_of()
    assert reason_of(plan_of(job, clusters=[]), job) == "there is no cluster yet"


def test_the_nearest_that_fits_is_counted_and_named() -> None:
    racks = ("r2", "r1", "r3", "r3", "r1")
    nodes = [replace(node_of(n, devices=1), rack=rack) for n, rack in enumerate(racks)]

    def told(*, wanted: int, topology: Topology, count: int) -> str:
        spec = job_of(nodes=wanted, topology=topology).spec
        refusal = check_fit(spec, [facts_of("alps", nodes[:count])], None)
        assert refusal is not None
        return refusal.message

    said = told(wanted=3, topology=Topology.RACK, count=5)
    assert "rack r3 of cluster alps, the largest, has 2" in said, "of racks of one size the last"
    said = told(wanted=2, topology=Topology.ANY, count=1)
    assert said.endswith("cluster alps has 1: ask for at most 1 node")
