"""What an administrator of the cluster does to our jobs by hand, on a real one."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from tests.support.runners import new_id
from tests.support.slurm_driver import SMALL, SlurmWorld, open_world
from tests.support.slurm_jobs import GATE, Jobs, accounted
from tests.support.slurm_system import jobs_of, running_on, scale, serving
from tests.support.system import System
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster
from tramontane.domain.jobs.attempt import AttemptState, Topology
from tramontane.domain.observation import Observation, RunState
from tramontane.runtime.clock import SystemIds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


@pytest.fixture
def world(slurm: SlurmCluster) -> Iterator[SlurmWorld]:
    with open_world(slurm) as world:
        yield world


def number_of(world: SlurmWorld, id_: str) -> str:
    (number,) = world.jobs()[id_]
    return str(number)


def started(world: SlurmWorld) -> tuple[str, str]:
    """Return the id and Slurm's number of an attempt on two devices that runs."""
    attempt_id = SystemIds().new("att")
    launch = world.job("echo up; sleep 600", resources=replace(SMALL, devices=2))
    world.driver.submit(attempt_id, launch)
    until(lambda: world.driver.read_log(attempt_id, 0, 0, 10) == b"up\n", "the script")
    return attempt_id, number_of(world, attempt_id)


def serves(world: SlurmWorld) -> tuple[str, str]:
    """Return the id and Slurm's number of a replica that is ready."""
    replica_id = new_id()
    world.driver.ensure(replica_id, "r1n1", world.tiny())
    until_state(world, replica_id, RunState.READY)
    return replica_id, number_of(world, replica_id)


def until_state(world: SlurmWorld, replica_id: str, state: RunState) -> Observation:
    def look() -> Observation | None:
        seen = world.replica(replica_id)
        return seen if seen is not None and seen.run_state is state else None

    return until(look, f"{replica_id} to be {state}")


def requeue(slurm: SlurmCluster, number: str, how: str = "requeue") -> None:
    """Slurm refuses it for our jobs, until somebody insists."""
    slurm.run("scontrol", "update", f"JobId={number}", "Requeue=1")
    slurm.run("scontrol", how, number)


def test_a_requeued_id_has_ended_and_does_not_wait_for_a_second_run(
    slurm: SlurmCluster, world: SlurmWorld
) -> None:
    attempt_id, number = started(world)
    replica_id, held = serves(world)
    stale = world.receiver.reports[replica_id]
    requeue(slurm, number)
    requeue(slurm, held, "requeuehold")
    ended = world.until_over(attempt_id)
    assert ended.state is AttemptState.PREEMPTED
    assert ended.reason == "was put back into the queue on its cluster, and nothing runs twice"
    assert ended.devices == 2
    until_state(world, replica_id, RunState.EXITED)
    until(lambda: is_all_over(world), "the end of what was to run again")
    # A runner that did not get its last word out changes nothing, and neither does a restart.
    world.receiver.reports[replica_id] = stale
    for driver in (world.driver, world.new_driver()):
        view = world.seen(driver)
        assert [it.run_state for it in view.observations] == [RunState.EXITED]
        assert [it.state for it in view.attempts] == [AttemptState.PREEMPTED]
        driver.ensure(replica_id, "r1n1", world.tiny())
    assert world.live() == []
    assert world.starts(replica_id) == 1
    record = until(lambda: world.driver.account([attempt_id]).get(attempt_id), "slurmdbd's word")
    rows = [row for row in accounted(slurm, {attempt_id}) if row.state == "REQUEUED"]
    times = [(row.started_s, row.ended_s, row.devices) for row in rows]
    told = (record.started_at_ms or 0) // 1000, record.ended_at_ms // 1000, record.devices
    assert times == [told]


def is_all_over(world: SlurmWorld) -> bool:
    world.seen()  # a driver acts when it is looked at
    return not world.live()


def test_what_is_suspended_serves_nothing_until_it_is_resumed(
    slurm: SlurmCluster, world: SlurmWorld
) -> None:
    attempt_id, number = started(world)
    replica_id, serving = serves(world)
    for job in (number, serving):
        slurm.run("scontrol", "suspend", job)
    seen = until_state(world, replica_id, RunState.DRAINING)
    words = "is suspended on its cluster, where an administrator can resume it"
    assert seen.reason == world.attempt(attempt_id).reason == words
    assert world.attempt(attempt_id).state is AttemptState.RUNNING
    for job in (number, serving):
        slurm.run("scontrol", "resume", job)
    assert until_state(world, replica_id, RunState.READY).reason is None
    until(lambda: world.attempt(attempt_id).reason is None, "the attempt to go on")
    for job in (number, serving):
        slurm.run("scontrol", "suspend", job)
    until(lambda: world.attempt(attempt_id).reason == words, "the second time")
    world.driver.stop(replica_id)  # it hears nothing, so Slurm ends it
    world.driver.stop(attempt_id)
    assert world.until_over(attempt_id).state is AttemptState.CANCELLED
    until_state(world, replica_id, RunState.EXITED)
    record = until(lambda: world.driver.account([attempt_id]).get(attempt_id), "slurmdbd's word")
    form = ("-X", "-n", "-P", f"--jobs={number}", "--format=Suspended,ElapsedRaw")
    suspended, elapsed = slurm.run("sacct", *form).strip().split("|")
    assert record.suspended_ms == 1000 * seconds(suspended)
    whole_ms = record.ended_at_ms - (record.started_at_ms or 0)
    assert whole_ms - record.suspended_ms == 1000 * int(elapsed)


