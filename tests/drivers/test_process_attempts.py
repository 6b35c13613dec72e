"""Attempts on this machine: what only real processes and real files can show."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.attempts import SECRET, job_launch, new_attempt_id
from tests.support.process_clusters import NODE, ProcessCluster, open_cluster
from tests.support.runners import kill, new_id, processes_of
from tests.support.waiting import until
from tramontane.domain.jobs.attempt import AttemptObservation, AttemptState, JobLaunch
from tramontane.domain.observation import Reachable
from tramontane.drivers.base import DriverUnavailableError

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ProcessCluster]:
    with open_cluster(tmp_path) as cluster:
        yield cluster


def observe(cluster: ProcessCluster, attempt_id: str) -> AttemptObservation | None:
    view = cluster.driver.view()
    assert isinstance(view, Reachable)
    return next((seen for seen in view.attempts if seen.attempt_id == attempt_id), None)


def until_state(
    cluster: ProcessCluster, attempt_id: str, state: AttemptState
) -> AttemptObservation:
    def look() -> AttemptObservation | None:
        seen = observe(cluster, attempt_id)
        return seen if seen is not None and seen.state is state else None

    return until(look, state)


def start(cluster: ProcessCluster, script: str | JobLaunch) -> tuple[str, Path]:
    """Submit an attempt at a shell script; return its id and its run directory."""
    launch = job_launch("sh", "-c", script) if isinstance(script, str) else script
    attempt_id = new_attempt_id()
    cluster.driver.submit(attempt_id, launch, NODE)
    return attempt_id, cluster.home / "jobs" / launch.job_id / "attempts" / attempt_id


def test_nothing_is_inherited_and_devices_are_told(
    cluster: ProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the operator's")
    launch = job_launch("env", env=(("CUDA_VISIBLE_DEVICES", "0,1,2"),), device_indexes=(1, 3))
    attempt_id, run_dir = start(cluster, launch)
    until_state(cluster, attempt_id, AttemptState.SUCCEEDED)
    output = cluster.driver.read_log(attempt_id, 0, 0, 1 << 20).decode()
    got = dict(line.split("=", 1) for line in output.splitlines())
    assert "OPENAI_API_KEY" not in got
    assert (got["CUDA_VISIBLE_DEVICES"], got["CUDA_DEVICE_ORDER"]) == ("1,3", "PCI_BUS_ID")
    assert SECRET not in output
    assert all(path.stat().st_mode & 0o077 == 0 for path in [run_dir, *run_dir.iterdir()])


def test_a_killed_runner_is_told_and_leaves_nothing(cluster: ProcessCluster) -> None:
    attempt_id, run_dir = start(
        cluster, f"echo working with {SECRET}; setsid sleep 600 & sleep 600"
    )
    until(lambda: cluster.driver.logs(attempt_id, 1))
    started = until_state(cluster, attempt_id, AttemptState.RUNNING).started_at_ms
    kill(json.loads((run_dir / "report.json").read_text())["pid"])
    seen = until_state(cluster, attempt_id, AttemptState.NODE_FAILED)
    assert (seen.reason or "").startswith("its runner was killed, and the command with it")
    assert "working with ***" in (seen.reason or "")
    assert seen.started_at_ms == started
    assert seen.ended_at_ms is not None
    assert processes_of(attempt_id) == []
    assert cluster.driver.account([attempt_id])[attempt_id].state is AttemptState.NODE_FAILED


def test_what_was_prepared_and_stopped_is_never_started(cluster: ProcessCluster) -> None:
    launch, attempt_id = job_launch("sh", "-c", "echo ran"), new_attempt_id()
    cluster.driver._attempts.prepare(attempt_id, launch)  # as after a crash halfway
    assert observe(cluster, attempt_id) is None
    cluster.driver.stop(attempt_id)
    cluster.driver.submit(attempt_id, launch, NODE)
    seen = observe(cluster, attempt_id)
    assert seen is not None
    assert (seen.state, seen.reason) == (AttemptState.CANCELLED, "stopped before it was started")
    assert cluster.driver.logs(attempt_id, 10) == []
    cluster.driver.forget(attempt_id)
    assert observe(cluster, attempt_id) is None


def test_a_crash_before_the_start_is_made_good(cluster: ProcessCluster) -> None:
    launch, attempt_id = job_launch("sh", "-c", "echo ran"), new_attempt_id()
    cluster.driver._attempts.prepare(attempt_id, launch)
    cluster.driver.submit(attempt_id, launch, NODE)
    until_state(cluster, attempt_id, AttemptState.SUCCEEDED)


def test_an_attempt_whose_note_is_lost_is_found_by_its_processes(cluster: ProcessCluster) -> None:
    attempt_id, run_dir = start(cluster, "sleep 600")
    until_state(cluster, attempt_id, AttemptState.RUNNING)
    (cluster.home / "attempts" / attempt_id).unlink()
    seen = observe(cluster, attempt_id)
    assert seen is not None
    assert seen.state is AttemptState.RUNNING
    cluster.driver.stop(attempt_id, drain=False)
    until(lambda: not processes_of(attempt_id))
    assert run_dir.exists()


def test_what_its_job_keeps_outlives_it(cluster: ProcessCluster) -> None:
    attempt_id, run_dir = start(
        cluster, "echo 7 > $TRAMONTANE_CHECKPOINT_DIR/step; echo x > result"
    )
    until_state(cluster, attempt_id, AttemptState.SUCCEEDED)
    cluster.driver.forget(attempt_id)
    job = run_dir.parents[1]
    assert not run_dir.exists()
    assert (job / "checkpoint" / "step").read_text() == "7\n"
    assert (job / "work" / "result").read_text() == "x\n"


def test_an_ended_job_leaves_nothing_but_what_others_own(
    cluster: ProcessCluster, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("another's")
    script = f"ln -s {outside} link; mkdir -p a/b; echo x > a/b/c; chmod 555 a/b a"
    attempt_id, run_dir = start(cluster, script)
    other_id, other_dir = start(cluster, "echo 7 > $TRAMONTANE_CHECKPOINT_DIR/step")
    for id_ in (attempt_id, other_id):
        until_state(cluster, id_, AttemptState.SUCCEEDED)
    job, tenancy = run_dir.parents[1], job_launch("true").tenancy
    with pytest.raises(ValueError, match="is no job"):
        cluster.driver.remove_job("../../etc", [], tenancy)
    assert cluster.driver.remove_job(job.name, [attempt_id], tenancy)
    assert [path.name for path in job.parent.iterdir()] == [other_dir.parents[1].name]
    assert [path.name for path in (cluster.home / "attempts").iterdir()] == [other_id]
    assert (outside / "kept").read_text() == "another's"
    assert observe(cluster, attempt_id) is None
    assert observe(cluster, other_id) is not None


def test_a_removal_that_was_killed_is_finished(cluster: ProcessCluster) -> None:
    attempt_id, run_dir = start(cluster, "echo x > result")
    until_state(cluster, attempt_id, AttemptState.SUCCEEDED)
    job, tenancy = run_dir.parents[1], job_launch("true").tenancy
    job.rename(job.with_name(f".removed-{job.name}"))  # that is where it was killed
    assert cluster.driver.remove_job(job.name, [attempt_id], tenancy)
    assert list(job.parent.iterdir()) == []
    assert observe(cluster, attempt_id) is None
    assert cluster.driver.remove_job(job.name, [attempt_id], tenancy)


def test_a_large_job_goes_piece_by_piece(cluster: ProcessCluster) -> None:
    script = 'i=0; while [ $i -lt 2500 ]; do : > "f$i"; i=$((i+1)); done'
    attempt_id, run_dir = start(cluster, script)
    until_state(cluster, attempt_id, AttemptState.SUCCEEDED)
    job, tenancy = run_dir.parents[1], job_launch("true").tenancy
    calls = 1
    while not cluster.driver.remove_job(job.name, [attempt_id], tenancy):
        assert observe(cluster, attempt_id) is None, "half of it is never seen"
        calls += 1
    assert calls == 2
    assert list(job.parent.iterdir()) == []


def test_its_log_leads_nowhere_else(cluster: ProcessCluster, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("another's")
    launch = job_launch("sh", "-c", f"cd ../attempts/*/ && ln -sf {secret} log.0")
    attempt_id, run_dir = start(cluster, launch)
    until_state(cluster, attempt_id, AttemptState.SUCCEEDED)
    assert (run_dir / "log.0").is_symlink()
    assert cluster.driver.read_log(attempt_id, 0, 0, 100) == b""
    assert cluster.driver.logs(attempt_id, 10) == []


def test_attempts_and_replicas_do_not_meet(cluster: ProcessCluster) -> None:
    replica_id = cluster.start()
    attempt_id, _ = start(cluster, "sleep 600")
    until_state(cluster, attempt_id, AttemptState.RUNNING)
    view = cluster.driver.view()
    assert isinstance(view, Reachable)
    assert [seen.replica_id for seen in view.observations] == [replica_id]
    assert [seen.attempt_id for seen in view.attempts] == [attempt_id]
    cluster.driver.stop(attempt_id, drain=False)
    until_state(cluster, attempt_id, AttemptState.CANCELLED)
    assert processes_of(replica_id)


def test_what_this_machine_cannot_do_is_refused(cluster: ProcessCluster) -> None:
    several = job_launch("true", nodes=2)
    with pytest.raises(ValueError, match="has one node, and 2 are asked for"):
        cluster.driver.submit(new_attempt_id(), several, NODE)
    with pytest.raises(ValueError, match="is no attempt of a job"):
        cluster.driver.submit(
            new_attempt_id(), dataclasses.replace(several, nodes=1, job_id="../../etc"), NODE
        )
    for id_ in ("../x", "", "job_aaaaaaaaaaaaaaaaaaaa"):
        with pytest.raises(ValueError, match="is not a replica id, nor that of an attempt"):
            cluster.driver.stop(id_)
    with pytest.raises(ValueError, match="has the node this-node, not other"):
        cluster.driver.set_drained("other", "why")
    assert cluster.driver.read_log(new_id(), 0, 0, 10) == b""
    assert not (cluster.home / "jobs").exists()


def test_a_folder_that_cannot_be_written_leaves_no_half_state(cluster: ProcessCluster) -> None:
    cluster.home.mkdir()
    (cluster.home / "jobs").write_text("a file where a directory belongs")
    attempt_id = new_attempt_id()
    with pytest.raises(DriverUnavailableError, match="was not started: cannot write"):
        cluster.driver.submit(attempt_id, job_launch("true"), NODE)
    assert not (cluster.home / "attempts" / attempt_id).exists()
    assert observe(cluster, attempt_id) is None
    assert os.listdir(cluster.home)  # noqa: PTH208
