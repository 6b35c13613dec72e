"""What an administrator does to Slurm jobs by hand, as the driver understands it. Pure."""

from dataclasses import replace
from typing import Any

import pytest

from tests.drivers.test_slurm_parts import ATT, INS, REP, RUNNING, in_state, listing
from tramontane.domain.jobs.attempt import AttemptState
from tramontane.domain.observation import RunState
from tramontane.drivers.slurm import jobs
from tramontane.drivers.slurm.dialects.records import ExitStatus, SlurmJob
from tramontane.drivers.slurm.known import Known

FOLDER = f"/shared/tmt-a/jobs/job_a/attempts/{ATT}"
# What was seen of slurmctld 22.05.8 while it put a job back into its queue, and after.
LEAVING = in_state("COMPLETING", restarts=1, start_s=1090)
QUEUED = in_state(
    "PENDING", restarts=1, nodes=(), gpus=0, start_s=1200, submit_s=1090, reason="BeginTime"
)
AGAIN = in_state("RUNNING", restarts=1, start_s=1200, submit_s=1090)
DID_NOTHING = replace(AGAIN, states=frozenset({"FAILED"}), exit_status=ExitStatus(91))


def told(known: Known, at: float, *same: SlurmJob) -> tuple[SlurmJob, tuple[SlurmJob, ...]]:
    """Return what is known of the id after a listing, and what is to be cancelled."""
    seen = jobs.ours(same, INS, {"tmt-a"}, known.alive())
    entries, unwanted = known.merge(listing(at, *seen.get(ATT, ())), at)
    return entries[ATT].job, unwanted


def test_what_was_requeued_ended_and_does_not_start_again() -> None:
    known = Known()
    told(known, 1, RUNNING)
    leaving, unwanted = told(known, 2, LEAVING)
    seen = jobs.attempt(ATT, leaving)
    assert (seen.state, seen.started_at_ms, seen.devices) == (AttemptState.RUNNING, 1_000_000, 8)
    assert unwanted == ()
    assert jobs.observation(REP, leaving).run_state is RunState.DRAINING
    job, unwanted = told(known, 3, QUEUED)
    assert unwanted == (QUEUED,)
    seen = jobs.attempt(ATT, job)
    assert seen.state is AttemptState.PREEMPTED
    assert "put back into the queue" in (seen.reason or "")
    assert (seen.started_at_ms, seen.ended_at_ms) == (1_000_000, 1_090_000)
    assert (seen.devices, seen.node_names) == (8, ("r1n1", "r1n2"))
    replica = jobs.observation(REP, job)
    assert (replica.run_state, replica.reason) == (RunState.EXITED, seen.reason)
    for later in (AGAIN, DID_NOTHING, in_state("CANCELLED", restarts=1, nodes=())):
        same, unwanted = told(known, 4, later)
        assert same == job  # an end is final
        assert unwanted == ((later,) if later is AGAIN else ())


@pytest.mark.parametrize(
    ("job", "state", "is_cancelled"),
    [
        (LEAVING, AttemptState.RUNNING, False),
        (QUEUED, AttemptState.PREEMPTED, True),
        (AGAIN, AttemptState.RUNNING, True),  # until it is gone: never two at a time
        (in_state("SUSPENDED", restarts=1), AttemptState.RUNNING, True),
        (in_state("PENDING", "REQUEUE_HOLD", nodes=()), AttemptState.PREEMPTED, True),
        (in_state("PENDING", "COMPLETING", "REQUEUED"), AttemptState.RUNNING, False),
        (DID_NOTHING, AttemptState.PREEMPTED, False),
        (in_state("CANCELLED", restarts=1, nodes=()), AttemptState.PREEMPTED, False),
    ],
)
def test_who_did_not_see_the_first_run_knows_that_there_was_one(
    job: SlurmJob, state: AttemptState, is_cancelled: bool
) -> None:
    found, unwanted = told(Known(), 1, job)
    seen = jobs.attempt(ATT, found)
    assert (seen.state, seen.started_at_ms, seen.devices) == (state, None, 0)
    assert unwanted == ((job,) if is_cancelled else ())
    replica = jobs.observation(REP, found)
    assert replica.run_state is (RunState.EXITED if state.is_over else RunState.DRAINING)
    assert jobs.observation(REP, found).address is None


