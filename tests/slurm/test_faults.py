"""Serving on Slurm while parts of it are killed: nothing starts twice, nothing is left behind."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.slurm_system import (
    engines,
    jobs_of,
    node_names,
    running_on,
    scale,
    serving,
    settled,
)
from tests.support.steady_load import SteadyLoad, failures, told
from tests.support.system import DEMO, System
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster
from tramontane.dev.slurm.config import ClusterConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ORPHAN_S_MAX = 60.0
# From Slurm's own notice that a node is lost: 5 s, and the start of an engine, which takes 1.5 s
# on a quiet machine.
REPLACED_S_MAX = 5.0 + 5.0


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    """A cluster as patient with its nodes as Slurm is by default.

    A shorter SlurmdTimeout declares nodes down when slurmctld was away for a minute.
    """
    with SlurmCluster(ClusterConfig(kill_wait_s=5)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def system(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_on(slurm, tmp_path_factory.mktemp("faults") / "home") as system:
        scale(system, 2)
        yield system


@pytest.fixture(autouse=True)
def nothing_twice_and_nothing_left(system: System, slurm: SlurmCluster) -> Iterator[None]:
    settled(system, 2)
    yield
    settled(system, 2)
    with contextlib.suppress(AssertionError):
        until(lambda: not orphans(system, slurm), "the end of orphans", ORPHAN_S_MAX)
    left = orphans(system, slurm)
    assert left == [], (jobs_of(slurm), engines(slurm), told_of(system, left))
    until(system.serves, "an answer", 20)
    words = ("-X", "-n", "-P", "--allusers", "--duplicates", "--format=JobName")
    rows = slurm.run("sacct", *words).split()
    names = [name for name in rows if name.startswith("rep_")]
    assert len(names) == len(set(names)), "one replica, one job, ever"


def orphans(system: System, slurm: SlurmCluster) -> list[str]:
    """Return the jobs and processes that no serving replica owns."""
    owned = {replica["id"] for replica in serving(system)}
    found = {*jobs_of(slurm), *engines(slurm).values()}
    return sorted(name for name in found if name.startswith("rep_") and name not in owned)


def told_of(system: System, names: list[str]) -> list[str]:
    """Return the stories of what should not be there."""
    return [event["message"] for name in names for event in system.pages("/events", subject=name)]


def ids(system: System) -> set[str]:
    return {replica["id"] for replica in serving(system)}


def saved(slurm: SlurmCluster, names: set[str]) -> bool:
    """Tell whether the jobs have run for so long that a killed slurmctld remembers them.

    It writes its state some seconds after a change, and forgets what it had not written.
    """
    rows = slurm.run("squeue", "--noheader", "--format=%j|%M").splitlines()
    ran = dict(row.split("|", 1) for row in rows)
    return all(ran[name] >= "0:12" or len(ran[name]) > len("0:12") for name in names)


def engine_pid(slurm: SlurmCluster, replica_id: str) -> int:
    """Return the pid of the engine itself, not of its runner."""
    for pid in engines(slurm, replica_id):
        if b"llama_server" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError(f"no engine of {replica_id} runs: {engines(slurm)}")


def step_pid(slurm: SlurmCluster, replica_id: str) -> int:
    """Return the pid of the slurmstepd above a replica's runner."""
    for pid in engines(slurm, replica_id):
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
            return parent
    raise AssertionError(f"no slurmstepd of {replica_id} runs")


def test_a_killed_engine_is_replaced(system: System, slurm: SlurmCluster) -> None:
    victim, other = (replica["id"] for replica in settled(system, 2))
    os.kill(engine_pid(slurm, victim), signal.SIGKILL)
    until(lambda: victim not in ids(system), "its end", 30)
    assert other in {replica["id"] for replica in settled(system, 2)}


