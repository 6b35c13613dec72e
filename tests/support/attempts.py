"""Attempts at jobs for tests: their launches, and real runners of them."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Literal, Self

from tests.support.runners import RUNNER, kill, processes_of
from tests.support.waiting import LIMIT_S, until
from tramontane.domain import ids
from tramontane.domain.jobs.attempt import JobLaunch, Topology
from tramontane.domain.launch import PriorityClass, Tenancy
from tramontane.domain.resources import Resources
from tramontane.runtime.clock import SystemIds

How = Literal["runs", "succeeds", "fails", "outlasts"]
SECRET: Final = "what-only-its-runner-shows"


def new_attempt_id() -> str:
    return SystemIds().new(ids.ATTEMPT)


def job_launch(*argv: str, time_limit_s: int = 60, **changes: Any) -> JobLaunch:
    """Return the launch of an attempt at a new job."""
    launch = JobLaunch(
        job_id=SystemIds().new(ids.JOB),
        name="a-job",
        number=1,
        argv=argv,
        env=(),
        files=(),
        nodes=1,
        resources=Resources(cpu_millicores=100, memory_bytes=16 << 20),
        topology=Topology.ANY,
        priority_class=PriorityClass.STANDARD,
        time_limit_s=time_limit_s,
        hang_after_s=None,
        tenancy=Tenancy("default", "default"),
        secret=SECRET,
        grace_s=5,
    )
    return dataclasses.replace(launch, **changes)


class AttemptRunner:
    """The job folder of one attempt, and its runners, one per node, as children."""

    def __init__(self, folder: Path, launch: JobLaunch | str, *, nodes: int = 1) -> None:
        self.id = new_attempt_id()
        self.job = folder / SystemIds().new(ids.JOB)
        self.dir = self.job / "attempts" / self.id
        self.dir.mkdir(mode=0o700, parents=True)
        self.nodes = nodes
        text = launch if isinstance(launch, str) else json.dumps(dataclasses.asdict(launch))
        (self.dir / "launch.json").write_text(text)
        self.environment = {"PATH": os.environ["PATH"], "TRAMONTANE_ATTEMPT": self.id}
        self.children: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str, rank: int = 0, **options: Any) -> subprocess.Popen[bytes]:
        """Start the runner of one node; ``words`` are further words of its command line."""
        script = [sys.executable, "-I", "-S", RUNNER, "--run-dir", str(self.dir)]
        several = ["--nodes", str(self.nodes)] if self.nodes > 1 else []
        with (self.dir / f"runner.{rank}.log").open("ab") as log:
            child = subprocess.Popen(
                [*script, "--attempt", self.id, *several, *words],
                env={**self.environment, "SLURM_PROCID": str(rank)},
                stderr=log,
                **options,
            )
        self.children.append(child)
        return child

    def report(self, rank: int = 0) -> dict[str, Any]:
        """Return the report of one node, empty before the first one."""
        name = f"report.{rank}.json" if rank else "report.json"
        try:
            return json.loads((self.dir / name).read_text())
        except FileNotFoundError:
            return {}

    def until_state(self, run_state: str, rank: int = 0) -> dict[str, Any]:
        """Return the first report that tells of ``run_state``."""
        until(lambda: self.report(rank).get("run_state") == run_state, run_state)
        return self.report(rank)

    def output(self, rank: int = 0) -> str:
        """Return what the command wrote on one node."""
        path = self.dir / f"log.{rank}"
        return path.read_text() if path.exists() else ""

    def until_gone(self, limit_s: float = LIMIT_S) -> None:
        """Wait until no process of it is left."""
        for child in self.children:
            child.wait(limit_s)
        until(lambda: not processes_of(self.id), "its end", limit_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in processes_of(self.id):
            kill(pid)
        for child in self.children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(LIMIT_S)
