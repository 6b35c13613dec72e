"""The retention reconciler: what ended jobs left goes, once, and nothing else does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.reconcilers.test_jobs import World
from tests.support.cuts import Cut, Killed
from tests.support.jobs import job_of
from tests.support.planning import typed_id
from tramontane.domain import ids
from tramontane.domain.jobs.job import Job
from tramontane.domain.jobs.retention import DAY_MS, Retention
from tramontane.domain.launch import Tenancy
from tramontane.domain.tenancy import Organization, Project
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.faults import DropCall, FailAttempt, LoseReply, RepeatCall, Silence
from tramontane.reconcilers.jobs import retention as retention_module
from tramontane.reconcilers.jobs.retention import RetentionReconciler
from tramontane.store import tenancy
from tramontane.store.db import Database
from tramontane.store.jobs import attempts, jobs, retained
from tramontane.store.quotas import attempts as bill
from tramontane.store.quotas import class_prices
from tramontane.store.quotas.attempts import BillRange

KEPT = Retention(30 * DAY_MS, 90 * DAY_MS)


class Keeper(World):
    """A world whose jobs are charged, and what looks after what they left."""

    def __init__(self, db: Database, *, queues: bool = False, kept: Retention = KEPT) -> None:
        super().__init__(db, queues=queues)
        self.kept = kept
        self.retention = self.new_retention()

    def new_retention(self) -> RetentionReconciler:
        """Return what a restarted control plane would have."""
        return RetentionReconciler(self.db, {"local": self.driver}, self.clock, self.kept)

    def _charge(self, tx: Any, attempt_id: str, class_: Any, seconds: int, now_ms: int) -> None:
        class_prices.charge(tx, attempt_id, class_, seconds, now_ms)

    def tidy(self, passes_max: int = 50) -> None:
        """Make passes until nothing more is to be done."""
        for _ in range(passes_max):
            if not self.retention.step():
                return
        pytest.fail("it never comes to rest")

    def done(self, number: int = 1, **fields: Any) -> Job:
        """Return a job that is over and accounted."""
        job = self.submit(number, **fields)
        self.until_over(job)
        self.passes(3)
        return self.job(job)

    def delete(self, job: Job) -> None:
        now_ms = self.clock.now_ms()

        def write(tx: Any) -> None:
            seen = jobs.get_for(tx, None, job.id)
            assert seen is not None
            retained.take_out(tx, seen, now_ms)

        self.db.write(write)

    def left(self, job: Job) -> Job | None:
        with self.db.read() as tx:
            return jobs.get(tx, job.id)

    def listed(self) -> list[str]:
        with self.db.read() as tx:
            return [job.id for job in jobs.list_for(tx, None, limit=100)]

    def billed(self, job: Job) -> list[tuple[str, str, int | None]]:
        with self.db.read() as tx:
            which = BillRange(job_id=job.id)
            found = bill.list_billed(tx, which, after=None, limit=100)
            assert sum(t.attempts for t in bill.totals(tx, which)) == len(found)
        return [(it.attempt.id, it.job_name, it.cost_nano) for it in found]

    def pieces(self, job: Job) -> int:
        """Return how much of the job's files is left."""
        return self.driver.attempts.pieces[job.id]

    def kinds(self, job: Job) -> list[str]:
        return [event.kind for event in self.story(job)]


@pytest.fixture
def keeper(sqlite_database: Database) -> Keeper:
    return Keeper(sqlite_database)


