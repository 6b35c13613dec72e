"""Sixty-four nodes, fifty deployments and five hundred jobs: at rest, next to nothing happens."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support import tiny_engine
from tests.support.counting_proxy import CountingProxy
from tests.support.planning import PROJECT, VERSION, plant, typed_id
from tests.support.slurm_system import node_python
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster
from tramontane.dev.slurm.config import ClusterConfig
from tramontane.domain import ids
from tramontane.domain.catalog import Capabilities, ModelVersion
from tramontane.domain.deployment import Deployment, DeploymentSpec, DeploymentStatus
from tramontane.domain.jobs.job import AttemptStatus, Job, JobSpec
from tramontane.domain.launch import HOST, PORT, PYTHON, LaunchSpec, Tenancy
from tramontane.domain.observation import RunState
from tramontane.domain.refusal import Refusal
from tramontane.domain.replica import ReplicaStatus
from tramontane.domain.report import RunnerReport
from tramontane.domain.resources import Resources
from tramontane.drivers.slurm.driver import SlurmDriver
from tramontane.reconcilers.jobs.reconciler import JobReconciler
from tramontane.reconcilers.replicas import ReplicaReconciler
from tramontane.runtime.clock import SystemClock, SystemIds
from tramontane.runtime.clusters import SlurmSettings
from tramontane.store import deployments, replicas
from tramontane.store.db import Database, Transaction
from tramontane.store.jobs import attempts, jobs
from tramontane.store.reports import runners

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RACKS, NODES_PER_RACK = 8, 8
DEPLOYMENTS: Final = 50
JOBS: Final = 500
# Each job takes the devices of a node; some nodes have their processors full of replicas.
RUNNING_MIN: Final = RACKS * NODES_PER_RACK - 7
POLL_S: Final = 1.0
# Farther than Slurm plans ahead: it takes long until it has an estimate for every job, and each
# of them is news.
LIMIT_S: Final = 2 * 86_400
INTERVALS: Final = 10  # for which it is watched
# Times that it is watched again: Slurm makes up its mind about starts for a while, and it shares
# two processors with all that it started and with other tests.
NEWS_MAX: Final = 5
LATE_MAX: Final = 2  # passes that may take longer, for the same reason
PASS_S: Final = 0.25  # from one pass to the next
PASS_S_MAX: Final = 1.0
SMALL: Final = Resources(1_000, 20 << 20)


class CountingDatabase(Database):
    """Counts write transactions."""

    writes = 0

    def write(self, fn):
        self.writes += 1
        return super().write(fn)


class SmallEngine:
    """A recipe of next to nothing: an HTTP server of Python's own."""

    name = "small"

    def __init__(self, program: Path) -> None:
        self._program = program

    def check(
        self, spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion] = ()
    ) -> Refusal | None:
        return None

    def capabilities(self, spec: DeploymentSpec, version: ModelVersion) -> Capabilities:
        return version.capabilities

    def resources(
        self, spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion] = ()
    ) -> Resources:
        return SMALL

    def launch(
        self,
        spec: DeploymentSpec,
        version: ModelVersion,
        *,
        served_name: str,
        secret: str,
        device_indexes: tuple[int, ...],
        adapters: Sequence[ModelVersion] = (),
    ) -> LaunchSpec:
        return LaunchSpec(
            argv=(PYTHON, "-I", "-S", str(self._program), "--host", HOST, "--port", PORT),
            env=(("TRAMONTANE_REPLICA_SECRET", secret),),
            resources=SMALL,
            health_path="/health",
            load=None,
            ready_timeout_s=600,
            drain_timeout_s=1,
            tenancy=Tenancy("acme", "default"),
        )


class Took(NamedTuple):
    """Seconds of one pass: in all, and of its own work without waiting for slurmctld."""

    all_s: float
    own_s: float