def test_a_killed_slurmstepd_takes_its_engine_along(system: System, slurm: SlurmCluster) -> None:
    victim, other = (replica["id"] for replica in settled(system, 2))
    os.kill(step_pid(slurm, victim), signal.SIGKILL)
    until(lambda: not engines(slurm, victim), "the end of its engine and its runner", ORPHAN_S_MAX)
    until(lambda: victim not in ids(system), "its end", ORPHAN_S_MAX)
    assert other in {replica["id"] for replica in settled(system, 2)}


def test_a_replica_on_a_lost_node_is_replaced(system: System, slurm: SlurmCluster) -> None:
    victim = settled(system, 2)[0]
    node = node_names(system)[victim["node_id"]]
    state = ("sinfo", "--noheader", f"--nodes={node}", "--format=%T")
    slurm.kill(f"slurmd:{node}")
    try:
        time.sleep(3)
        assert victim["id"] in ids(system), "a silent slurmd says nothing about its jobs"
        slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
        noticed_s = time.monotonic()
        until(lambda: victim["id"] not in ids(system), "its end", 20)
        settled(system, 2)
        took_s = time.monotonic() - noticed_s
        print(f"replaced and ready {took_s:.1f} s after Slurm's notice")
        assert took_s < REPLACED_S_MAX
        until(lambda: not engines(slurm, victim["id"]), "the end of what ran on", ORPHAN_S_MAX)
    finally:
        slurm.restart(f"slurmd:{node}")
    until(lambda: "idle" in slurm.run(*state), "the node to be back", 60)


@pytest.mark.parametrize(
    ("daemon", "away_s"), [("slurmctld", 60), ("slurmrestd", 5), ("mariadbd", 5)]
)
def test_a_silent_controller_restarts_nothing(
    system: System, slurm: SlurmCluster, daemon: str, away_s: int
) -> None:
    before = {replica["id"] for replica in settled(system, 2)}
    if daemon == "slurmctld":
        until(lambda: saved(slurm, before), "slurmctld to have saved its state", 30)
    load = SteadyLoad(system)
    try:
        slurm.kill(daemon)
        ends_s = time.monotonic() + away_s
        while time.monotonic() < ends_s:
            assert ids(system) == before
            load.go_on(5)
        if daemon != "mariadbd":
            (cluster,) = system.pages("/clusters")
            assert cluster["status"] == "unknown", cluster
    finally:
        slurm.restart(daemon)
        endings = load.stop()
    assert not failures(endings), told(failures(endings))
    after = {replica["id"] for replica in settled(system, 2)}
    why = [f"{r['id']}: {r['reason']}" for r in system.pages("/replicas") if r["id"] in before]
    assert after == before, why


def test_the_control_plane_is_killed(system: System) -> None:
    before = {replica["id"] for replica in settled(system, 2)}
    load = SteadyLoad(system)
    try:
        for _ in range(2):
            system.only("control").kill()
            until(lambda: system.processes("control"), "the control plane to be back", 20)
            load.go_on()
    finally:
        endings = load.stop()
    assert not failures(endings), told(failures(endings))
    until(lambda: _answers(system), "the control plane's answer", 30)
    assert {replica["id"] for replica in settled(system, 2)} == before


def test_a_replica_starts_while_accounting_is_away(system: System, slurm: SlurmCluster) -> None:
    slurm.kill("mariadbd")
    try:
        scale(system, 3)
    finally:
        slurm.restart("mariadbd")
    scale(system, 2)


def test_everything_of_ours_is_stopped_and_started_again(
    system: System, slurm: SlurmCluster
) -> None:
    before = {replica["id"] for replica in settled(system, 2)}
    system.stop()
    assert set(engines(slurm).values()) == before, "they serve on"
    system.start()
    assert {replica["id"] for replica in settled(system, 2)} == before
    assert system.deployment(DEMO)["ready_replicas"] == 2


def _answers(system: System) -> bool:
    try:
        return bool(system.pages("/replicas"))
    except AssertionError:
        return False
