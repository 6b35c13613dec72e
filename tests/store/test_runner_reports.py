"""What runners said last, on both databases."""

from dataclasses import replace

from tramontane.domain.jobs.attempt import AttemptState
from tramontane.domain.observation import RunState
from tramontane.domain.report import RunnerReport
from tramontane.store.reports import runners

FULL = RunnerReport(
    id="rep_a",
    run_state=RunState.DRAINING,
    at_ms=1 << 50,
    address="[2001:db8::1]:8000",
    reason="grüße\nzwei",
    requests_running=3,
    requests_waiting=0,
    exit_code=-9,
    outcome=AttemptState.TIMED_OUT,
    node_name="r1n1",
)
BARE = RunnerReport("att_a", RunState.STARTING, 0)


def test_the_last_word_replaces_the_one_before(database):
    for report in (FULL, BARE, replace(FULL, run_state=RunState.EXITED, address=None)):
        database.write(lambda tx, report=report: runners.put(tx, report, 7))
    with database.read() as tx:
        assert runners.get(tx, "att_a") == BARE
        assert runners.get(tx, "rep_a") == replace(FULL, run_state=RunState.EXITED, address=None)
        assert runners.get(tx, "rep_b") is None


def test_they_are_listed_by_kind_and_forgotten_by_id(database):
    reports = [replace(BARE, id=id_) for id_ in ("rep_a", "rep_b", "att_a", "repxc", "rep%d")]
    database.write(lambda tx: [runners.put(tx, report, 7) for report in reports])
    with database.read() as tx:
        assert set(runners.list_of(tx, "rep")) == {"rep_a", "rep_b"}
        assert set(runners.list_of(tx, "att")) == {"att_a"}
    assert database.write(lambda tx: runners.delete_all(tx, ["rep_a", "none"])) == 1
    assert database.write(lambda tx: runners.delete_all(tx, [])) == 0
    with database.read() as tx:
        assert set(runners.list_of(tx, "rep")) == {"rep_b"}
