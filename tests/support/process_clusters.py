"""A process driver with a home of its own, and an end to everything that it started."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.attempts import How, job_launch
from tests.support.runners import (
    kill,
    new_id,
    processes_of,
    tiny_launch,
)
from tests.support.waiting import until
from tramontane.domain.jobs.attempt import JobLaunch
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.observation import Observation, Reachable, RunState
from tramontane.domain.resources import Resources
from tramontane.drivers.process import ProcessDriver
from tramontane.runtime.clock import SystemIds

NODE = "this-node"
CAPACITY = Resources(cpu_millicores=8000, memory_bytes=8 << 30)


class ProcessCluster:
    """One installation on this machine."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.installation_id = SystemIds().new("ins")
        self.driver = self.new_driver()
        self.ids: set[str] = set()

    def new_driver(self) -> ProcessDriver:
        return ProcessDriver(
            "local", self.home, self.installation_id, node_name=NODE, capacity=CAPACITY
        )

    def launch(self, *, fails: bool = False) -> LaunchSpec:
        words = ("--exit-after", "0", "--exit-code", "3", "--say", "out of luck")
        return self.tiny(*words) if fails else self.tiny("--say", "one\ntwo")

    def tiny(self, *words: str) -> LaunchSpec:
        """Return the launch of a tiny engine that leaves a mark when it starts."""
        return tiny_launch("--mark", "mark", *words)  # in the run directory

    def job(self, how: How) -> JobLaunch:
        """Return an attempt that leaves a mark in its checkpoint folder when it starts."""
        mark = "echo started $TRAMONTANE_ATTEMPT >> $TRAMONTANE_CHECKPOINT_DIR/starts"
        does = {
            "runs": "echo one; sleep 60",
            "succeeds": "echo done",
            "fails": "echo out of luck; exit 3",
            "outlasts": "echo slow; sleep 60",
        }
        limit_s = 1 if how == "outlasts" else 60
        return job_launch("sh", "-c", f"{mark}; {does[how]}", time_limit_s=limit_s)

    def attempt_starts(self, attempt_id: str) -> int:
        marks = (self.home / "jobs").glob("*/checkpoint/starts")
        return sum(path.read_text().count(attempt_id) for path in marks)

    def starts(self, replica_id: str) -> int:
        mark = self.run_dir(replica_id) / "mark"
        return mark.read_text().count("started") if mark.exists() else 0

    def pass_time(self) -> None:
        time.sleep(0.01)

    def run_dir(self, replica_id: str) -> Path:
        return self.home / "replicas" / replica_id

    def start(self, *words: str) -> str:
        """Start a tiny engine; return its id when it is ready."""
        replica_id = new_id()
        self.driver.ensure(replica_id, NODE, self.tiny(*words))
        self.until_state(replica_id, RunState.READY)
        return replica_id

    def observe(self, replica_id: str) -> Observation | None:
        view = self.driver.view()
        assert isinstance(view, Reachable)
        self.ids.update(seen.replica_id for seen in view.observations)
        return next((seen for seen in view.observations if seen.replica_id == replica_id), None)

    def until_state(self, replica_id: str, run_state: RunState) -> Observation:
        """Return the first observation in ``run_state``."""

        def look() -> Observation | None:
            seen = self.observe(replica_id)
            return seen if seen is not None and seen.run_state is run_state else None

        return until(look)


@contextmanager
def open_cluster(tmp_path: Path) -> Iterator[ProcessCluster]:
    """Yield an installation; none of its processes is left afterwards."""
    cluster = ProcessCluster(tmp_path / "home")
    try:
        yield cluster
    finally:
        replicas = tmp_path / "home" / "replicas"
        ids = cluster.ids | {path.name for path in replicas.glob("rep_*")}
        ids |= {path.name for path in replicas.with_name("attempts").glob("att_*")}
        for replica_id in ids:
            for pid in processes_of(replica_id):
                kill(pid)
        until(lambda: not any(processes_of(replica_id) for replica_id in ids))