class World:
    """Both reconcilers on a large cluster, called in turn as their loops would."""

    def __init__(self, slurm: SlurmCluster, url: str, db: CountingDatabase) -> None:
        slurm.add_user("tmt-a", account="scale")
        self.slurm, self.db = slurm, db
        settings = SlurmSettings(
            name="big",
            url=url,
            jwt_key=slurm.jwt_key,
            work_root=slurm.work_root,
            default_user="tmt-a",
            manage_accounts=False,
            account="scale",
            slurm_conf=slurm.conf,
            python=str(node_python()),
        )
        driver = SlurmDriver(settings, "scale", poll_interval_s=POLL_S)
        program = slurm.work_root / "engine.py"
        shutil.copy(tiny_engine.__file__, program)
        program.chmod(0o644)
        recipes = {"small": SmallEngine(program)}
        clock, new_ids = SystemClock(), SystemIds()
        self.now_ms = clock.now_ms
        self.replicas = ReplicaReconciler(db, {"big": driver}, recipes, clock, new_ids)
        self.jobs = JobReconciler(db, {"big": driver}, clock, new_ids)

    def wish(self, tx: Transaction) -> None:
        """Want all deployments and jobs."""
        spec = DeploymentSpec(VERSION.id, "small", 1, context_length=2_048, parallel=1)
        for number in range(DEPLOYMENTS):
            id_ = typed_id(ids.DEPLOYMENT, number + 1)
            made = Deployment(id_, PROJECT.id, f"chat-{number}", spec, 1, self.now_ms())
            deployments.insert(tx, made)
        wanted = JobSpec(("sleep", "900"), replace(SMALL, devices=4), time_limit_s=LIMIT_S)
        for number in range(JOBS):
            id_ = typed_id(ids.JOB, number + 1)
            jobs.insert(tx, Job(id_, PROJECT.id, f"job-{number}", wanted, self.now_ms()), ())

    def step(self) -> list[Took]:
        """Make one pass of each; return how long each took."""
        took: list[Took] = []
        for reconciler in (self.replicas, self.jobs):
            began_s, worked_s = time.monotonic(), time.thread_time()
            reconciler.step()
            took.append(Took(time.monotonic() - began_s, time.thread_time() - worked_s))
        return took

    def report_ready(self) -> None:
        """Say what the runners of all starting replicas would have said."""

        def write(tx: Transaction) -> None:
            for replica in replicas.list_holding(tx):
                if replica.status is ReplicaStatus.STARTING:
                    address = f"127.0.0.1:{20_000 + int(replica.created_at_ms) % 10_000}"
                    now_ms = self.now_ms()
                    told = RunnerReport(replica.id, RunState.READY, now_ms, address=address)
                    runners.put(tx, told, now_ms)

        self.db.write(write)

    def is_settled(self) -> bool:
        """Tell whether all deployments serve and all jobs run or queue."""
        with self.db.read() as tx:
            ready = [d.status is DeploymentStatus.READY for d in deployments.list_live(tx)]
            live = [attempt.status for attempt in attempts.list_live(tx)]
        states = (live.count(AttemptStatus.RUNNING), live.count(AttemptStatus.QUEUED))
        return all(ready) and sum(states) == JOBS and states[0] >= RUNNING_MIN

    def slurm_jobs(self) -> Counter[str]:
        """Return how many jobs of each kind and state the cluster knows, ended ones too."""
        form = ("--noheader", "--states=all", "--format=%.3j %T")
        return Counter(self.slurm.run("squeue", *form).splitlines())


@pytest.fixture
def slurm() -> Iterator[SlurmCluster]:
    with SlurmCluster(ClusterConfig(racks=RACKS, nodes_per_rack=NODES_PER_RACK)) as cluster:
        yield cluster


def test_a_large_installation_at_rest_is_quiet(slurm: SlurmCluster, tmp_path: Path) -> None:
    db = CountingDatabase(f"sqlite:///{tmp_path}/scale.db")
    db.migrate()
    plant(db)
    with CountingProxy(slurm.rest_url) as proxy:
        world = World(slurm, proxy.url, db)
        db.write(world.wish)
        began_s = time.monotonic()

        def settle() -> bool:
            writes = db.writes
            world.step()
            if world.is_settled() and db.writes == writes:
                return True
            world.report_ready()
            return False

        until(settle, "all to run or queue", 120)
        print(f"\nsettled after {time.monotonic() - began_s:.1f} s")
        slurm_jobs = world.slurm_jobs()
        seen = watched(world, proxy)
        for _ in range(NEWS_MAX):
            if not seen.writes and seen.longest[-LATE_MAX - 1] < PASS_S_MAX:
                break
            seen = watched(world, proxy)
        longest, questions, most = seen.longest, seen.questions, max(t.own_s for t in seen.took)
        print(f"{len(longest)} passes, the longest {longest[-3:]} s, own work at most {most:.3f} s")
        print(f"{len(questions)} questions in {INTERVALS} intervals")
        assert seen.writes == 0
        assert most < PASS_S_MAX
        assert longest[-LATE_MAX - 1] < PASS_S_MAX, longest
        assert len(questions) <= INTERVALS + 1, questions
        assert all(" /slurm/" in question for question in questions), questions
        assert world.slurm_jobs() == slurm_jobs
        assert slurm_jobs["rep RUNNING"] == DEPLOYMENTS
        assert slurm_jobs["att RUNNING"] + slurm_jobs["att PENDING"] == JOBS
        assert slurm_jobs.total() == DEPLOYMENTS + JOBS


class Watched(NamedTuple):
    """What the reconcilers did for some intervals."""

    took: list[Took]
    questions: list[str]
    writes: int

    @property
    def longest(self) -> list[float]:
        """The seconds of each pass, the longest last."""
        return sorted(took.all_s for took in self.took)


def watched(world: World, proxy: CountingProxy) -> Watched:
    """Go on for `INTERVALS` and return what that took."""
    took: list[Took] = []
    asked, writes = len(proxy.asked), world.db.writes
    ends_s = time.monotonic() + INTERVALS * POLL_S
    while time.monotonic() < ends_s:
        took += world.step()
        time.sleep(PASS_S)
    return Watched(took, proxy.asked[asked:], world.db.writes - writes)
