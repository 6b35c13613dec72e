"""Planning jobs: lines of attempts, places, silence, ends, and calls."""

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
    snapshot_of,
    writes_of,
)
from tests.support.planning import GIB, NOW_MS, deployment_of, node_of, replica_of, typed_id
from tramontane.domain import ids
from tramontane.domain.jobs.attempt import AttemptObservation, AttemptState
from tramontane.domain.jobs.job import (
    TRANSITIONS,
    Attempt,
    AttemptStatus,
    Job,
    JobStatus,
    device_seconds,
    launch_of,
)
from tramontane.domain.jobs.plan import QUEUED_MAX, plan_jobs
from tramontane.domain.jobs.snapshot import (
    ForgetAttempt,
    JobCluster,
    JobPlan,
    Move,
    SetJob,
    Settle,
    Start,
    StopAttempt,
    Submit,
)
from tramontane.domain.launch import PriorityClass, Tenancy
from tramontane.domain.observation import NodeObservation, Reachable, Unreachable
from tramontane.domain.resources import Resources

SILENT = Unreachable("the connection timed out")
NODE = typed_id(ids.NODE, 1)


def status_of(plan: object, job: Job) -> tuple[JobStatus, str | None]:
    (written,) = writes_of(plan, SetJob, job)  # pyright: ignore[reportArgumentType]
    return written.status, written.reason


def test_a_new_job_is_placed_on_a_node_with_its_devices() -> None:
    job = job_of()
    plan = plan_of(job)
    assert writes_of(plan, Start) == [Start(job.id, 0, 1, CLUSTER_ID, NODE, (0,))]
    assert status_of(plan, job) == (JobStatus.PENDING, "starts")
    assert plan.calls == ()


def test_on_a_cluster_that_queues_it_is_handed_over_at_once() -> None:
    jobs = [job_of(n, nodes=2, array=3) for n in (1, 2)]
    nodes = [node_of(n, devices=1) for n in (1, 2)]
    plan = plan_of(*jobs, clusters=[cluster_of(queues=True, nodes=nodes)])
    starts = writes_of(plan, Start, jobs[0])
    assert starts == [Start(jobs[0].id, index, 1, CLUSTER_ID) for index in range(3)]
    assert len(writes_of(plan, Start)) == 6


def test_attempts_and_replicas_share_a_node_and_no_device() -> None:
    first, second, third = (job_of(n) for n in (1, 2, 3))
    running = attempt_of(first)
    replica = replica_of(1, deployment_of(), need=Resources(1_000, GIB, 1), devices=(1,))
    nodes = [node_of(devices=3)]
    plan = plan_of(
        first,
        second,
        third,
        attempts=[running],
        clusters=[cluster_of(listed(running), nodes=nodes)],
        replicas=(replica,),
    )
    assert [start.device_indexes for start in writes_of(plan, Start)] == [(2,)]
    _, reason = status_of(plan, third)
    assert reason is not None
    assert "1 device more on the best node (node-1)" in reason


def test_the_higher_class_and_the_older_job_come_first() -> None:
    spot = job_of(1, priority_class=PriorityClass.SPOT)
    late, early = job_of(3), job_of(2)
    reserved = job_of(4, priority_class=PriorityClass.RESERVED)
    plan = plan_of(spot, late, early, reserved)
    assert {start.job_id for start in writes_of(plan, Start)} == {reserved.id, early.id}


def test_who_waited_long_is_not_passed() -> None:
    busy = job_of(1)
    running = attempt_of(busy)
    large = job_of(2, resources=Resources(1_000, GIB, 2), created_at_ms=NOW_MS - 600_001)
    small = job_of(3)
    jobs, clusters = (busy, large, small), [cluster_of(listed(running))]
    plan = plan_of(*jobs, attempts=[running], clusters=clusters)
    assert writes_of(plan, Start) == []
    patient = replace(large, created_at_ms=NOW_MS - 599_000)
    plan = plan_of(busy, patient, small, attempts=[running], clusters=clusters)
    assert [start.job_id for start in writes_of(plan, Start)] == [small.id]


