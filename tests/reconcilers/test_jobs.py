"""The job reconciler on a fake cluster: every kind of end, and every moment to be killed at."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.cuts import Cut, Killed
from tests.support.jobs import job_of as plain_job
from tests.support.planning import (
    GIB,
    NODE,
    NOW_MS,
    RECIPES,
    CountingIds,
    plant,
    stored_deployment,
    typed_id,
)
from tramontane.domain import ids
from tramontane.domain.event import Event
from tramontane.domain.fleet import Device
from tramontane.domain.jobs.attempt import JobLaunch
from tramontane.domain.jobs.job import Attempt, Job
from tramontane.domain.resources import Resources
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.fake import FakeDriver, FakeNode
from tramontane.drivers.faults import (
    DelayCall,
    DropCall,
    Evict,
    FailAttempt,
    LoseNode,
    LoseReply,
    RepeatCall,
    Silence,
)
from tramontane.reconcilers.jobs.reconciler import JobReconciler
from tramontane.reconcilers.replicas import ReplicaReconciler
from tramontane.runtime.clock import ManualClock
from tramontane.store import deployments, events
from tramontane.store.db import Database
from tramontane.store.jobs import attempts, jobs

ENDED = {"succeeded", "failed", "cancelled"}


class World:
    """A cluster with a queue and one without, and the reconcilers that watch them."""

    def __init__(self, db: Database, *, queues: bool = False) -> None:
        self.db = db
        self.clock = ManualClock(NOW_MS)
        self.ids = CountingIds()
        devices = (Device(0, "gpu", GIB), Device(1, "gpu", GIB))
        gpu = Resources(NODE.cpu_millicores, NODE.memory_bytes, 2)
        nodes = [FakeNode("a", gpu, devices), FakeNode("b", gpu, devices)]
        self.driver = FakeDriver(self.clock, nodes, queues=queues)
        self.charged: dict[str, int] = {}
        self.quota: int | None = None
        plant(db)
        self.replicas = ReplicaReconciler(db, {"local": self.driver}, RECIPES, self.clock, self.ids)
        self.replicas.step()
        self.jobs = self.new_reconciler()

    def new_reconciler(self) -> JobReconciler:
        """Return what a restarted control plane would have."""
        return JobReconciler(
            self.db,
            {"local": self.driver},
            self.clock,
            self.ids,
            quota=lambda _tx, _project_id: self.quota,
            charge=self._charge,
        )

    def _charge(self, _tx: Any, attempt_id: str, _class: Any, seconds: int, _now: int) -> None:
        self.charged[attempt_id] = seconds

    def submit(self, number: int = 1, **fields: Any) -> Job:
        job = plain_job(number, **fields)
        assert self.db.write(lambda tx: jobs.insert(tx, job, ()))
        return job

    def job(self, job: Job) -> Job:
        with self.db.read() as tx:
            found = jobs.get_for(tx, None, job.id)
        assert found is not None
        return found

    def cancel(self, job: Job) -> None:
        seen = self.job(job)
        asked = replace(seen, cancelled_at_ms=self.clock.now_ms())
        self.db.write(lambda tx: jobs.update(tx, seen, asked))

    def attempts(self, job: Job) -> list[Attempt]:
        with self.db.read() as tx:
            return attempts.list_of(tx, job.id, limit=1_000)

    def statuses(self, job: Job) -> list[str]:
        return [str(attempt.status) for attempt in self.attempts(job)]

    def passes(self, count: int = 1, *, step_ms: int = 500) -> None:
        for _ in range(count):
            self.jobs.step()
            self.clock.advance(step_ms)

    def until_over(self, *of: Job, passes_max: int = 200) -> None:
        for _ in range(passes_max):
            self.passes()
            if all(self.job(job).status in ENDED for job in of):
                return
        pytest.fail(f"{[self.job(job) for job in of]}")

    def story(self, job: Job) -> list[Event]:
        with self.db.read() as tx:
            return events.story(tx, job.id, None, limit=100)

    def check(self) -> None:
        """Check what must hold in every world: no id started twice, no device shared."""
        assert set(self.driver.attempts.starts.values()) <= {1}
        now_ms = self.clock.now_ms()
        held: dict[tuple[str, int], str] = {}
        for it in self.driver.attempts.all():
            if not it.state_at(now_ms).is_over and not self.driver.queues:
                for index in it.launch.device_indexes:
                    place = (it.node_names[0], index)
                    assert place not in held
                    held[place] = it.attempt_id


@pytest.fixture
def world(sqlite_database: Database) -> World:
    return World(sqlite_database)


@pytest.fixture(params=["own", "queue"])
def either(request: pytest.FixtureRequest, sqlite_database: Database) -> Iterator[World]:
    made = World(sqlite_database, queues=request.param == "queue")
    yield made
    made.check()


def test_a_job_runs_and_is_accounted(either: World) -> None:
    job = either.submit()
    either.until_over(job)
    either.passes(3)
    done = either.job(job)
    assert (str(done.status), done.reason) == ("succeeded", None)
    (attempt,) = either.attempts(job)
    assert (attempt.exit_code, attempt.devices, attempt.is_accounted) == (0, 1, True)
    (really,) = either.driver.attempts.all()
    assert (attempt.started_at_ms, attempt.ended_at_ms) == (really.starts_at_ms, really.ends_at_ms)
    assert done.started_at_ms == really.starts_at_ms
    assert either.charged == {attempt.id: attempt.device_seconds}
    assert attempt.device_seconds in {3, 4, 5}
    kinds = [event.kind for event in either.story(job)]
    assert kinds[0] == "attempt.made"
    assert kinds[-1] == "job.succeeded"


def test_on_both_databases(database: Database) -> None:
    world = World(database)
    job = world.submit(array=3)
    world.until_over(job)
    assert world.statuses(job) == ["succeeded"] * 3


def test_a_failure_is_tried_again_as_often_as_wished(either: World) -> None:
    for start in (1, 2, 3):
        either.driver.add_fault(FailAttempt(start))
    job = either.submit(retries=2)
    either.until_over(job)
    assert either.statuses(job) == ["failed"] * 3
    done = either.job(job)
    assert done.reason == "attempt 3 failed: exit code 1"
    assert str(done.status) == "failed"


def test_an_evicted_attempt_is_followed_by_another(either: World) -> None:
    either.driver.add_fault(Evict(1))
    either.driver.add_fault(Evict(2))
    job = either.submit()
    either.until_over(job)
    assert either.statuses(job) == ["preempted", "preempted", "succeeded"]


def test_a_job_over_its_time_limit(either: World) -> None:
    job = either.submit(time_limit_s=1)
    either.until_over(job)
    assert either.statuses(job) == ["timed_out"]
    assert "ran into its time limit" in (either.job(job).reason or "")


def test_an_array_goes_through_what_room_there_is(world: World) -> None:
    job = world.submit(array=10)
    for _ in range(100):
        world.passes()
        world.check()
    assert world.statuses(job) == ["succeeded"] * 10
    assert str(world.job(job).status) == "succeeded"


def test_a_chain_of_jobs(either: World) -> None:
    first = either.submit(1)
    second = either.submit(2, depends_on=(first.id,))
    third = either.submit(3, depends_on=(second.id,))
    either.until_over(third)
    begun = [either.job(job).started_at_ms or 0 for job in (first, second, third)]
    assert begun == sorted(begun)
    ended = either.job(first).ended_at_ms or 0
    assert begun[1] >= ended


def test_a_chain_breaks(either: World) -> None:
    either.driver.add_fault(FailAttempt(1))
    first = either.submit(1)
    second = either.submit(2, depends_on=(first.id,))
    third = either.submit(3, depends_on=(second.id,))
    either.until_over(third)
    assert either.statuses(second) == either.statuses(third) == []
    assert either.job(third).reason == f"it depends on {second.id}, which failed"


@pytest.mark.parametrize("after", range(5))
def test_cancelled_at_any_moment(either: World, after: int) -> None:
    job = either.submit(array=2, retries=3)
    either.passes(after)
    either.cancel(job)
    either.until_over(job)
    assert str(either.job(job).status) == "cancelled"
    either.clock.advance(10_000)
    now_ms = either.clock.now_ms()
    assert all(it.state_at(now_ms).is_over for it in either.driver.attempts.all())
    started = len(either.driver.attempts.all())
    either.passes(5)
    assert len(either.driver.attempts.all()) == started


@pytest.mark.parametrize("fault", [LoseReply, DropCall, RepeatCall])
def test_lost_and_doubled_calls_start_nothing_twice(either: World, fault: Any) -> None:
    for call in (1, 2, 3):
        either.driver.add_fault(fault(either.driver.next_call + call - 1))
    job = either.submit()
    either.until_over(job)
    assert either.statuses(job) == ["succeeded"]
    assert len(either.driver.attempts.all()) == 1


def test_a_call_that_arrives_after_the_cancellation_is_ended(either: World) -> None:
    either.driver.add_fault(DelayCall(either.driver.next_call, 3_000))
    job = either.submit()
    either.passes(1)
    either.cancel(job)
    either.passes(1)
    assert str(either.job(job).status) == "cancelled"
    either.clock.advance(60_001)  # with no job at all, strays are looked for once a minute
    either.passes(4)
    now_ms = either.clock.now_ms()
    assert all(it.state_at(now_ms).is_over for it in either.driver.attempts.all())


def test_silence_changes_nothing(either: World) -> None:
    job = either.submit()
    either.passes(4)
    assert either.statuses(job) == ["running"]
    elapsed = either.driver.elapsed_ms
    either.driver.add_fault(Silence(elapsed, elapsed + 20_000))
    either.passes(30)
    assert either.statuses(job) == ["running"]
    assert "does not answer" in (either.job(job).reason or "")
    either.until_over(job)
    assert either.statuses(job) == ["succeeded"]


def test_a_lost_node_costs_one_attempt(world: World) -> None:
    job = world.submit()
    world.passes(3)
    (attempt,) = world.attempts(job)
    elapsed = world.driver.elapsed_ms
    fault = LoseNode(attempt.node_names[0], elapsed, elapsed + 60_000, is_fatal=True)
    world.driver.add_fault(fault)
    world.replicas.step()
    world.until_over(job)
    assert world.statuses(job) == ["node_failed", "succeeded"]
    assert world.attempts(job)[1].node_names != attempt.node_names


def test_what_was_thought_lost_and_returns_is_ended(world: World) -> None:
    world.driver.attempts._run_ms = 60_000
    job = world.submit()
    world.passes(3)
    (attempt,) = world.attempts(job)
    elapsed = world.driver.elapsed_ms
    world.driver.add_fault(LoseNode(attempt.node_names[0], elapsed, elapsed + 2_000))
    world.replicas.step()
    world.passes(3)
    assert world.statuses(job)[0] == "node_failed"
    world.clock.advance(3_000)
    world.passes(5)
    now_ms = world.clock.now_ms()
    going = [it for it in world.driver.attempts.all() if not it.state_at(now_ms).is_over]
    assert [it.attempt_id for it in going] == [world.attempts(job)[1].id]


def test_replicas_and_jobs_never_share_a_device(world: World) -> None:
    job = world.submit(array=3)
    world.passes(3)
    deployment = stored_deployment(replicas=3)
    deployment = replace(deployment, spec=replace(deployment.spec, devices=1))
    world.db.write(lambda tx: deployments.insert(tx, deployment))
    for _ in range(40):
        world.replicas.step()
        world.passes()
        taken: list[tuple[str, int]] = []
        now_ms = world.clock.now_ms()
        for process in world.driver.processes():
            taken += [(process.node_name, index) for index in process.launch.device_indexes]
        for it in world.driver.attempts.all():
            if not it.state_at(now_ms).is_over:
                taken += [(it.node_names[0], index) for index in it.launch.device_indexes]
        assert len(taken) == len(set(taken)) <= 4
    assert world.statuses(job) == ["succeeded"] * 3
    assert len(world.driver.processes()) == 3


def test_the_quota_holds_where_tramontane_places(world: World) -> None:
    world.quota = 1
    job = world.submit(array=3)
    for _ in range(60):
        world.passes()
        now_ms = world.clock.now_ms()
        going = [it for it in world.driver.attempts.all() if not it.state_at(now_ms).is_over]
        assert len(going) <= 1
    assert world.statuses(job) == ["succeeded"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(1, 12))
def test_killed_at_any_call(either: World, cut: int) -> None:
    """The process ends right after its n-th write or call; the next one goes on from there."""
    either.driver.add_fault(FailAttempt(1))
    either.driver.add_fault(Evict(2))
    job = either.submit(array=2, retries=1)
    killed = Cut(cut)
    either.db.write = killed.around(either.db.write)  # type: ignore[method-assign]
    either.driver.submit = killed.around(either.driver.submit)  # type: ignore[method-assign]
    for _ in range(150):
        try:
            either.passes()
        except Killed:
            either.jobs = either.new_reconciler()
    assert killed.has_come, "it was killed"
    assert str(either.job(job).status) == "succeeded"
    assert len(either.driver.attempts.all()) == 4
    assert {a.id for a in either.attempts(job)} == set(either.driver.attempts.starts)


def test_two_control_planes_make_nothing_twice(either: World) -> None:
    job = either.submit(array=3)
    other = either.new_reconciler()
    for _ in range(60):
        either.passes()
        other.step()
    assert either.statuses(job) == ["succeeded"] * 3


def test_what_its_cluster_refuses_is_not_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_id: str, _launch: JobLaunch, _node: str | None = None) -> None:
        raise ValueError("invalid account or account/partition combination")

    monkeypatch.setattr(world.driver, "submit", refuse)
    job = world.submit(retries=5)
    world.until_over(job)
    assert world.statuses(job) == ["refused"]
    told = "attempt 1 was refused: invalid account or account/partition combination"
    assert world.job(job).reason == told


def test_a_start_that_does_not_work_is_tried_again_and_says_why(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = world.driver.submit

    def fail(*_given: object) -> None:
        raise DriverUnavailableError("slurmrestd does not answer")

    monkeypatch.setattr(world.driver, "submit", fail)
    job = world.submit()
    world.passes(4)
    assert world.job(job).reason == "its start is tried again: slurmrestd does not answer"
    monkeypatch.setattr(world.driver, "submit", really)
    world.until_over(job)
    assert world.statuses(job) == ["succeeded"]


def test_an_accounting_that_is_silent_makes_nothing_gone(
    either: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_ids: object) -> None:
        raise DriverUnavailableError("slurmdbd does not answer")

    job = either.submit()
    either.passes(4)
    (attempt,) = either.attempts(job)
    known = either.driver.attempts
    with monkeypatch.context() as patch:
        patch.setattr(either.driver, "account", fail)
        either.clock.advance(10_000)
        known.forget(attempt.id)  # it left the cluster's list, as after five minutes on Slurm
        either.passes(5)
        assert either.statuses(job) == ["running"]
    either.until_over(job)
    assert either.statuses(job) == ["succeeded"]


def test_accounting_that_differs_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    account = world.driver.account

    def longer(attempt_ids: Any) -> Any:
        records = account(attempt_ids)
        return {i: replace(r, ended_at_ms=r.ended_at_ms + 5_000) for i, r in records.items()}

    monkeypatch.setattr(world.driver, "account", longer)
    job = world.submit()
    world.until_over(job)
    world.passes(3)
    (told,) = [e for e in world.story(job) if e.kind == "attempt.accounted_differently"]
    assert "the accounting counts" in told.message
    (attempt,) = world.attempts(job)
    assert attempt.device_seconds >= 8


def test_at_rest_nothing_is_asked_or_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.until_over(world.submit())
    world.passes(5)
    looks: list[int] = []
    view = world.driver.view
    monkeypatch.setattr(world.driver, "view", lambda: looks.append(1) or view())
    monkeypatch.setattr(world.db, "write", lambda _fn: pytest.fail("it wrote"))
    world.passes(100)
    assert len(looks) <= 1


def test_shutting_down_interrupts_and_the_next_start_goes_on(world: World) -> None:
    job = world.submit(array=2)
    world.passes(3)
    own = {"local": world.driver}
    wait = world.clock.advance
    left = world.jobs.drain_all(own, 30, wait=lambda s: wait(int(s * 1_000)))
    assert left == ()
    assert world.statuses(job) == ["node_failed", "node_failed"]
    assert world.attempts(job)[0].reason == "its machine shut down"
    world.jobs = world.new_reconciler()
    world.until_over(job)
    assert world.statuses(job).count("succeeded") == 2


def test_ids_are_attempts(world: World) -> None:
    job = world.submit()
    world.passes(2)
    (attempt,) = world.attempts(job)
    assert ids.prefix_of(attempt.id) == ids.ATTEMPT
    assert len(attempt.secret) == 48
    assert attempt.job_id == typed_id(ids.JOB, 1)
