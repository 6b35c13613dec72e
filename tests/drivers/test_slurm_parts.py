"""What the Slurm driver makes of records: observations, words, nodes, and what it remembers."""

from dataclasses import replace

import pytest

from tramontane.domain.jobs.attempt import AttemptState
from tramontane.domain.observation import RunState
from tramontane.domain.resources import Resources
from tramontane.drivers.slurm import jobs, nodes
from tramontane.drivers.slurm.commands import parse_topology
from tramontane.drivers.slurm.dialects.records import ExitStatus, SlurmJob, SlurmNode
from tramontane.drivers.slurm.known import Known, lost
from tramontane.drivers.slurm.listing import Seen
from tramontane.drivers.slurm.reasons import attempt_state, pending_reason

INS = "ins_aaaaaaaaaaaaaaaaaaaa"
REP = "rep_aaaaaaaaaaaaaaaaaaaa"
ATT = "att_aaaaaaaaaaaaaaaaaaaa"
RUNNING = SlurmJob(
    job_id=7,
    name=ATT,
    user="tmt-a",
    comment=f"tramontane:{INS}:{ATT}",
    states=frozenset({"RUNNING"}),
    nodes=("r1n1", "r1n2"),
    node_count=2,
    cpus=4,
    memory_mb=200,
    gpus=8,
    start_s=1000,
    time_limit_min=10,
)


def in_state(*states: str, **changes: object) -> SlurmJob:
    return replace(RUNNING, states=frozenset(states), end_s=1100, **changes)


WAITING = in_state("PENDING", nodes=(), start_s=0, reason="Resources")


@pytest.mark.parametrize(
    ("job", "state", "words"),
    [
        (in_state("COMPLETED"), AttemptState.SUCCEEDED, "ended"),
        (in_state("FAILED", exit_status=ExitStatus(3)), AttemptState.FAILED, "status 3"),
        (in_state("FAILED", exit_status=ExitStatus(0, 9)), AttemptState.FAILED, "signal 9"),
        (in_state("FAILED", reason="RaisedSignal:53"), AttemptState.FAILED, "RaisedSignal"),
        (in_state("OUT_OF_MEMORY"), AttemptState.FAILED, "more memory than it had asked for"),
        (in_state("TIMEOUT"), AttemptState.TIMED_OUT, "time limit of 10 min"),
        (in_state("TIMEOUT", time_limit_min=90), AttemptState.TIMED_OUT, "1 h 30 min"),
        (in_state("PREEMPTED"), AttemptState.PREEMPTED, "higher class"),
        (in_state("NODE_FAIL"), AttemptState.NODE_FAILED, "node failed: r1n1, r1n2"),
        (in_state("BOOT_FAIL"), AttemptState.NODE_FAILED, "did not start"),
        (in_state("CANCELLED"), AttemptState.CANCELLED, "was cancelled"),
        (in_state("CANCELLED", start_s=0), AttemptState.CANCELLED, "before it started"),
        (in_state("FAILED", exit_status=ExitStatus(91)), AttemptState.NODE_FAILED, "runs twice"),
        (in_state("FAILED", "LAUNCH_FAILED"), AttemptState.FAILED, "failed"),
        (lost(RUNNING, 1100), AttemptState.FAILED, "Slurm has no record"),
    ],
)
def test_ends_have_a_state_and_words(job: SlurmJob, state: AttemptState, words: str) -> None:
    seen = jobs.attempt(ATT, job)
    assert seen.state is state
    assert words in (seen.reason or "")
    assert seen.ended_at_ms == 1_100_000
    replica = jobs.observation(REP, job)
    assert (replica.run_state, replica.reason) == (RunState.EXITED, seen.reason)
    record = jobs.record(ATT, job)
    assert record is not None
    assert (record.state, record.ended_at_ms, record.external_id) == (state, 1_100_000, "7")


@pytest.mark.parametrize(
    "states",
    [("RUNNING",), ("COMPLETING",), ("FAILED", "COMPLETING"), ("CONFIGURING",)],
)
def test_what_holds_its_nodes_runs(states: tuple[str, ...]) -> None:
    job = replace(in_state(*states), end_s=1600)
    assert attempt_state(job) is AttemptState.RUNNING
    seen = jobs.attempt(ATT, job)
    assert (seen.devices, seen.started_at_ms, seen.ended_at_ms) == (8, 1_000_000, None)
    assert (seen.node_names, seen.external_id) == (("r1n1", "r1n2"), "7")
    replica = jobs.observation(REP, job)
    assert replica.run_state is RunState.STARTING  # until its runner has said more
    assert (replica.node_name, replica.ends_at_ms) == ("r1n1", 1_600_000)
    assert jobs.record(ATT, job) is None