def test_files_go_after_their_days_and_the_job_after_its_own(database: Database) -> None:
    keeper = Keeper(database)
    keeper.db.write(lambda tx: class_prices.put(tx, job_of().spec.priority_class, 3_600_000, 1))
    keeper.driver.add_fault(FailAttempt(1))
    job = keeper.done(retries=1)
    (first, second) = keeper.attempts(job)
    billed = keeper.billed(job)
    assert [line[0] for line in billed] == [first.id, second.id]
    assert all(cost for _, _, cost in billed)
    keeper.clock.advance(30 * DAY_MS - 60_000)
    keeper.tidy()
    assert keeper.pieces(job) == 1
    assert keeper.driver.read_log(second.id, 0, 0, 100)
    keeper.clock.advance(60_000)
    keeper.tidy()
    assert keeper.pieces(job) == 0
    kept = keeper.job(job)
    assert kept.files_removed_at_ms == keeper.clock.now_ms()
    assert kept.spec.command == job.spec.command, "the job is still shown"
    assert keeper.driver.read_log(second.id, 0, 0, 100) == b""
    assert all(attempt.is_forgotten for attempt in keeper.attempts(job))
    keeper.clock.advance(60 * DAY_MS - 60_000)
    keeper.tidy()
    assert keeper.listed() == [job.id]
    keeper.clock.advance(60_000)
    keeper.tidy()
    assert keeper.listed() == []
    assert keeper.billed(job) == billed
    left = keeper.left(job)
    assert left is not None
    assert (left.spec.command, left.reason) == ((), None)
    assert {(a.secret, a.reason) for a in keeper.attempts(job)} == {("", None)}
    assert keeper.kinds(job)[-2:] == ["job.files_removed", "job.deleted"]
    assert keeper.kinds(job).count("job.files_removed") == 1


