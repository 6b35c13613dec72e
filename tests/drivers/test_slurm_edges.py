"""Records of Slurm at their edges: what is missing, what is odd, and the exact bounds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.drivers.test_slurm_parts import ATT, REP, RUNNING, WAITING, in_state
from tests.drivers.test_slurm_script import (
    ATTEMPT,
    JOB,
    OFFICE,
    SETTINGS,
    attempt,
    order_of,
    replica,
)
from tramontane.domain.jobs.attempt import AttemptState, Topology
from tramontane.domain.launch import Tenancy
from tramontane.domain.quotas.accounts import Account, AccountPolicy, Membership, Qos
from tramontane.domain.resources import Resources
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm import jobs, nodes, orders
from tramontane.drivers.slurm.accounts import SlurmAccounts
from tramontane.drivers.slurm.commands import Commands
from tramontane.drivers.slurm.dialects import reading
from tramontane.drivers.slurm.dialects.amounts import memory_mb, tres_amounts
from tramontane.drivers.slurm.dialects.hostlist import NODES_MAX, expand
from tramontane.drivers.slurm.dialects.records import ExitStatus, SlurmNode, SlurmPartition
from tramontane.drivers.slurm.known import Known
from tramontane.drivers.slurm.listing import Seen
from tramontane.drivers.slurm.reasons import attempt_state, end_reason, is_suspended, was_requeued
from tramontane.runtime.clock import ManualClock


def test_a_list_of_nodes_has_a_bound_however_it_is_written() -> None:
    assert len(expand(f"n[1-{NODES_MAX}]")) == NODES_MAX
    for text in (
        f"n[1-{NODES_MAX}],x",
        f"n[1-{NODES_MAX + 1}]",
        f"n[1-{NODES_MAX // 2}]r[1-3]",
        f"n[1-{NODES_MAX // 2},1-{NODES_MAX // 2 + 1}]",
    ):
        with pytest.raises(ValueError, match=f"more than {NODES_MAX} nodes|at most {NODES_MAX}"):
            expand(text)
    for digits in ("²", "1-²", "٣", "1-٣"):
        with pytest.raises(ValueError, match="is not a range of numbers"):
            expand(f"n[{digits}]")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5), (5.7, 5), ("5", 5), (0, 0), (True, None), (None, None), ("x", None), ("²", None),
        ([], None), ({"set": True, "infinite": False, "number": 7}, 7),
        ({"set": False, "infinite": False, "number": 7}, None),
        ({"set": True, "infinite": True, "number": 7}, None), ({}, None),
    ],
)  # fmt: skip
def test_numbers_in_every_form(value: object, expected: int | None) -> None:
    assert reading.number(value) == expected


def test_words_in_every_form() -> None:
    assert reading.words("running") == reading.words(["Running"]) == {"RUNNING"}
    assert reading.words("") == reading.words(None) == reading.words({}) == frozenset()


@pytest.mark.parametrize("listed", [None, {}, "x", [1], [None]])
def test_what_is_no_list_of_objects_cannot_be_read(listed: object) -> None:
    with pytest.raises(ValueError, match="jobs"):
        list(reading.records({"jobs": listed}, "jobs"))


def test_what_a_record_leaves_out_is_nothing() -> None:
    job = reading.job({"job_state": "RUNNING"})
    assert (job.job_id, job.nodes, job.node_count, job.cpus, job.gpus) == (0, (), 0, 0, 0)
    assert (job.submit_s, job.start_s, job.end_s, job.time_limit_min) == (0, 0, 0, None)
    assert (job.restarts, job.is_held, job.reason) == (0, False, "")
    assert job.exit_status == ExitStatus()
    over = reading.accounted({})
    assert (over.job_id, over.node_count, over.cpus, over.memory_mb, over.gpus) == (0, 0, 0, 0, 0)
    assert (over.submit_s, over.start_s, over.end_s, over.suspended_s) == (0, 0, 0, 0)
    node = reading.node({"name": "n1", "specialized_memory": 5})
    assert (node.cpus, node.memory_mb, node.used_cpus, node.used_memory_mb) == (0, 0, 0, 0)
    assert (node.gpus, node.used_gpus, node.partitions) == ((), 0, frozenset())


@pytest.mark.parametrize("listed", ["", "None assigned", "(null)"])
def test_no_nodes_are_none(listed: str) -> None:
    record = {"job_state": ["RUNNING"], "nodes": listed, "node_count": 3, "state_reason": "None"}
    job = reading.job(record)
    assert (job.nodes, job.node_count, job.reason) == ((), 3, "")
    assert reading.accounted({"nodes": listed}).nodes == ()


def test_what_waits_asks_and_what_runs_holds() -> None:
    both = {"tres_req_str": "cpu=1,gres/gpu=2", "tres_alloc_str": "cpu=4,gres/gpu=8"}
    waiting = reading.job({**both, "job_state": "PENDING", "nodes": "n1"})
    assert (waiting.cpus, waiting.gpus, waiting.nodes) == (1, 2, ())
    running = reading.job({**both, "job_state": "RUNNING", "nodes": "n[1-2]"})
    assert (running.cpus, running.gpus, running.node_count) == (4, 8, 2)
    leaving = reading.job({**both, "job_state": ["PENDING", "COMPLETING"], "nodes": "n1"})
    assert (leaving.cpus, leaving.nodes) == (4, ("n1",))
    for name, state in (("tres_req_str", "RUNNING"), ("tres_alloc_str", "PENDING")):
        assert reading.job({name: "cpu=3", "job_state": state}).cpus == 3


def test_what_waits_for_nodes_that_are_away_does_not_say_that_it_is_next() -> None:
    away = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority"
    record = {"job_state": "PENDING", "state_reason": "Resources", "state_description": away}
    assert reading.job(record).reason == "ReqNodeNotAvail"
    assert reading.job(record | {"state_description": ""}).reason == "Resources"


@pytest.mark.parametrize(
    ("record", "is_held"),
    [
        ({"hold": True}, True),
        ({"hold": False}, False),
        ({"state_reason": "JobHeldUser"}, True),
        ({"state_reason": "JobHeldAdmin"}, True),
        ({"state_reason": "Priority", "hold": False}, False),
    ],
)
def test_what_is_held(record: dict[str, Any], is_held: bool) -> None:
    assert reading.job(record).is_held is is_held


def test_accounting_counts_devices_once() -> None:
    def gpus(*entries: tuple[str, str, Any]) -> int:
        allocated = [{"type": kind, "name": name, "count": n} for kind, name, n in entries]
        return reading.accounted({"tres": {"allocated": allocated}}).gpus

    assert gpus(("gres", "gpu", 4), ("gres", "gpu:a", 3), ("gres", "gpu:b", 1)) == 4
    assert gpus(("gres", "gpu:a", 3), ("gres", "gpu:b", 1), ("node", "", 9)) == 4
    assert gpus(("gres", "gpu", None), ("cpu", "", 5)) == 0
    counted = reading.accounted({"allocation_nodes": 5, "nodes": "n[1-2]"})
    assert (counted.node_count, len(counted.nodes)) == (5, 2)
    assert reading.accounted({"nodes": "n[1-2]"}).node_count == 2


def test_exit_codes_in_every_form() -> None:
    def read(code: object) -> ExitStatus:
        return reading.job({"exit_code": code}).exit_status

    assert read(768) == read({"return_code": 3}) == ExitStatus(3)
    assert read(9) == read({"return_code": 0, "signal": {"id": 9}}) == ExitStatus(signal=9)
    assert read({"return_code": 1, "signal": {"signal_id": 2}}) == ExitStatus(1, 2)
    assert read({"return_code": None}) == read(None) == ExitStatus()


def test_amounts_that_are_none() -> None:
    assert tres_amounts("gres/gpu:a=x,gres/gpu=,cpu=x,fs/gpu:a=4,mem=1G") == (0, 1024, 0)
    assert (memory_mb("2G"), memory_mb("3"), memory_mb("1P")) == (2048, 3, 1 << 30)
    assert (memory_mb("1.5M"), memory_mb("2.0M")) == (2, 2)


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ({"PENDING"}, AttemptState.QUEUED),
        ({"REQUEUE_HOLD"}, AttemptState.QUEUED),
        ({"SPECIAL_EXIT"}, AttemptState.QUEUED),
        ({"REQUEUE_FED"}, AttemptState.QUEUED),
        ({"SUSPENDED"}, AttemptState.RUNNING),
        ({"STOPPED"}, AttemptState.RUNNING),
        ({"RESIZING"}, AttemptState.RUNNING),
        ({"REVOKED"}, AttemptState.CANCELLED),
        ({"DEADLINE"}, AttemptState.TIMED_OUT),
        ({"REQUEUED"}, AttemptState.PREEMPTED),
        ({"PENDING", "COMPLETING"}, AttemptState.RUNNING),
    ],
)
def test_every_state_of_slurm_is_one_of_ours(states: set[str], state: AttemptState) -> None:
    assert attempt_state(replace(RUNNING, states=frozenset(states))) is state


def test_what_is_suspended_or_was_requeued() -> None:
    assert is_suspended(in_state("SUSPENDED"))
    assert is_suspended(in_state("STOPPED"))
    assert not is_suspended(in_state("SUSPENDED", "COMPLETING"))
    assert not is_suspended(RUNNING)
    for state in ("REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"):
        assert was_requeued(in_state(state))
    assert was_requeued(replace(RUNNING, restarts=1))
    assert not was_requeued(RUNNING)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exit_status": ExitStatus(73)}, "could not make its run directory"),
        ({"exit_status": ExitStatus(3)}, "ended with status 3"),
        ({"reason": "NonZeroExitCode"}, "failed"),
        ({"reason": "Odd"}, "failed: Slurm says Odd"),
        ({"reason": ""}, "failed"),
    ],
)
def test_failures_in_words(changes: dict[str, Any], words: str) -> None:
    told = end_reason(in_state("FAILED", **changes))
    assert told.startswith(words)
    assert (told == words) is (words != "could not make its run directory")


@pytest.mark.parametrize(
    ("minutes", "words"), [(59, "59 min"), (60, "1 h"), (61, "1 h 1 min"), (None, "limit")]
)
def test_a_time_limit_in_words(minutes: int | None, words: str) -> None:
    assert end_reason(in_state("TIMEOUT", time_limit_min=minutes)).endswith(words)


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (in_state("COMPLETED", exit_status=ExitStatus(9)), 0),
        (in_state("FAILED", exit_status=ExitStatus(3)), 3),
        (in_state("FAILED", exit_status=ExitStatus(0, 9)), -9),
        (in_state("FAILED", exit_status=ExitStatus(1, 15)), -15),
        (in_state("FAILED"), None),
        (in_state("CANCELLED", nodes=(), exit_status=ExitStatus(1)), None),
        (replace(RUNNING, exit_status=ExitStatus(1)), None),
    ],
)
def test_exit_codes_of_what_ran(job: Any, code: int | None) -> None:
    assert jobs.attempt(ATT, job).exit_code == code
    record = jobs.record(ATT, job)
    assert (record.exit_code if record else None) == code


def test_accounting_keeps_what_an_attempt_held_and_when() -> None:
    over = in_state("COMPLETED", suspended_s=3)
    record = jobs.record(ATT, over)
    assert record is not None
    assert (record.started_at_ms, record.ended_at_ms, record.devices) == (1_000_000, 1_100_000, 8)
    assert record.suspended_ms == 3_000
    for never in (replace(over, start_s=0), replace(over, nodes=())):
        record, seen = jobs.record(ATT, never), jobs.attempt(ATT, never)
        assert record is not None
        assert (record.started_at_ms, record.devices) == (None, 0)
        assert (seen.started_at_ms, seen.devices) == (None, 0)
    assert jobs.record(ATT, replace(over, end_s=0)) is None
    assert jobs.record(ATT, RUNNING) is None


def test_the_end_of_a_replica_is_slurms_own_word_while_it_runs() -> None:
    def ends_at_ms(**changes: Any) -> int | None:
        return jobs.observation(REP, replace(RUNNING, **changes)).ends_at_ms

    assert ends_at_ms(end_s=1_700) == 1_700_000
    assert ends_at_ms(end_s=1_000) == 1_600_000
    assert ends_at_ms(end_s=9_999, states=frozenset({"COMPLETING"})) == 1_600_000
    assert ends_at_ms(start_s=0) is None


def test_only_replicas_and_what_gives_way_hold_room() -> None:
    spot = replace(RUNNING, qos="spot")
    assert jobs.held_by([spot], None) == {}
    assert jobs.held_by([replace(spot, nodes=())], "spot") == {}
    assert jobs.held_by([replace(WAITING, qos="spot", nodes=("n1",))], "spot") == {}
    share = Resources(2_000, 100 << 20, 4)
    assert jobs.held_by([spot], "spot") == {"r1n1": share, "r1n2": share}


# Nodes


def test_every_state_of_a_node_that_keeps_things_off_it() -> None:
    def seen(*states: str, reason: str = "") -> tuple[bool, bool, bool, str | None]:
        node = SlurmNode("n1", frozenset(states), reason, frozenset(), 8, 4_000, (), 0, 0, 0)
        (it,) = nodes.observations([node], partition=None, held={}, racks={})
        return it.is_lost, it.is_drained, nodes.is_out(node), it.reason

    assert seen("IDLE", reason="old news") == (False, False, False, None)
    for state in ("DOWN", "ERROR", "UNKNOWN"):
        assert seen(state) == (True, False, True, f"Slurm says {state.lower()}")
        for asleep in ("POWERED_DOWN", "POWERING_DOWN", "POWERING_UP", "POWER_DOWN"):
            assert seen(state, asleep) == (False, False, False, None)
    for state in ("DRAIN", "FAIL", "INVALID_REG", "MAINTENANCE", "MAINT"):
        assert seen(state, reason="x") == (False, True, True, f"{state.lower()}: x")
    assert seen("DOWN", "DRAIN", reason="x")[3] == "down and drain: x"
    for state in ("FUTURE", "DYNAMIC_FUTURE"):
        node = SlurmNode("n1", frozenset({state}), "", frozenset(), 8, 4_000, (), 0, 0, 0)
        assert nodes.observations([node], partition=None, held={}, racks={}) == ()
        assert nodes.is_out(node)


def test_devices_of_a_node_are_counted_from_0_with_their_kinds() -> None:
    gpus = (("a", 2), ("", 1))
    node = SlurmNode("n1", frozenset(), "", frozenset(), 8, 4_000, gpus, 3, 100, 1)
    (seen,) = nodes.observations([node], partition=None, held={}, racks={})
    assert [(it.index, it.name) for it in seen.devices] == [(0, "a"), (1, "a"), (2, "gpu")]
    assert seen.capacity == Resources(8_000, 4_000 << 20, 3)
    assert seen.used == Resources(3_000, 100 << 20, 1)


# What is known


def test_whatever_is_learned_otherwise_changes_the_version() -> None:
    known, versions = Known(), [0]
    steps: tuple[Callable[[], object], ...] = (
        lambda: known.learn(ATT, WAITING, 1.0),
        lambda: known.ask_to_end(ATT),
        lambda: known.learn(ATT, RUNNING, 2.0),
        lambda: known.forget(ATT),
    )
    for step in steps:
        step()
        versions.append(known.version)
    assert versions == sorted(set(versions)), "it only grows"


def test_what_was_asked_to_end_stays_so_whatever_is_seen() -> None:
    known = Known()
    known.learn(ATT, WAITING, 1.0)
    known.ask_to_end(ATT)
    known.learn(ATT, RUNNING, 2.0)
    known.merge(Seen(jobs={ATT: (RUNNING,)}, jobs_at=3.0), 3.0)
    entry = known.get(ATT)
    assert entry is not None
    assert entry.was_asked_to_end
    known.ask_to_end(REP)
    assert known.get(REP) is None


def test_memory_is_bounded_and_what_is_listed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tramontane.drivers.slurm.known.ENDED_MAX", 2)
    monkeypatch.setattr("tramontane.drivers.slurm.known.FORGOTTEN_MAX", 2)
    known, over = Known(), in_state("COMPLETED")
    for number, job in enumerate((over, over, RUNNING, over)):
        known.learn(f"att_{number}", job, 1.0)
    entries, _ = known.merge(Seen(jobs={"att_0": (over,)}, jobs_at=0.5), 2.0)
    assert set(entries) == {"att_0", "att_2"}
    for number in range(3):
        known.forget(f"gone_{number}")
    assert [known.is_forgotten(f"gone_{n}") for n in range(3)] == [False, True, True]


# Orders


def test_an_order_asks_for_whole_units_and_never_for_more_time_than_there_is() -> None:
    made = order_of(attempt([], resources=Resources(1, 1, 0)))
    assert (made.cpus, made.memory_mb, made.gpus) == (1, 1, 0)
    made = order_of(attempt([], resources=Resources(2_000, 2 << 20, 0)))
    assert (made.cpus, made.memory_mb) == (2, 2)
    made = order_of(attempt([], resources=Resources(2_001, (2 << 20) + 1, 0)))
    assert (made.cpus, made.memory_mb) == (3, 3)
    assert order_of(attempt([], time_limit_s=30, grace_s=30)).time_limit_min == 1
    assert order_of(attempt([], time_limit_s=31, grace_s=30)).time_limit_min == 2
    assert order_of(attempt([], grace_s=65_001)).grace_s == 65_000
    partition = SlurmPartition("main", is_default=True, max_time_min=60, max_nodes=None)
    whole, _ = orders.attempt_order(OFFICE, ATTEMPT, attempt([], time_limit_s=3_600), partition)
    assert whole.time_limit_min == 60, "the grace is Slurm's to give"
    with pytest.raises(ValueError, match="longer than the 60 min"):
        orders.attempt_order(OFFICE, ATTEMPT, attempt([], time_limit_s=3_601), partition)
    with pytest.raises(ValueError, match="'rep_x' is not a job id"):
        order_of(attempt([], job_id="rep_x"))
    kept, _ = orders.replica_order(OFFICE, REP, ("n1",), replica(drain_timeout_s=70_000), None)
    assert kept.grace_s == 65_000


def test_one_node_is_in_one_rack_and_spread_over_none() -> None:
    for topology in (Topology.RACK, Topology.SPREAD):
        alone = order_of(attempt([], nodes=1, topology=topology))
        assert (alone.in_one_rack, alone.is_spread) == (False, False)
        assert "srun" not in alone.script


def test_a_node_that_is_exactly_large_enough_fits() -> None:
    order = order_of(attempt([], resources=Resources(8_000, 4_000 << 20, 4)))
    node = SlurmNode("n1", frozenset(), "", frozenset(), 8, 4_000, (("x", 3), ("y", 1)), 0, 0, 0)
    assert orders.fits(order, node)
    for lack in ({"cpus": 7}, {"memory_mb": 3_999}, {"gpus": (("x", 3),)}):
        assert not orders.fits(order, replace(node, **lack))


def test_the_installations_own_work_needs_a_default_user() -> None:
    with pytest.raises(ValueError, match="no Unix user runs the installation's own work on alps"):
        order_of(attempt([], tenancy=None))
    own = replace(SETTINGS, default_user="svc", account="ops")
    order = order_of(attempt([], tenancy=None), replace(OFFICE, settings=own))
    assert order.account == "ops"
    assert order.folder.startswith(f"/shared/it's here/svc/jobs/{JOB}/")


def test_what_is_submitted_is_known_as_it_will_be_listed() -> None:
    order = order_of(attempt([], nodes=2))
    job = orders.submitted(order, 9, "acme-lab", 1_234)
    assert (job.job_id, job.name, job.user, job.node_count) == (9, ATTEMPT, "acme-lab", 2)
    assert (job.comment, job.folder, job.qos) == (order.comment, order.folder, "tmt_spot")
    assert (job.submit_s, job.time_limit_min) == (1_234, order.time_limit_min)
    assert attempt_state(job) is AttemptState.QUEUED
    assert jobs.ours([job], "ins_aaaaaaaaaaaaaaaaaaaa", {"acme-lab"}) == {ATTEMPT: (job,)}


def test_a_jobs_folder_is_looked_for_with_its_own_user_first() -> None:
    settings = replace(SETTINGS, default_user="aaa")
    places = orders.job_places(settings, JOB, Tenancy("acme", "shop"))
    assert [place[0] for place in places] == ["acme-svc", "aaa", "acme-lab"]
    assert {place[1:] for place in places} == {("jobs", JOB)}
    places = orders.job_places(SETTINGS, JOB, Tenancy("bank", "x"))
    assert [place[0] for place in places] == ["acme-lab", "acme-svc"]


# Accounts, read from what sacctmgr and scontrol print (Slurm 22.05)

PRINTED = {
    "associations": (
        "root|||1||normal||\n"
        "tmt_acme||root|3|cpu=9,gres/gpu=16,mem=5|tmt_spot,tmt_r|tmt_spot|\n"
        "tmt_acme_web||tmt_acme|parent||||\n"
        "tmt_acme_web|u||1||tmt_spot|tmt_spot|\n"
        "tmt_acme_web|u||1||tmt_spot|tmt_spot|debug\n"
    ),
    "user": "u|tmt_acme_web\nroot|\n",
    "account": "root|root\ntmt_acme|ins_1\nother|ins_2\n",
    "qos": "tmt_r|10|tmt_spot,x|1-00:01:02|CANCEL\nnormal||||cluster\n",
    "config": "ClusterName = alps\nNo equals sign here\nSlurmctldPort = 6817\n",
}


@pytest.fixture
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmAccounts:
    """Accounts of a cluster whose commands print what stands in files."""
    for noun, printed in PRINTED.items():
        (tmp_path / noun).write_text(printed)
    for name in ("sacctmgr", "scontrol"):
        command = tmp_path / name
        noun = "$3" if name == "sacctmgr" else "$2"
        script = f'#!/bin/sh\n[ -e "{tmp_path}/{noun}" ] || exit 0\ncat "{tmp_path}/{noun}"\n'
        command.write_text(script)
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return SlurmAccounts(Commands(), AccountPolicy("tmt_"), mark="ins_1", clock=ManualClock())


def test_everything_of_a_cluster_is_read(accounts: SlurmAccounts, tmp_path: Path) -> None:
    seen = accounts.observe()
    acme = Account("tmt_acme", "root", 3, 16, frozenset({"tmt_spot", "tmt_r"}), "tmt_spot")
    assert seen.book.accounts == {
        "root": Account("root", "", 1, None, frozenset({"normal"}), None),
        "tmt_acme": acme,
        "tmt_acme_web": Account("tmt_acme_web", "tmt_acme", None, None, frozenset(), None),
    }
    user = Membership("tmt_acme_web", "u", frozenset({"tmt_spot"}), "tmt_spot")
    assert seen.book.memberships == {("tmt_acme_web", "u"): user}, "not the one of a partition"
    assert seen.book.qos == {
        "tmt_r": Qos("tmt_r", 10, frozenset({"tmt_spot", "x"}), 86_462, "cancel"),
        "normal": Qos("normal", 0, frozenset(), 0, "cluster"),
    }
    assert seen.made_here == {"tmt_acme"}
    assert seen.default_accounts == {"u": "tmt_acme_web"}
    assert seen.config == {"ClusterName": "alps", "SlurmctldPort": "6817"}
    (tmp_path / "user").write_text("u|tmt_acme_web|more\n")
    with pytest.raises(DriverUnavailableError, match="lists user in another form than user,def"):
        accounts.observe()


def test_a_cluster_without_a_name_is_an_outage(accounts: SlurmAccounts, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("SlurmctldPort = 6817\n")
    with pytest.raises(DriverUnavailableError, match="does not tell the name of the cluster"):
        accounts.observe()