def test_the_quota_of_a_project_bounds_what_runs_at_once() -> None:
    jobs = [job_of(n) for n in (1, 2)]
    plan = plan_of(*jobs, devices_max=((jobs[0].project_id, 1),))
    assert len(writes_of(plan, Start)) == 1
    _, reason = status_of(plan, jobs[1])
    assert reason == "1 of the 1 devices of its project's quota are in use"


def test_several_nodes_need_a_cluster_that_queues() -> None:
    job = job_of(nodes=2)
    _, reason = status_of(plan_of(job), job)
    assert reason is not None
    assert "on one node only" in reason


def test_a_pending_attempt_is_submitted_until_it_is_listed() -> None:
    job = job_of(cluster_id=CLUSTER_ID)
    pending = attempt_of(job, AttemptStatus.PENDING)
    plan = plan_of(job, attempts=[pending])
    assert plan.calls == (Submit(CLUSTER_ID, pending.id),)
    plan = plan_of(job, attempts=[pending], submit_errors=((pending.id, "no route"),))
    assert status_of(plan, job)[1] == "its start is tried again: no route"
    seen = listed(pending, AttemptState.QUEUED, reason="Resources", starts_at_ms=NOW_MS + 5)
    plan = plan_of(job, attempts=[pending], clusters=[cluster_of(seen)])
    assert plan.calls == ()
    (move,) = writes_of(plan, Move)
    assert (move.new.status, move.new.starts_at_ms) == (AttemptStatus.QUEUED, NOW_MS + 5)
    assert status_of(plan, job) == (
        JobStatus.PENDING,
        "queued on local: Resources; expected to start at 2023-11-14 22:13 UTC",
    )


def test_silence_says_nothing() -> None:
    job = job_of(cluster_id=CLUSTER_ID, status=JobStatus.RUNNING)
    running = attempt_of(job)
    plan = plan_of(job, attempts=[running], clusters=[cluster_of(view=SILENT)])
    assert writes_of(plan, Move) == writes_of(plan, Start) == []
    assert plan.calls == ()
    told = "cluster local does not answer: the connection timed out"
    assert status_of(plan, job) == (JobStatus.RUNNING, told)
    waiting = job_of(2)
    plan = plan_of(waiting, clusters=[cluster_of(view=SILENT)])
    assert writes_of(plan, Start) == []
    assert status_of(plan, waiting)[1] == told


@pytest.mark.parametrize("status", [AttemptStatus.QUEUED, AttemptStatus.RUNNING])
def test_what_left_the_list_is_what_the_accounting_says(status: AttemptStatus) -> None:
    job = job_of()
    attempt = attempt_of(job, status)
    record = record_of(attempt, AttemptState.SUCCEEDED)
    plan = plan_of(job, attempts=[attempt], records=(record,))
    (move,) = writes_of(plan, Move)
    assert move.new.status is AttemptStatus.SUCCEEDED
    assert status_of(plan, job)[0] is JobStatus.SUCCEEDED
    plan = plan_of(job, attempts=[attempt])
    (move,) = writes_of(plan, Move)
    assert move.new.status is AttemptStatus.NODE_FAILED
    assert len(writes_of(plan, Start)) == 1


def test_a_lost_node_ends_what_was_to_start_there() -> None:
    job = job_of()
    pending = attempt_of(job, AttemptStatus.PENDING)
    node = node_of(devices=2)
    view = Reachable((NodeObservation(node.name, node.capacity, is_lost=True),), ())
    plan = plan_of(job, attempts=[pending], clusters=[cluster_of(view=view)])
    assert plan.calls == ()
    (move,) = writes_of(plan, Move)
    assert (move.new.status, move.new.reason) == (AttemptStatus.NODE_FAILED, "its node was lost")


