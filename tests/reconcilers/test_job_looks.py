"""When and whom the job reconciler asks: runners, clusters and their accounting."""

from typing import Any

import pytest

from tests.reconcilers.test_jobs import World
from tramontane.domain.jobs.attempt import AttemptState
from tramontane.domain.jobs.job import Attempt, Job
from tramontane.domain.observation import ClusterView, RunState
from tramontane.domain.report import RunnerReport
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.faults import FailAttempt
from tramontane.store.db import Database
from tramontane.store.reports import runners


@pytest.fixture
def queue(sqlite_database: Database) -> World:
    return World(sqlite_database, queues=True)


def running(world: World) -> tuple[Job, Attempt]:
    """Return a job and its attempt, which its cluster runs."""
    job = world.submit()
    for _ in range(20):
        world.passes()
        if world.statuses(job) == ["running"]:
            return job, world.attempts(job)[0]
    raise AssertionError(world.attempts(job))


def report(world: World, attempt: Attempt, **said: Any) -> None:
    at_ms = world.clock.now_ms()
    told = RunnerReport(attempt.id, RunState.EXITED, at_ms, **said)
    world.db.write(lambda tx: runners.put(tx, told, at_ms))


def test_an_end_that_only_the_runner_told_is_looked_for_at_once(queue: World) -> None:
    _, attempt = running(queue)
    assert queue.jobs.step() is False
    report(queue, attempt, exit_code=0, outcome=AttemptState.SUCCEEDED)
    assert queue.jobs.step() is True
    queue.clock.advance(11_000)
    queue.jobs.step()  # it is over by now
    assert queue.jobs.step() is False


def test_a_cluster_that_never_confirms_an_end_is_not_hurried_for_ever(
    queue: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, attempt = running(queue)
    seen = queue.driver.view()
    monkeypatch.setattr(queue.driver, "view", lambda: seen)
    report(queue, attempt, exit_code=0, outcome=AttemptState.SUCCEEDED)
    assert queue.jobs.step() is True
    queue.clock.advance(11_000)
    assert queue.jobs.step() is False


def test_a_report_from_the_future_hurries_nobody(queue: World) -> None:
    """By a node's wrong clock, or by a tenant who writes it himself."""
    _, attempt = running(queue)
    at_ms = queue.clock.now_ms() + 3_600_000
    told = RunnerReport(attempt.id, RunState.EXITED, at_ms, exit_code=0)
    queue.db.write(lambda tx: runners.put(tx, told, queue.clock.now_ms()))
    assert queue.jobs.step() is False


def test_what_a_runner_says_while_its_cluster_is_asked_counts(
    queue: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.driver.add_fault(FailAttempt(1))
    job, attempt = running(queue)
    view = queue.driver.view

    def told_meanwhile() -> ClusterView:
        if str(queue.attempts(job)[0].status) == "running":
            report(queue, attempt, reason="no time left", outcome=AttemptState.TIMED_OUT)
        return view()

    monkeypatch.setattr(queue.driver, "view", told_meanwhile)
    queue.until_over(job)
    assert queue.statuses(job) == ["timed_out"]
    assert queue.attempts(job)[0].reason == "no time left"


def test_accounting_is_asked_once_for_all_that_starts(
    queue: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    submit, account = queue.driver.submit, queue.driver.account
    monkeypatch.setattr(
        queue.driver, "submit", lambda id_, *rest: calls.append("submit") or submit(id_, *rest)
    )
    monkeypatch.setattr(queue.driver, "account", lambda ids: calls.append(len(ids)) or account(ids))
    queue.submit(array=5)
    queue.passes()
    assert calls == [5, *["submit"] * 5]


@pytest.mark.parametrize("error", [DriverUnavailableError("it is away"), KeyError("a bug")])
def test_a_silent_accounting_keeps_nothing_from_starting(
    queue: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_ids: object) -> None:
        raise error

    monkeypatch.setattr(queue.driver, "account", fail)
    job = queue.submit(array=5)
    queue.passes(4)
    assert "pending" not in queue.statuses(job)


def test_accounting_is_not_asked_in_the_moment_of_the_end(
    queue: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_at_ms: list[int] = []
    account = queue.driver.account
    monkeypatch.setattr(
        queue.driver,
        "account",
        lambda ids: asked_at_ms.append(queue.clock.now_ms()) or account(ids),
    )
    job, _ = running(queue)
    while str(queue.job(job).status) != "succeeded":
        queue.passes(step_ms=100)
    over_ms = queue.attempts(job)[0].changed_at_ms
    assert asked_at_ms == []
    for _ in range(15):
        queue.passes(step_ms=100)
    assert asked_at_ms == [over_ms + 1_000]
    assert queue.attempts(job)[0].is_accounted


def test_without_a_job_it_looks_less_often(queue: World) -> None:
    queue.passes()  # whatever strays on the cluster is looked for once
    queue.passes()
    assert queue.jobs.pause_s(1.0) == 2.0
    assert queue.jobs.pause_s(60.0) == 60.0
    running(queue)
    assert queue.jobs.pause_s(1.0) == 1.0
