"""The runner as a job of Slurm: what becomes of it when Slurm's own part of the node dies."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.support.attempts import job_launch, new_attempt_id
from tests.support.runners import kill, processes_of
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster
from tramontane.domain import ids
from tramontane.runner import bundle, linux
from tramontane.runtime.clock import SystemIds

pytestmark = pytest.mark.slow


@pytest.fixture
def run_dir(slurm: SlurmCluster) -> Path:
    folder = slurm.work_root / SystemIds().new(ids.JOB) / "attempts" / new_attempt_id()
    folder.mkdir(parents=True)
    (folder / "runner.pyz").write_bytes(bundle.zip_bytes())
    return folder


def submit(slurm: SlurmCluster, run_dir: Path, script: str, *options: str, nodes: int = 1) -> str:
    """Submit an attempt at a shell script; return the number of its job."""
    launch = dataclasses.asdict(job_launch("sh", "-c", script, nodes=nodes))
    (run_dir / "launch.json").write_text(json.dumps(launch))
    runner = f"python3 -I -S runner.pyz --run-dir . --attempt {run_dir.name}"
    several = f"srun --kill-on-bad-exit=1 --ntasks-per-node=1 {runner} --nodes {nodes}"
    line = f'exec {several if nodes > 1 else runner} --claim "$SLURM_JOB_ID"'
    (run_dir / "batch.sh").write_text(f"#!/bin/bash\n{line}\n")
    output = f"--output={run_dir}/slurm.log"
    words = ("sbatch", "--parsable", "--no-requeue", "--mem=50", f"-N{nodes}", output)
    return slurm.run(*words, f"--chdir={run_dir}", *options, f"{run_dir}/batch.sh").strip()


def state_of(slurm: SlurmCluster, job: str) -> str:
    return slurm.run("sacct", "-nXPj", job, "-o", "state").strip()


def report_of(run_dir: Path, rank: int = 0) -> dict[str, object]:
    path = run_dir / (f"report.{rank}.json" if rank else "report.json")
    return json.loads(path.read_text()) if path.exists() else {}


def test_a_killed_slurmstepd_takes_everything_along(slurm: SlurmCluster, run_dir: Path) -> None:
    job = submit(slurm, run_dir, "setsid sleep 600 & echo on; sleep 600")
    until(lambda: report_of(run_dir).get("run_state") == "ready")
    until(lambda: (run_dir / "log.0").read_text() == "on\n")
    runner = int(str(report_of(run_dir)["pid"]))
    stepd = int((linux.stat_fields(runner) or [])[1])
    assert Path(f"/proc/{stepd}/comm").read_text().startswith("slurmstepd")
    kill(stepd)
    until(lambda: not processes_of(run_dir.name), "the end of all", 8)
    until(lambda: report_of(run_dir).get("outcome") == "cancelled", "its last report")
    slurm.run("scancel", "--quiet", job)


def test_a_cancelled_job_has_its_grace(slurm: SlurmCluster, run_dir: Path) -> None:
    save = "trap 'sleep 1; echo saved; exit 0' TERM; echo on; while :; do sleep 0.1; done"
    job = submit(slurm, run_dir, save)
    until(lambda: report_of(run_dir).get("run_state") == "ready")
    until(lambda: (run_dir / "log.0").read_text() == "on\n")
    slurm.run("scancel", job)
    until(lambda: report_of(run_dir).get("run_state") == "exited")
    assert report_of(run_dir)["outcome"] == "cancelled"
    assert "saved" in (run_dir / "log.0").read_text()
    until(lambda: state_of(slurm, job).startswith("CANCELLED"))


def test_a_failing_node_ends_the_others_with_its_words(slurm: SlurmCluster, run_dir: Path) -> None:
    script = "if [ $NODE_RANK = 1 ]; then sleep 1; echo out of luck; exit 3; fi; sleep 600"
    job = submit(slurm, run_dir, script, nodes=2)
    until(lambda: report_of(run_dir).get("run_state") == "exited", "its end")
    until(lambda: state_of(slurm, job) == "FAILED")
    assert "out of luck" in str(report_of(run_dir, 1)["reason"])
    told = report_of(run_dir)
    assert (told["outcome"], told["exit_code"]) == ("failed", 3)
    assert "node 1 of 2: the command exited with status 3:\nout of luck" in str(told["reason"])
    assert not processes_of(run_dir.name)