def seconds(text: str) -> int:
    at = datetime.strptime(text, "%H:%M:%S")  # noqa: DTZ007 (a length, not a moment)
    return at.hour * 3600 + at.minute * 60 + at.second


def test_other_names_limits_and_holds_are_followed(slurm: SlurmCluster, world: SlurmWorld) -> None:
    attempt_id, number = started(world)
    replica_id, serving = serves(world)
    changes = ("JobName=bobs", "Comment=bob looks at it")
    slurm.run("scontrol", "update", f"JobId={number}", *changes)
    comment = f"tramontane:{world.installation_id}:{attempt_id}"
    until(lambda: named(world, number) == (attempt_id, comment), "its own name again")
    assert world.attempt(attempt_id).state is AttemptState.RUNNING
    slurm.run("scontrol", "update", f"JobId={serving}", "TimeLimit=10")
    first = until(lambda: ends_at_ms(world, replica_id), "an end")
    slurm.run("scontrol", "update", f"JobId={serving}", "TimeLimit=20")
    until(lambda: ends_at_ms(world, replica_id) == first + 600_000, "a later end")
    slurm.run("scancel", number, serving)
    assert world.until_over(attempt_id).state is AttemptState.CANCELLED
    until_state(world, replica_id, RunState.EXITED)
    held = SystemIds().new("att")
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        world.driver.submit(held, world.job("true", nodes=2, topology=Topology.RACK))
        slurm.run("scontrol", "hold", number_of(world, held))
        words = "an administrator of the cluster holds it back"
        until(lambda: world.attempt(held).reason == words, "the hold")
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
    another = SystemIds().new("att")  # when this one has run, the held one could have, too
    world.driver.submit(another, world.job("true", nodes=2, topology=Topology.RACK))
    world.until_over(another)
    assert (world.attempt(held).state, world.attempt(held).reason) == (AttemptState.QUEUED, words)
    slurm.run("scontrol", "release", number_of(world, held))
    assert world.until_over(held).state is AttemptState.SUCCEEDED


def named(world: SlurmWorld, number: str) -> tuple[str, str]:
    world.seen()
    name, _, comment = world.slurm.run("squeue", "-h", f"--job={number}", "-o", "%j|%k").partition(
        "|"
    )
    return name, comment.strip()


def ends_at_ms(world: SlurmWorld, replica_id: str) -> int:
    seen = world.replica(replica_id)
    return (seen and seen.ends_at_ms) or 0


def test_a_requeued_job_and_a_suspended_replica_are_replaced_and_billed_once(
    slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running_on(slurm, tmp_path_factory.mktemp("by-hand") / "home") as system:
        jobs = Jobs(system, slurm)
        job_id = jobs.submit("requeued", GATE, devices=2)
        (replica,) = scale(system, 1)
        jobs.until(job_id, "running")
        (attempt,) = jobs.attempts(job_id)
        known = jobs_of(slurm)
        requeue(slurm, known[attempt["id"]]["number"])
        slurm.run("scontrol", "suspend", known[replica["id"]]["number"])
        until(lambda: len(jobs.attempts(job_id)) == 2, "another attempt")
        jobs.open_gate(job_id)
        jobs.until(job_id, "succeeded")
        assert sorted(jobs.attempt_statuses(job_id)) == ["preempted", "succeeded"]
        until(lambda: all(a["is_accounted"] for a in jobs.attempts(job_id)), "the accounts")
        worked = [
            r for r in accounted(slurm, {a["id"] for a in jobs.attempts(job_id)}) if r.devices
        ]
        assert sorted(row.state for row in worked) == ["COMPLETED", "REQUEUED"]
        spent = sum(r.devices * ((r.ended_s or 0) - (r.started_s or 0)) for r in worked)
        assert sum(a["device_seconds"] for a in jobs.attempts(job_id)) == spent
        old = until(lambda: is_stopping(system, replica["id"]), "the suspended one to be left")
        assert (
            old["reason"] == "it is suspended on its cluster, where an administrator can resume it"
        )
        until(lambda: system.deployment()["ready_replicas"] == 1, "its successor")
        assert system.serves()
        slurm.run("scontrol", "resume", known[replica["id"]]["number"])
        until(lambda: replica["id"] not in {r["id"] for r in serving(system)}, "its end")
        assert [r["status"] for r in serving(system)] == ["ready"]


def is_stopping(system: System, replica_id: str) -> dict[str, Any] | None:
    found = [row for row in serving(system) if row["id"] == replica_id]
    return found[0] if found and found[0]["status"] == "stopping" else None