@pytest.mark.parametrize(
    ("ends", "retries", "goes_on"),
    [
        ("f", 0, False),
        ("f", 1, True),
        ("ff", 1, False),
        ("t", 1, True),
        ("p", 0, True),
        ("n", 0, True),
        ("pfn", 1, True),
        ("pfnf", 1, False),
        ("p" * 100, 0, True),
        ("p" * 101, 0, False),
        ("c", 5, False),
        ("r", 5, False),
    ],
)
def test_what_follows_an_end(ends: str, retries: int, goes_on: bool) -> None:
    words = {
        "f": AttemptStatus.FAILED,
        "t": AttemptStatus.TIMED_OUT,
        "p": AttemptStatus.PREEMPTED,
        "n": AttemptStatus.NODE_FAILED,
        "c": AttemptStatus.CANCELLED,
        "r": AttemptStatus.REFUSED,
    }
    job = job_of(retries=retries, status=JobStatus.RUNNING)
    made = [attempt_of(job, words[e], number=n, reason="so") for n, e in enumerate(ends, 1)]
    later = replace(snapshot_of(job, attempts=made), now_ms=NOW_MS + 60_000)
    plan = plan_jobs(later)
    assert [start.number for start in writes_of(plan, Start)] == [len(ends) + 1] * goes_on
    status, reason = status_of(plan, job)
    if goes_on:
        assert status is JobStatus.PENDING
    else:
        assert status is (JobStatus.CANCELLED if ends == "c" else JobStatus.FAILED)
        assert "so" in (reason or "")


def test_another_try_waits_longer_each_time_and_an_eviction_does_not() -> None:
    job = job_of(retries=9)
    for number, wait_ms in ((1, 1_000), (2, 2_000), (3, 4_000)):
        made = [
            attempt_of(job, AttemptStatus.FAILED, number=n, changed_at_ms=NOW_MS - wait_ms + 1)
            for n in range(1, number + 1)
        ]
        assert writes_of(plan_of(job, attempts=made), Start) == []
        due = [replace(attempt, changed_at_ms=NOW_MS - wait_ms) for attempt in made]
        assert len(writes_of(plan_of(job, attempts=due), Start)) == 1
    evicted = attempt_of(job, AttemptStatus.PREEMPTED, changed_at_ms=NOW_MS)
    assert len(writes_of(plan_of(job, attempts=[evicted]), Start)) == 1


def test_a_job_stays_where_its_folder_is() -> None:
    job = job_of(cluster_id=CLUSTER_ID)
    evicted = attempt_of(job, AttemptStatus.PREEMPTED)
    full = cluster_of(queues=False, nodes=[node_of()])
    other = cluster_of(number=2, queues=True, nodes=[node_of(9, devices=9)])
    plan = plan_of(job, attempts=[evicted], clusters=[full, other])
    assert writes_of(plan, Start) == []
    plan = plan_of(job_of(), clusters=[full, other])
    assert [start.cluster_id for start in writes_of(plan, Start)] == [other.cluster.id]


def test_an_array_is_done_when_all_of_it_is() -> None:
    job = job_of(array=3)
    made = [attempt_of(job, AttemptStatus.SUCCEEDED, index=index) for index in (0, 1)]
    running = attempt_of(job, index=2)
    plan = plan_of(job, attempts=[*made, running], clusters=[cluster_of(listed(running))])
    assert status_of(plan, job) == (JobStatus.RUNNING, "1 of 3 run, 2 succeeded")
    ended = attempt_of(job, AttemptStatus.FAILED, index=2, reason="exit code 4")
    plan = plan_of(job, attempts=[*made, ended])
    told = "1 of 3 failed; index 2: attempt 1 failed: exit code 4"
    assert status_of(plan, job) == (JobStatus.FAILED, told)
    done = attempt_of(job, AttemptStatus.SUCCEEDED, index=2)
    assert status_of(plan_of(job, attempts=[*made, done]), job)[0] is JobStatus.SUCCEEDED


def test_dependencies_are_waited_for_and_doom() -> None:
    needed = [typed_id(ids.JOB, n) for n in (7, 8)]
    job = job_of(depends_on=tuple(needed))
    going = ((needed[0], JobStatus.SUCCEEDED), (needed[1], JobStatus.RUNNING))
    plan = plan_of(job, dependencies=going)
    assert writes_of(plan, Start) == []
    assert status_of(plan, job) == (JobStatus.PENDING, f"waits for {needed[1]}")
    for end, word in ((JobStatus.FAILED, "failed"), (JobStatus.CANCELLED, "was cancelled")):
        plan = plan_of(job, dependencies=(going[0], (needed[1], end)))
        assert writes_of(plan, Start) == []
        told = f"it depends on {needed[1]}, which {word}"
        assert status_of(plan, job) == (JobStatus.FAILED, told)
    done = tuple((id_, JobStatus.SUCCEEDED) for id_ in needed)
    assert len(writes_of(plan_of(job, dependencies=done), Start)) == 1