def test_without_a_limit_it_does_not_end() -> None:
    assert jobs.observation(REP, replace(RUNNING, time_limit_min=None)).ends_at_ms is None


def test_what_waits_says_why_and_how_long() -> None:
    seen = jobs.attempt(ATT, WAITING)
    assert seen.state is AttemptState.QUEUED
    assert seen.reason == "no free nodes have what it needs; it is the next in line for them"
    assert (seen.starts_at_ms, seen.devices, seen.started_at_ms) == (None, 0, None)
    expected = replace(WAITING, start_s=1_795_400_000)
    assert jobs.attempt(ATT, expected).starts_at_ms == 1_795_400_000_000
    replica = jobs.observation(REP, expected)
    assert replica.run_state is RunState.STARTING
    assert replica.ends_at_ms is None
    assert (replica.reason or "").startswith("waits in the queue: no free nodes")
    assert (replica.reason or "").endswith("Slurm expects it to start at 2026-11-23 02:13 UTC")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "higher priority"),
        ("ReqNodeNotAvail, UnavailableNodes:r1n1", "down, drained or reserved"),
        ("AssocGrpGRES", "account's quota"),
        ("QOSMaxGRESPerUser", "as its class allows"),
        ("AssocGrpCPURunMinutesLimit", "limit of the account"),
        ("QOSMaxBillingPerUser", "limit of its class"),
        ("SomethingNew", "Slurm says SomethingNew"),
        ("", "has not looked at it yet"),
        ("PartitionTimeLimit", "never starts"),
    ],
)
def test_reasons_are_words(reason: str, words: str) -> None:
    assert words in pending_reason(reason)


def test_what_was_asked_to_end_was_cancelled() -> None:
    failed = in_state("FAILED", exit_status=ExitStatus(143))
    assert jobs.attempt(ATT, failed, was_asked_to_end=True).state is AttemptState.CANCELLED
    ended = in_state("COMPLETED")
    assert jobs.attempt(ATT, ended, was_asked_to_end=True).state is AttemptState.SUCCEEDED


def test_only_jobs_of_this_installation_and_its_users_count() -> None:
    strangers = [
        replace(RUNNING, comment="tramontane:ins_bbbbbbbbbbbbbbbbbbbb:" + ATT),
        replace(RUNNING, user="eve"),
        replace(RUNNING, name="another"),
        replace(RUNNING, comment="hello"),
        replace(RUNNING, comment=f"tramontane:{INS}"),
        replace(RUNNING, comment=f"tramontane:{INS}:{ATT}:x y"),
    ]
    assert jobs.ours([*strangers, RUNNING], INS, {"tmt-a"}) == {ATT: (RUNNING,)}
    assert jobs.mark_of(f"tramontane:{INS}:{ATT}:rack") == jobs.Mark(INS, ATT, in_one_rack=True)


def test_of_two_jobs_the_one_that_does_something_counts() -> None:
    second = replace(RUNNING, job_id=8)
    did_nothing = in_state("FAILED", job_id=6, exit_status=ExitStatus(91))
    ended, waiting = in_state("COMPLETED", job_id=9), replace(WAITING, job_id=5)

    def order(*same: SlurmJob) -> tuple[SlurmJob, ...]:
        return jobs.ours(same, INS, {"tmt-a"})[ATT]

    assert order(did_nothing, second, RUNNING) == (RUNNING, second, did_nothing)
    assert order(waiting, ended, did_nothing) == (ended, waiting, did_nothing)
    assert jobs.surplus(order(waiting, RUNNING, second)) == (waiting,)
    assert jobs.surplus((waiting,)) == ()


def test_what_ours_hold_is_not_used_by_others() -> None:
    replica = replace(RUNNING, name=REP)
    spot = replace(RUNNING, name=ATT, qos="tmt_spot")
    standard = replace(RUNNING, name=ATT, qos="tmt_standard")
    share = Resources(2000, 100 << 20, 4)
    held = jobs.held_by([replica, spot, standard, WAITING, in_state("COMPLETED")], "tmt_spot")
    assert held == {"r1n1": share + share, "r1n2": share + share}
    node = SlurmNode(
        "r1n1", frozenset({"MIXED"}), "", frozenset({"main"}), 8, 4000, (("x", 4),), 5, 250, 9
    )
    (seen,) = nodes.observations([node], partition="main", held=held, racks={"r1n1": "rack1"})
    assert seen.used == Resources(1000, 50 << 20, 1)
    assert seen.rack == "rack1"
    assert [device.name for device in seen.devices] == ["x"] * 4
    assert nodes.observations([node], partition="big", held={}, racks={}) == ()


