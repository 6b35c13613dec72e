"""Reports of runners complete what a queueing cluster shows, and go when what they tell of ends."""

from dataclasses import replace
from typing import Any

import pytest

from tests.reconcilers.conftest import CountingDatabase, Small
from tests.reconcilers.test_jobs import World
from tests.support.planning import stored_deployment
from tramontane.domain.jobs.attempt import AttemptState
from tramontane.domain.jobs.job import JobStatus
from tramontane.domain.observation import ClusterView, Observation, Reachable, RunState
from tramontane.domain.report import RunnerReport
from tramontane.drivers.fake import FakeDriver
from tramontane.store.db import Database
from tramontane.store.reports import runners


class SilentInside(FakeDriver):
    """A cluster that knows what runs, as Slurm does, and not what goes on inside."""

    def view(self) -> ClusterView:
        view = super().view()
        if not isinstance(view, Reachable):
            return view
        return replace(view, observations=tuple(map(_from_outside, view.observations)))


def _from_outside(seen: Observation) -> Observation:
    if seen.run_state is RunState.EXITED:
        return replace(seen, reason="COMPLETED")
    return Observation(seen.replica_id, seen.node_name, RunState.STARTING)


@pytest.fixture
def small(sqlite_url: str) -> Any:
    db = CountingDatabase(sqlite_url)
    made = Small(db)
    nodes = list(made.driver._nodes.values())
    made.driver = SilentInside(made.clock, nodes, name="slurm", queues=True)
    made.reconciler = made.new_reconciler()
    yield made
    db.close()


def say(db: Database, id_: str, run_state: RunState, **more: Any) -> None:
    report = replace(RunnerReport(id_, run_state, 1), **more)
    db.write(lambda tx: runners.put(tx, report, 1))


def kept(db: Database) -> set[str]:
    with db.read() as tx:
        return {*runners.list_of(tx, "rep"), *runners.list_of(tx, "att")}


def test_a_replica_is_ready_when_its_runner_says_so(small: Small) -> None:
    wanted = small.want(stored_deployment(replicas=1))
    small.passes(5)
    assert small.statuses(wanted.id) == ["starting"]
    (replica,) = small.replicas(wanted.id)
    say(small.db, replica.id, RunState.READY, address="10.0.0.1:8000", requests_running=0)
    small.passes(2)
    assert small.statuses(wanted.id) == ["ready"]
    (route,) = small.table().routes
    assert route.replicas[0].address == "10.0.0.1:8000"
    assert isinstance(small.db, CountingDatabase)
    writes = small.db.writes
    small.passes(3)
    assert small.db.writes == writes  # reports cost no write of their own


def test_its_end_has_the_runners_words_and_its_report_goes(small: Small) -> None:
    wanted = small.want(stored_deployment(replicas=1))
    small.passes(4)
    (replica,) = small.replicas(wanted.id)
    say(small.db, replica.id, RunState.EXITED, reason="engine exited with status 7:\nno memory")
    small.passes(1)
    (ended,) = [r for r in small.replicas(wanted.id) if r.id == replica.id]
    assert ended.status == "failed"
    assert "no memory" in (ended.reason or "")
    assert kept(small.db) == {replica.id}
    small.passes(1)
    assert kept(small.db) == set()


def test_reports_on_what_is_not_there_change_nothing_and_go(small: Small) -> None:
    wanted = small.want(stored_deployment(replicas=1))
    small.passes(4)
    for id_ in ("rep_unknown", "rep_another"):
        say(small.db, id_, RunState.EXITED, reason="gone")
    say(small.db, "att_unknown", RunState.EXITED)  # the jobs' reconciler looks after these
    small.passes(2)
    assert small.statuses(wanted.id) == ["starting"]
    assert kept(small.db) == {"att_unknown"}


def test_where_the_driver_reads_reports_itself_these_do_not_count(
    sqlite_database: Database,
) -> None:
    small = Small(sqlite_database)
    wanted = small.want(stored_deployment(replicas=1))
    small.passes(5)
    (replica,) = small.replicas(wanted.id)
    say(small.db, replica.id, RunState.EXITED, reason="forged")
    small.passes(2)
    assert small.statuses(wanted.id) == ["ready"]


def test_an_attempt_ends_with_its_runners_words(sqlite_database: Database) -> None:
    world = World(sqlite_database, queues=True)
    job = world.submit(retries=0)
    world.passes(4)
    (attempt,) = world.attempts(job)
    say(
        world.db,
        attempt.id,
        RunState.EXITED,
        reason="the command exited with status 3:\nout of luck",
        exit_code=3,
        outcome=AttemptState.FAILED,
    )
    say(world.db, "att_unknown", RunState.EXITED)
    world.passes(1)
    assert kept(world.db) == {attempt.id}
    world.driver.attempts.crash(attempt.id)
    world.until_over(job)
    assert world.job(job).status is JobStatus.FAILED
    (over,) = world.attempts(job)
    assert over.exit_code == 3
    assert "out of luck" in (over.reason or "")
    world.passes(2)
    assert kept(world.db) == set()