def test_cancelling_ends_what_runs_and_starts_nothing() -> None:
    job = job_of(array=4, cancelled_at_ms=NOW_MS - 1_000, status=JobStatus.RUNNING)
    running = attempt_of(job, node_names=("node-1",))
    pending = attempt_of(job, AttemptStatus.PENDING, index=1)
    evicted = attempt_of(job, AttemptStatus.PREEMPTED, index=2)
    made = [running, pending, evicted]
    plan = plan_of(job, attempts=made, clusters=[cluster_of(listed(running))])
    assert writes_of(plan, Start) == []
    assert set(plan.calls) == {
        StopAttempt(CLUSTER_ID, running.id, drain=True),
        StopAttempt(CLUSTER_ID, pending.id, drain=False),
    }
    (move,) = writes_of(plan, Move)
    assert (move.attempt, move.new.status) == (pending, AttemptStatus.CANCELLED)
    assert status_of(plan, job) == (JobStatus.RUNNING, "is being cancelled")
    late = replace(job, cancelled_at_ms=NOW_MS - 61_000)
    plan = plan_of(late, attempts=made, clusters=[cluster_of(listed(running))])
    assert StopAttempt(CLUSTER_ID, running.id, drain=False) in plan.calls
    over = attempt_of(job, AttemptStatus.CANCELLED)
    plan = plan_of(job, attempts=[over, evicted])
    assert status_of(plan, job) == (JobStatus.CANCELLED, "cancelled as asked")


def test_cancelling_waits_for_a_silent_cluster() -> None:
    job = job_of(cancelled_at_ms=NOW_MS - 1)
    running, pending = attempt_of(job), attempt_of(job, AttemptStatus.PENDING, number=2)
    for attempt in (running, pending):
        plan = plan_of(job, attempts=[attempt], clusters=[cluster_of(view=SILENT)])
        assert plan.calls == ()
        assert writes_of(plan, Move) == []


def test_strays_are_ended_and_nothing_starts_beside_them() -> None:
    stray = AttemptObservation("att_stray", AttemptState.RUNNING, node_names=("node-1",))
    job = job_of()
    plan = plan_of(job, clusters=[cluster_of(stray)])
    assert writes_of(plan, Start) == []
    assert plan.calls == (StopAttempt(CLUSTER_ID, "att_stray", drain=False),)
    over = replace(stray, state=AttemptState.FAILED)
    plan = plan_of(job, clusters=[cluster_of(over)])
    assert plan.calls == (ForgetAttempt(CLUSTER_ID, "att_stray"),)
    back = attempt_of(job, AttemptStatus.NODE_FAILED)
    plan = plan_of(attempts=[back], clusters=[cluster_of(listed(back))])
    assert plan.calls == (StopAttempt(CLUSTER_ID, back.id, drain=False),)


def test_late_reports_lead_nowhere() -> None:
    job = job_of()
    running = attempt_of(job)
    old = listed(running, AttemptState.QUEUED)
    assert writes_of(plan_of(job, attempts=[running], clusters=[cluster_of(old)]), Move) == []
    done = attempt_of(job, AttemptStatus.SUCCEEDED)
    plan = plan_of(attempts=[done], clusters=[cluster_of(listed(done, AttemptState.FAILED))])
    assert writes_of(plan, Move) == []