@pytest.mark.parametrize(
    ("states", "is_lost", "is_drained"),
    [
        ({"IDLE"}, False, False),
        ({"IDLE", "NOT_RESPONDING"}, False, False),  # Slurm says DOWN when it is sure
        ({"DOWN", "NOT_RESPONDING"}, True, False),
        ({"DOWN", "POWERED_DOWN"}, False, False),
        ({"MIXED", "DRAIN"}, False, True),
        ({"DOWN", "DRAIN"}, True, True),
        ({"IDLE", "FAIL"}, False, True),
    ],
)
def test_nodes_are_lost_or_drained(states: set[str], is_lost: bool, is_drained: bool) -> None:
    node = SlurmNode("n1", frozenset(states), "new disks", frozenset(), 8, 4000, (), 0, 0, 0)
    (seen,) = nodes.observations([node], partition=None, held={}, racks={})
    assert (seen.is_lost, seen.is_drained) == (is_lost, is_drained)
    assert (seen.reason is not None) is (is_lost or is_drained)
    assert "new disks" in (seen.reason or "new disks")


def test_nodes_that_do_not_exist_yet_are_left_out() -> None:
    node = SlurmNode("n1", frozenset({"FUTURE"}), "", frozenset(), 8, 4000, (), 0, 0, 0)
    assert nodes.observations([node], partition=None, held={}, racks={}) == ()


def test_racks_are_leaf_switches_or_blocks() -> None:
    tree = "SwitchName=rack1 Level=0 Nodes=r1n[1-2]\nSwitchName=spine Level=1 Nodes=r1n[1-2]"
    assert parse_topology(tree) == {"r1n1": "rack1", "r1n2": "rack1"}
    assert parse_topology("BlockName=b1 BlockIndex=0 Nodes=n1") == {"n1": "b1"}


def listing(at: float, *same: SlurmJob) -> Seen:
    return Seen(jobs={ATT: same} if same else {}, jobs_at=at)


def test_a_submission_counts_until_a_later_listing_shows_it() -> None:
    known = Known()
    known.learn(ATT, WAITING, 10.0, is_guess=True)
    entries, _ = known.merge(listing(9.0), 10.5)
    assert entries[ATT].missing_since is None
    entries, _ = known.merge(listing(11.0, RUNNING), 11.5)
    assert entries[ATT].job == RUNNING
    entries, _ = known.merge(listing(12.0), 12.5)
    assert entries[ATT].missing_since == 12.5
    entries, _ = known.merge(listing(13.0), 13.5)
    assert entries[ATT].missing_since == 12.5  # it stays listed, and missing since then
    assert entries[ATT].job == RUNNING


def test_an_end_is_final_but_a_guess_is_not() -> None:
    known = Known()
    ended = in_state("COMPLETED")
    known.merge(listing(1.0, ended), 1.0)
    entries, _ = known.merge(listing(2.0, replace(RUNNING, job_id=8), ended), 2.0)
    assert entries[ATT].job == ended
    entries, _ = known.merge(listing(3.0), 3.0)
    assert (entries[ATT].job, entries[ATT].missing_since) == (ended, None)
    known = Known()
    known.learn(ATT, in_state("CANCELLED"), 5.0, is_guess=True)
    entries, _ = known.merge(listing(4.0, WAITING), 5.5)
    assert entries[ATT].is_over
    entries, _ = known.merge(listing(6.0, RUNNING), 6.5)
    assert entries[ATT].job == RUNNING


def test_what_is_over_and_listed_as_running_again_is_not_wanted() -> None:
    """As a slurmctld does that was killed before it had saved the end: it keeps the devices."""
    known = Known()
    known.merge(listing(1.0, in_state("CANCELLED")), 1.0)
    _, unwanted = known.merge(listing(2.0, in_state("CANCELLED")), 2.0)
    assert unwanted == ()
    entries, unwanted = known.merge(listing(3.0, RUNNING), 3.0)
    assert unwanted == (RUNNING,)
    assert entries[ATT].is_over
    _, unwanted = known.merge(listing(4.0, in_state("CANCELLED", "COMPLETING")), 4.0)
    assert unwanted == ()
    known = Known()
    known.merge(listing(1.0, in_state("FAILED", job_id=8, exit_status=ExitStatus(91))), 1.0)
    _, unwanted = known.merge(listing(2.0, RUNNING), 2.0)
    assert unwanted == (), "the first one runs, it was the second that did nothing"


def test_what_is_forgotten_never_comes_back() -> None:
    known = Known()
    known.merge(listing(1.0, in_state("COMPLETED")), 1.0)
    known.forget(ATT)
    entries, unwanted = known.merge(listing(2.0, RUNNING, in_state("COMPLETED")), 2.0)
    assert entries == {}
    assert unwanted == (RUNNING,)
    assert known.is_forgotten(ATT)