def test_with_nothing_to_do_nothing_is_written(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = keeper.done()
    keeper.clock.advance(31 * DAY_MS)
    keeper.tidy()
    monkeypatch.setattr(keeper.db, "write", lambda _fn: pytest.fail("it wrote"))
    monkeypatch.setattr(keeper.driver, "view", lambda: pytest.fail("it asked"))
    assert not keeper.retention.step()
    assert keeper.listed() == [job.id]


def test_zero_days_are_for_ever(sqlite_database: Database) -> None:
    keeper = Keeper(sqlite_database, kept=Retention(None, None))
    job, other = keeper.done(1), keeper.done(2)
    keeper.clock.advance(4_000 * DAY_MS)
    keeper.tidy()
    assert (keeper.pieces(job), keeper.listed()) == (1, [job.id, other.id])
    keeper.delete(job)
    keeper.tidy()
    assert (keeper.pieces(job), keeper.pieces(other)) == (0, 1)


def test_what_a_job_waits_for_stays_until_that_is_over(keeper: Keeper) -> None:
    first = keeper.done(1)
    second = keeper.submit(2, depends_on=(first.id,), cluster="nowhere")
    keeper.clock.advance(400 * DAY_MS)
    keeper.tidy()
    assert (keeper.pieces(first), first.id in keeper.listed()) == (1, True)
    keeper.cancel(second)
    keeper.until_over(second)
    keeper.tidy()
    assert keeper.pieces(first) == 0
    assert keeper.listed() == [second.id]


def test_an_array_goes_as_one(keeper: Keeper) -> None:
    job = keeper.done(array=5)
    lines = keeper.billed(job)
    assert len(lines) == 5
    keeper.driver.attempts.pieces[job.id] = 7
    keeper.delete(job)
    keeper.tidy()
    assert keeper.pieces(job) == 0
    assert keeper.billed(job) == lines
    assert keeper.driver.view().attempts == ()  # type: ignore[union-attr]


def test_of_what_never_started_nothing_stays_but_its_story(keeper: Keeper) -> None:
    job = keeper.submit(cluster="nowhere")
    keeper.cancel(job)
    keeper.until_over(job)
    keeper.delete(keeper.job(job))
    keeper.tidy()
    assert keeper.left(job) is None
    assert keeper.kinds(job)[-1] == "job.cancelled"


def test_a_silent_cluster_keeps_files_until_it_answers(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = keeper.done()
    elapsed = keeper.driver.elapsed_ms
    keeper.driver.add_fault(Silence(elapsed, elapsed + 40 * DAY_MS))
    keeper.delete(job)
    with monkeypatch.context() as patch:
        patch.setattr(keeper.driver, "remove_job", lambda *_: pytest.fail("it was asked"))
        for _ in range(5):
            keeper.tidy()
            keeper.clock.advance(6 * DAY_MS)
    assert keeper.pieces(job) == 1
    assert keeper.listed() == []
    keeper.clock.advance(20 * DAY_MS)
    keeper.tidy()
    assert keeper.pieces(job) == 0
    assert keeper.kinds(job).count("job.files_removed") == 1


def test_a_cluster_that_nothing_reaches_any_more_keeps_its_files(keeper: Keeper) -> None:
    job = keeper.done()
    keeper.retention = RetentionReconciler(keeper.db, {}, keeper.clock, KEPT)
    keeper.clock.advance(400 * DAY_MS)
    keeper.tidy()
    assert (keeper.pieces(job), keeper.listed()) == (1, [job.id])


def test_nothing_goes_before_its_cost_is_known(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_ids: object) -> None:
        raise DriverUnavailableError("the accounting does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(keeper.driver, "account", silent)
        job = keeper.submit()
        keeper.until_over(job)
        keeper.delete(keeper.job(job))
        keeper.tidy()
        assert keeper.pieces(job) == 1
    keeper.passes(200, step_ms=1_000)
    (line,) = keeper.billed(job)
    keeper.tidy()
    assert keeper.pieces(job) == 0
    assert keeper.billed(job) == [line]


def test_what_still_lives_keeps_its_files(keeper: Keeper) -> None:
    """Its cluster lost it, says its row; then it turns out to run on."""
    job = keeper.done()
    stray = replace(keeper.driver.attempts.all()[0], ends_at_ms=keeper.clock.now_ms() + 90_000)
    keeper.driver.attempts._attempts[stray.attempt_id] = stray
    keeper.delete(job)
    keeper.tidy()
    assert keeper.pieces(job) == 1
    keeper.clock.advance(61_000)
    keeper.tidy()
    assert keeper.pieces(job) == 1
    keeper.clock.advance(121_000)
    keeper.tidy()
    assert keeper.pieces(job) == 0


@pytest.mark.parametrize("fault", [LoseReply, DropCall, RepeatCall])
def test_lost_and_doubled_calls_are_repeated(
    keeper: Keeper, fault: Callable[[int], LoseReply | DropCall | RepeatCall]
) -> None:
    job = keeper.done()
    keeper.driver.add_fault(fault(keeper.driver.next_call))
    keeper.delete(job)
    keeper.tidy()
    keeper.clock.advance(61_000)
    keeper.tidy()
    assert keeper.pieces(job) == 0
    assert keeper.kinds(job).count("job.files_removed") == 1


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(1, 8))
def test_killed_at_any_write_or_call(keeper: Keeper, cut: int) -> None:
    """The process ends right after its n-th write or call; the next one goes on from there."""
    first, second = keeper.done(1, array=2), keeper.done(2)
    bills = [keeper.billed(first), keeper.billed(second)]
    keeper.driver.attempts.pieces[first.id] = 2
    killed = Cut(cut)
    keeper.db.write = killed.around(keeper.db.write)  # type: ignore[method-assign]
    keeper.driver.remove_job = killed.around(keeper.driver.remove_job)  # type: ignore[method-assign]
    for days in (31, 60):
        keeper.clock.advance(days * DAY_MS)
        for _ in range(10):
            try:
                keeper.retention.step()
            except Killed:
                keeper.retention = keeper.new_retention()
    assert killed.has_come, "it was killed"
    assert keeper.listed() == []
    assert keeper.pieces(first) == keeper.pieces(second) == 0
    assert [keeper.billed(first), keeper.billed(second)] == bills
    for job in (first, second):
        assert keeper.kinds(job).count("job.files_removed") == 1
        assert keeper.kinds(job).count("job.deleted") == 1


def test_two_control_planes_remove_once(keeper: Keeper) -> None:
    job = keeper.done()
    other = keeper.new_retention()
    keeper.clock.advance(400 * DAY_MS)
    for _ in range(5):
        keeper.retention.step()
        other.step()
    assert keeper.kinds(job).count("job.files_removed") == 1
    assert keeper.kinds(job).count("job.deleted") == 1


def test_what_cannot_be_removed_holds_up_nobody(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "REMOVALS_MAX", 2)
    monkeypatch.setattr(retention_module, "ROWS_MAX", 2)
    found = [keeper.done(number) for number in range(1, 8)]
    stuck = {job.id for job in found[:3]}
    really, asked = keeper.driver.remove_job, list[str]()

    def remove(job_id: str, attempt_ids: Any, of: Tenancy) -> bool:
        asked.append(job_id)
        if job_id in stuck:
            raise DriverUnavailableError("cannot remove it: Permission denied")
        return really(job_id, attempt_ids, of)

    monkeypatch.setattr(keeper.driver, "remove_job", remove)
    keeper.clock.advance(31 * DAY_MS)
    for _ in range(4):
        keeper.tidy()
    assert [keeper.pieces(job) for job in found] == [1, 1, 1, 0, 0, 0, 0]
    assert {asked.count(id_) for id_ in stuck} == {1}, "it is not tried at each pass"
    stuck.clear()
    keeper.clock.advance(3_600_000)
    for _ in range(4):
        keeper.tidy()
    assert [keeper.pieces(job) for job in found] == [0] * 7


def test_large_jobs_that_fill_a_page_go_without_a_pause(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "REMOVALS_MAX", 2)
    found = [keeper.done(1), keeper.done(2)]
    for job in found:
        keeper.driver.attempts.pieces[job.id] = 5
        keeper.delete(job)
    keeper.tidy()
    assert [keeper.pieces(job) for job in found] == [0, 0]


def test_that_files_are_gone_is_recorded_once(keeper: Keeper) -> None:
    job = keeper.done()

    def note(job_id: str, at_ms: int) -> bool:
        return keeper.db.write(lambda tx: retained.note_files_removed(tx, job_id, at_ms))

    assert not note(job.id, 5), "nobody gave them up"
    keeper.db.write(lambda tx: retained.give_up_files(tx, job, 4))
    assert [note(job.id, 5), note(job.id, 6), note("job_x", 7)] == [True, False, False]
    assert keeper.job(job).files_removed_at_ms == 5


def test_each_tenant_loses_its_own_only(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Organization(typed_id(ids.ORGANIZATION, 7), "globex", 1)
    lab = Project(typed_id(ids.PROJECT, 7), owner.id, "lab", 1)
    keeper.db.write(lambda tx: tenancy.insert_organization(tx, owner))
    keeper.db.write(lambda tx: tenancy.insert_project(tx, lab))
    mine, theirs = keeper.done(1), keeper.done(2, project_id=lab.id)
    really, told = keeper.driver.remove_job, list[tuple[str, Tenancy]]()

    def remove(job_id: str, attempt_ids: Any, of: Tenancy) -> bool:
        told.append((job_id, of))
        assert list(attempt_ids) == [it.id for it in keeper.attempts(theirs)]
        return really(job_id, attempt_ids, of)

    monkeypatch.setattr(keeper.driver, "remove_job", remove)
    keeper.delete(theirs)
    keeper.tidy()
    assert told == [(theirs.id, Tenancy("globex", "lab"))]
    assert (keeper.pieces(mine), keeper.pieces(theirs)) == (1, 0)
    assert keeper.listed() == [mine.id]


def test_ended_attempts_that_are_still_listed_are_read_once(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.done(array=4)
    keeper.submit(2, cluster="nowhere")  # so that passes look
    keeper.passes(2)
    monkeypatch.setattr(attempts, "list_among", lambda *_: pytest.fail("it read them again"))
    keeper.passes(3)
    (first, *_) = keeper.driver.attempts.all()
    back = replace(first, ends_at_ms=keeper.clock.now_ms() + 60_000)
    keeper.driver.attempts._attempts[first.attempt_id] = back
    monkeypatch.undo()
    keeper.passes(10)
    assert back.attempt_id in {it.attempt_id for it in keeper.driver.attempts.all()}
    ended = next(i for i in keeper.driver.attempts.all() if i.attempt_id == back.attempt_id)
    assert ended.ends_at_ms < back.ends_at_ms, "what lives though it is over is ended"