def test_the_cost_is_what_the_accounting_says() -> None:
    job = job_of()
    over = attempt_of(job, AttemptStatus.SUCCEEDED, is_accounted=False, started_at_ms=NOW_MS - 9)
    record = record_of(over, AttemptState.SUCCEEDED)
    (settle,) = writes_of(plan_of(attempts=[over], records=(record,)), Settle)
    assert settle.is_certain
    assert (settle.new.device_seconds, settle.new.devices, settle.new.external_id) == (
        20,
        2,
        "4711",
    )
    assert writes_of(plan_of(attempts=[over]), Settle) == []
    old = replace(over, changed_at_ms=NOW_MS - 86_400_001, devices=1, ended_at_ms=NOW_MS + 991)
    (settle,) = writes_of(plan_of(attempts=[old]), Settle)
    assert not settle.is_certain
    assert settle.new.device_seconds == 1
    never = replace(over, started_at_ms=None, changed_at_ms=NOW_MS - 600_001)
    (settle,) = writes_of(plan_of(attempts=[never]), Settle)
    assert settle.new.device_seconds == 0


def test_time_for_which_its_cluster_suspended_it_costs_nothing() -> None:
    over = attempt_of(job_of(), AttemptStatus.SUCCEEDED, is_accounted=False)
    record = record_of(over, AttemptState.SUCCEEDED)
    (whole,) = writes_of(plan_of(attempts=[over], records=(record,)), Settle)
    paused = replace(record, suspended_ms=4_000)
    (settle,) = writes_of(plan_of(attempts=[over], records=(paused,)), Settle)
    assert settle.new.device_seconds == whole.new.device_seconds - 4 * record.devices > 0
    assert (settle.new.started_at_ms, settle.new.ended_at_ms) == (
        record.started_at_ms,
        record.ended_at_ms,
    )


def test_a_job_says_that_its_cluster_suspended_it() -> None:
    job = job_of(status=JobStatus.RUNNING, cluster_id=CLUSTER_ID, started_at_ms=5)
    running = attempt_of(job, node_names=("node-1",), started_at_ms=5)
    suspended = listed(running, reason="is suspended on its cluster")
    plan = plan_of(job, attempts=[running], clusters=[cluster_of(suspended)])
    (move,) = writes_of(plan, Move)
    assert (move.new.status, move.new.reason) == (AttemptStatus.RUNNING, suspended.reason)
    (told,) = writes_of(plan, SetJob)
    assert (told.status, told.reason) == (JobStatus.RUNNING, suspended.reason)
    plan = plan_of(job, attempts=[move.new], clusters=[cluster_of(listed(running))])
    (move,) = writes_of(plan, Move)
    assert move.new.reason is None


@pytest.mark.parametrize(
    ("devices", "ms", "expected"), [(4, 1_000, 4), (1, 499, 0), (1, 500, 1), (3, 500, 2), (0, 9, 0)]
)
def test_device_seconds_are_rounded_once(devices: int, ms: int, expected: int) -> None:
    assert device_seconds(devices, NOW_MS, NOW_MS + ms) == expected
    assert device_seconds(devices, None, NOW_MS) == 0


def test_nothing_to_do_is_an_empty_plan() -> None:
    job = job_of(status=JobStatus.RUNNING, cluster_id=CLUSTER_ID, started_at_ms=5)
    running = attempt_of(job, node_names=("node-1",), started_at_ms=5)
    plan = plan_of(job, attempts=[running], clusters=[cluster_of(listed(running))])
    assert plan.writes == ()
    assert plan.calls == ()


def test_a_small_change_of_an_estimate_is_no_news() -> None:
    job = job_of(cluster_id=CLUSTER_ID, reason="queued on local")
    queued = attempt_of(job, AttemptStatus.QUEUED, node_names=("node-1",), starts_at_ms=NOW_MS)

    def plan(starts_at_ms: int) -> object:
        seen = listed(queued, AttemptState.QUEUED, starts_at_ms=starts_at_ms)
        return writes_of(plan_of(job, attempts=[queued], clusters=[cluster_of(seen)]), Move)

    assert plan(NOW_MS + 59_000) == []
    assert plan(NOW_MS + 81_000) != []