def test_of_two_runs_in_accounting_the_first_is_the_attempts() -> None:
    first = replace(in_state("REQUEUED", submit_s=990), end_s=1090)
    for second in (
        replace(AGAIN, restarts=0),
        in_state("FAILED", submit_s=1090),  # 22.05 does not tell its status
        in_state("CANCELLED", submit_s=1090, nodes=()),
        in_state("PENDING", submit_s=1090, nodes=()),
    ):
        best = jobs.best_of([second, first])
        assert best == jobs.best_of([first, second]) == {ATT: first}
    record = jobs.record(ATT, first)
    assert record is not None
    assert (record.state, record.devices) == (AttemptState.PREEMPTED, 8)
    assert (record.started_at_ms, record.ended_at_ms) == (1_000_000, 1_090_000)
    finished, ran = in_state("COMPLETED", submit_s=990), in_state("FAILED", submit_s=1200)
    assert jobs.best_of([ran, finished]) == {ATT: finished}


@pytest.mark.parametrize("word", ["SUSPENDED", "STOPPED"])
def test_what_is_suspended_says_so_and_serves_nothing(word: str) -> None:
    job = in_state(word)
    seen = jobs.attempt(ATT, job)
    assert (seen.state, seen.devices) == (AttemptState.RUNNING, 8)
    assert "suspended on its cluster" in (seen.reason or "")
    replica = jobs.observation(REP, job)
    assert (replica.run_state, replica.reason) == (RunState.DRAINING, seen.reason)
    again = jobs.observation(REP, RUNNING)
    assert (again.run_state, again.reason) == (RunState.STARTING, None)


def test_the_time_for_which_it_was_suspended_is_in_its_record() -> None:
    record = jobs.record(ATT, in_state("COMPLETED", suspended_s=40))
    assert record is not None
    assert record.suspended_ms == 40_000


def test_the_end_follows_the_limit_and_what_slurm_says() -> None:
    longer = replace(RUNNING, time_limit_min=20)
    assert jobs.observation(REP, longer).ends_at_ms == 2_200_000
    resumed = replace(longer, end_s=2_240)  # it was suspended for 40 s
    assert jobs.observation(REP, resumed).ends_at_ms == 2_240_000
    unlimited = replace(RUNNING, time_limit_min=None, end_s=1000 + 365 * 86_400)
    assert jobs.observation(REP, unlimited).ends_at_ms is None


@pytest.mark.parametrize(("reason", "is_ours"), [("JobHeldUser", True), ("JobHeldAdmin", False)])
def test_what_an_administrator_holds_stays_held(reason: str, is_ours: bool) -> None:
    comment = f"tramontane:{INS}:{ATT}:rack"
    job = in_state("PENDING", nodes=(), reason=reason, is_held=True, comment=comment)
    assert jobs.waits_for_rack(job) is is_ours


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "bobs"},
        {"comment": "bob looks at it"},
        {"comment": ""},
        {"name": "bobs", "comment": "tramontane:ins_bbbbbbbbbbbbbbbbbbbb:x"},
    ],
)
def test_ours_stays_ours_under_another_name(changed: dict[str, Any]) -> None:
    known, running = Known(), replace(RUNNING, folder=FOLDER)
    told(known, 1, running)
    job, _ = told(known, 2, replace(running, **changed))
    assert job == replace(running, is_renamed=True)
    strangers = replace(RUNNING, folder="/shared/tmt-a/another", **changed)  # the number came again
    assert jobs.ours([strangers], INS, {"tmt-a"}, known.alive()) == {}
    if "comment" in changed:
        eves = replace(running, user="eve", **changed)
        assert jobs.ours([eves], INS, {"tmt-a", "eve"}, known.alive()) == {}


def test_a_renamed_job_is_found_by_its_comment_and_its_folder() -> None:
    renamed = replace(RUNNING, name="bobs", folder=FOLDER)
    found = jobs.ours([renamed], INS, {"tmt-a"})
    assert found == {ATT: (replace(RUNNING, folder=FOLDER, is_renamed=True),)}
    assert jobs.ours([replace(renamed, comment="")], INS, {"tmt-a"}) == {}
