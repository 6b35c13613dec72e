"""A Slurm driver of one installation on the tests' cluster, and the reports of its runners."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from tests.support import tiny_engine
from tests.support.report_receiver import ReportReceiver
from tests.support.runners import tiny_launch
from tests.support.slurm_system import node_python
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster
from tramontane.dev.slurm.processes import SlurmClusterError
from tramontane.domain.jobs.attempt import AttemptObservation, JobLaunch, Topology
from tramontane.domain.launch import LaunchSpec, PriorityClass, Tenancy
from tramontane.domain.observation import ClusterView, Observation, Reachable, RunState
from tramontane.domain.planning.reported import with_reports
from tramontane.domain.resources import Resources
from tramontane.drivers.slurm.driver import SlurmDriver
from tramontane.runtime.clock import SystemIds
from tramontane.runtime.clusters import SlurmSettings

ACCOUNT: Final = "tmtdriver"
USER: Final = "tmt-a"
SMALL: Final = Resources(1000, 64 << 20)


class ReportedDriver(SlurmDriver):
    """The driver as reconcilers see it: with what runners reported."""

    receiver: ReportReceiver

    def view(self) -> ClusterView:
        return with_reports(super().view(), self.receiver.reports)

    def forget(self, id_: str) -> None:
        """Forget; when the runner said its last word, Slurm's own comes within seconds."""
        report = self.receiver.reports.get(id_)
        if report is not None and report.run_state is RunState.EXITED:
            until(lambda: self._is_over(id_), "the end of its job")
        super().forget(id_)

    def _is_over(self, id_: str) -> bool:
        entry = self._find(id_)
        return entry is None or entry.is_over


class SlurmWorld:
    """One installation on the cluster; `close` ends all its jobs."""

    def __init__(self, slurm: SlurmCluster, receiver: ReportReceiver, **options: Any) -> None:
        self.slurm, self.receiver = slurm, receiver
        self.folder = slurm.add_user(USER, ACCOUNT)
        self.installation_id = SystemIds().new("ins")
        self.settings = SlurmSettings(
            name="alps",
            url=slurm.rest_url,
            jwt_key=slurm.jwt_key,
            work_root=slurm.work_root,
            default_user=USER,
            manage_accounts=False,
            account=ACCOUNT,
            slurm_conf=slurm.conf,
            report_url=receiver.url,
            python=str(node_python()),
        )
        self.settings = replace(self.settings, **options)
        self._program = slurm.folder / "tiny_engine.py"
        shutil.copy(tiny_engine.__file__, self._program)
        self._program.chmod(0o644)
        self.driver = self.new_driver()

    def new_driver(self, **options: Any) -> SlurmDriver:
        """Return another driver of the same installation."""
        with_quick_looks = {"poll_interval_s": 0.2, "settle_s": 1.0} | options
        driver = ReportedDriver(self.settings, self.installation_id, **with_quick_looks)
        driver.receiver = self.receiver
        return driver

    def launch(self, *, fails: bool = False) -> LaunchSpec:
        words = ("--exit-after", "0", "--exit-code", "3", "--say", "out of luck")
        return self.tiny(*words) if fails else self.tiny("--say", "one\ntwo")

    def tiny(self, *words: str, **changes: Any) -> LaunchSpec:
        """Return the launch of a tiny engine that leaves a mark when it starts."""
        made = tiny_launch("--mark", "mark", *words, ready_timeout_s=60)
        argv = ("{python}", str(self._program), *made.argv[2:])
        return replace(made, argv=argv, resources=SMALL, **changes)

    def job(self, script: str, **changes: Any) -> JobLaunch:
        """Return the launch of a job that runs a shell script."""
        made = JobLaunch(
            job_id=SystemIds().new("job"),
            name="test",
            number=1,
            argv=("bash", "-c", script),
            env=(),
            files=(),
            nodes=1,
            resources=SMALL,
            topology=Topology.ANY,
            priority_class=PriorityClass.STANDARD,
            time_limit_s=120,
            hang_after_s=None,
            tenancy=Tenancy("acme", "default"),
            secret="only-the-runner-knows-this",
            grace_s=5,
        )
        return replace(made, **changes)

    def starts(self, replica_id: str) -> int:
        mark = self.folder / "replicas" / replica_id / "mark"
        return mark.read_text().count("started") if mark.exists() else 0

    def pass_time(self) -> None:
        time.sleep(0.02)

    def seen(self, driver: SlurmDriver | None = None) -> Reachable:
        view = (driver or self.driver).view()
        assert isinstance(view, Reachable), view
        return view

    def replica(self, replica_id: str) -> Observation | None:
        found = [o for o in self.seen().observations if o.replica_id == replica_id]
        return found[0] if found else None

    def attempt(self, attempt_id: str) -> AttemptObservation:
        return next(a for a in self.seen().attempts if a.attempt_id == attempt_id)

    def until_over(self, attempt_id: str, limit_s: float = 30) -> AttemptObservation:
        def look() -> AttemptObservation | None:
            seen = self.attempt(attempt_id)
            return seen if seen.state.is_over else None

        return until(look, f"the end of {attempt_id}", limit_s)

    def jobs(self, states: str = "all") -> dict[str, list[int]]:
        """Return the numbers of all jobs that Slurm has of this installation, by name."""
        shown = self.slurm.run("squeue", "-h", f"--states={states}", "--format=%j|%A|%k")
        found: dict[str, list[int]] = {}
        for line in shown.splitlines():
            name, number, comment = line.split("|")
            if self.installation_id in comment:
                found.setdefault(name, []).append(int(number))
        return found

    def live(self) -> list[str]:
        """Return the numbers of its jobs that wait or run."""
        found = self.jobs("PENDING,CONFIGURING,RUNNING,COMPLETING")
        return [str(number) for same in found.values() for number in same]

    def close(self) -> None:
        """End its jobs and wait until they are gone."""
        while live := self.live():
            for words in (("--full", "--signal=KILL"), ()):
                with contextlib.suppress(SlurmClusterError):  # it ended meanwhile
                    self.slurm.run("scancel", *words, *live[:200])
            self.pass_time()


@contextmanager
def open_world(slurm: SlurmCluster, **options: Any) -> Iterator[SlurmWorld]:
    """Yield an installation on the cluster; nothing of it runs afterwards."""
    with ReportReceiver() as receiver:
        world = SlurmWorld(slurm, receiver, **options)
        try:
            yield world
        finally:
            world.close()