@pytest.mark.parametrize(
    ("known_s", "said_s", "told_s"),
    [
        (None, 100, 100),
        (3_600, None, 3_600),  # the scheduler is planning anew
        (-5, None, None),  # it has not started when it was expected to
        (3_600, 4_000, 3_600),
        (3_600, 4_900, 4_900),
        (100, 170, 170),
    ],
)
def test_an_estimate_stays_until_there_is_another(
    known_s: int | None, said_s: int | None, told_s: int | None
) -> None:
    def at_ms(seconds: int | None) -> int | None:
        return None if seconds is None else NOW_MS + 1_000 * seconds

    job = job_of(cluster_id=CLUSTER_ID, reason="queued on local")
    queued = attempt_of(
        job, AttemptStatus.QUEUED, node_names=("node-1",), starts_at_ms=at_ms(known_s)
    )
    seen = listed(queued, AttemptState.QUEUED, starts_at_ms=at_ms(said_s))
    moves = writes_of(plan_of(job, attempts=[queued], clusters=[cluster_of(seen)]), Move)
    told = [move.new.starts_at_ms for move in moves] or [queued.starts_at_ms]
    assert told == [at_ms(told_s)]


def test_a_launch_follows_from_the_job_and_the_attempt() -> None:
    job = job_of(array=3, env=(("A", "b"),), hang_after_s=9)
    attempt = attempt_of(job, index=2, number=4)
    launch = launch_of(job, attempt, (), Tenancy("acme", "web"))
    assert dict(launch.env) == {
        "A": "b",
        "TRAMONTANE_ARRAY_INDEX": "2",
        "TRAMONTANE_ARRAY_COUNT": "3",
    }
    assert (launch.number, launch.secret, launch.device_indexes) == (4, "very-secret", (0,))
    assert (launch.job_id, launch.hang_after_s, launch.tenancy.project) == (job.id, 9, "web")


def test_every_end_is_final() -> None:
    for status in AttemptStatus:
        assert (not TRANSITIONS[status]) == status.is_over
        assert AttemptStatus.PENDING not in TRANSITIONS[status]
    assert {state.value for state in AttemptState} < {status.value for status in AttemptStatus}


def test_the_order_of_a_snapshot_does_not_matter() -> None:
    jobs = [job_of(n, array=2) for n in (1, 2, 3)]
    attempts = [attempt_of(job, AttemptStatus.PREEMPTED) for job in jobs]
    clusters: list[JobCluster] = [cluster_of(), cluster_of(number=2, queues=True, nodes=[])]
    one = plan_of(*jobs, attempts=attempts, clusters=clusters)
    turned = plan_of(*jobs[::-1], attempts=attempts[::-1], clusters=clusters[::-1])
    assert sorted(map(repr, one.writes)) == sorted(map(repr, turned.writes))
    assert sorted(map(repr, one.calls)) == sorted(map(repr, turned.calls))


def test_one_project_cannot_fill_the_queues_of_all() -> None:
    bomb = job_of(1, array=QUEUED_MAX)
    queued = [
        attempt_of(bomb, AttemptStatus.QUEUED, index=index, node_id=None, device_indexes=())
        for index in bomb.indexes
    ]
    more, another = job_of(2, array=10), job_of(3, project_id=typed_id(ids.PROJECT, 2))

    def plan(full: list[Attempt]) -> JobPlan:
        shown = cluster_of(*(listed(it, AttemptState.QUEUED) for it in full), queues=True)
        return plan_of(bomb, more, another, attempts=full, clusters=[shown])

    said = plan(queued)
    assert [start.job_id for start in writes_of(said, Start)] == [another.id]
    waits = f"{QUEUED_MAX} attempts of its project are queued already"
    assert status_of(said, more) == (JobStatus.PENDING, waits)
    ended = [replace(it, status=AttemptStatus.SUCCEEDED) for it in queued[:4]]
    starts = writes_of(plan([*ended, *queued[4:]]), Start)
    assert [start.job_id for start in starts] == [*[more.id] * 4, another.id]


def test_projects_are_submitted_in_turn() -> None:
    many, one = job_of(1, array=50), job_of(2, project_id=typed_id(ids.PROJECT, 2))
    waiting = [attempt_of(many, AttemptStatus.PENDING, index=i) for i in many.indexes]
    late = attempt_of(one, AttemptStatus.PENDING, created_at_ms=NOW_MS)
    said = plan_of(many, one, attempts=[*waiting, late], clusters=[cluster_of(queues=True)])
    submits = [call.attempt_id for call in said.calls if isinstance(call, Submit)]
    assert len(submits) == 51
    assert submits.index(late.id) <= 1
