"""A simulated world of jobs: real reconcilers, real store, a fake machine and a fake scheduler.

Everything follows from the seed, as in `world`. Control planes crash at any write and call, two
of them race without leases, clusters fall silent, lose nodes, evict, lose and repeat calls.
"""

import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.sim.checks import ViolationError, require
from tests.sim.cuts import Crash, CutDatabase
from tests.support.jobs import job_of
from tests.support.planning import GIB, NOW_MS, RECIPES, CountingIds, plant, stored_deployment
from tramontane.domain.fleet import Device
from tramontane.domain.jobs.attempt import JobLaunch
from tramontane.domain.jobs.job import (
    FAILURES,
    INTERRUPTIONS,
    Attempt,
    AttemptStatus,
    Job,
    JobStatus,
)
from tramontane.domain.observation import ClusterView, RunState
from tramontane.domain.resources import Resources
from tramontane.drivers.fake import FakeDriver, FakeNode
from tramontane.drivers.fake_attempts import FakeAttempt
from tramontane.drivers.faults import (
    DelayCall,
    DropCall,
    Evict,
    FailAttempt,
    Fault,
    LateReports,
    LoseNode,
    LoseReply,
    RepeatCall,
    Silence,
)
from tramontane.reconcilers.jobs.reconciler import JobReconciler
from tramontane.reconcilers.replicas import ReplicaReconciler
from tramontane.runtime.clock import ManualClock
from tramontane.store import deployments
from tramontane.store.jobs import attempts, jobs

TICKS = 30
SETTLE_TICKS_MAX = 400
CRASH_CHANCE = 0.02
RACE_CHANCE = 0.04


class CutJobDriver:
    """A fake driver with cuts, and with someone who looks at each start."""

    def __init__(self, inner: FakeDriver, world: "JobWorld") -> None:
        self.inner = inner
        self.name = inner.name
        self.queues = inner.queues
        self._world = world

    def view(self) -> ClusterView:
        self._world.at("before view")
        return self.inner.view()

    def submit(self, attempt_id: str, launch: JobLaunch, node_name: str | None = None) -> None:
        self._world.at("before submit")
        self._world.before_submit(attempt_id)
        self.inner.submit(attempt_id, launch, node_name)
        self._world.at("after submit")

    def stop(self, id_: str, *, drain: bool = True) -> None:
        self._world.at("before stop")
        self.inner.stop(id_, drain=drain)
        self._world.at("after stop")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class JobWorld:
    """The world of one seed. ``reconciler`` may be one with a planted bug."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        reconciler: type[JobReconciler] = JobReconciler,
        driver: type[FakeDriver] = FakeDriver,
        tell: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._tell = tell
        self._chance = random.Random(seed)
        self._reconciler = reconciler
        self.is_racing = seed % 3 == 1
        self.clock = ManualClock(NOW_MS)
        self.ids = CountingIds()
        self.db = CutDatabase(f"sqlite:///{folder / 'tramontane.sqlite'}", self.at)
        self._is_fate_on = False
        self._depth = 0
        plant(self.db)
        gpu = tuple(Device(index, "gpu", 80 * GIB) for index in range(2))
        room = Resources(8_000, 32 * GIB, 2)
        self.drivers = {
            name: driver(
                self.clock,
                [FakeNode(f"{name}-{n}", room, gpu) for n in range(2)],
                name=name,
                seed=seed,
                queues=name == "slurm",
                run_ms=self._chance.choice([500, 3_000, 9_000]),
            )
            for name in ("own", "slurm")
        }
        self.cut: dict[str, Any] = {n: CutJobDriver(it, self) for n, it in self.drivers.items()}
        self.planes = [self._new_plane() for _ in range(2 if self.is_racing else 1)]
        self.replicas = ReplicaReconciler(self.db, self.drivers, RECIPES, self.clock, self.ids)
        self.replicas.step()
        self._made = 0
        self._ended: set[str] = set()

    def run(self) -> None:
        """Live through the faults, then settle."""
        served = stored_deployment(replicas=1)
        served = replace(served, spec=replace(served.spec, devices=1))
        self.db.write(lambda tx: deployments.insert(tx, served))
        for _ in range(TICKS):
            self._act()
            self._strike()
            self._step(with_fate=True)
            if self._chance.random() < 0.5:
                self.replicas.step()
            self.check()
            self.clock.advance(self._chance.choice([100, 700, 1_500, 8_000]))
        self._settle()

    def at(self, point: str) -> None:
        """Decide at a cut whether the control plane ends here, or another one comes between."""
        if not self._is_fate_on:
            return
        roll = self._chance.random()
        if roll < CRASH_CHANCE:
            raise Crash(point)
        if self.is_racing and not self._depth and roll < CRASH_CHANCE + RACE_CHANCE:
            self.tell(f"another control plane comes between, {point}")
            self._depth += 1
            self._is_fate_on = False
            try:
                self._new_plane().step()
            finally:
                self._depth -= 1
                self._is_fate_on = True

    def before_submit(self, attempt_id: str) -> None:
        """Only what is recorded is ever started."""
        fate, self._is_fate_on = self._is_fate_on, False
        with self.db.read() as tx:
            row = attempts.get(tx, attempt_id)
        self._is_fate_on = fate
        require(row is not None, "intent first", f"{attempt_id} is started without a record")

    def tell(self, line: str) -> None:
        at_s = (self.clock.now_ms() - NOW_MS) / 1_000
        self._tell(f"{at_s:8.1f} s  {line}")

    def _new_plane(self) -> JobReconciler:
        return self._reconciler(self.db, self.cut, self.clock, self.ids)

    def _step(self, *, with_fate: bool) -> None:
        index = self._chance.randrange(len(self.planes))
        self._is_fate_on = with_fate
        try:
            self.planes[index].step()
        except Crash as crash:
            self.tell(f"control plane {index} crashes {crash}")
            self.planes[index] = self._new_plane()
        finally:
            self._is_fate_on = False

    # Users and misfortune

    def _act(self) -> None:
        with self.db.read() as tx:
            known = jobs.list_for(tx, None, limit=1_000)
        roll = self._chance.random()
        if roll < 0.35:
            self._submit(known)
        elif roll < 0.45 and known:
            self._cancel(self._chance.choice(known))

    def _submit(self, known: Sequence[Job]) -> None:
        self._made += 1
        needed = self._chance.sample(known, min(len(known), self._chance.choice([0, 0, 0, 1])))
        cluster = self._chance.choice([None, "own", "slurm"])
        job = job_of(
            self._made,
            array=self._chance.choice([None, None, 3]),
            retries=self._chance.randint(0, 2),
            depends_on=tuple(it.id for it in needed),
            cluster=cluster,
            resources=Resources(1_000, GIB, self._chance.choice([0, 1, 2])),
            nodes=2 if cluster == "slurm" and self._chance.random() < 0.3 else 1,
            created_at_ms=self.clock.now_ms(),
        )
        self.tell(f"user submits {job.id}: {job.spec}")
        self.db.write(lambda tx: jobs.insert(tx, job, ()))

    def _cancel(self, seen: Job) -> None:
        if not seen.status.is_over and seen.cancelled_at_ms is None:
            self.tell(f"user cancels {seen.id}")
            asked = replace(seen, cancelled_at_ms=self.clock.now_ms())
            self.db.write(lambda tx: jobs.update(tx, seen, asked))

    def _strike(self) -> None:
        if self._chance.random() > 0.5:
            return
        driver = self._chance.choice(list(self.drivers.values()))
        fault = self._fault(driver)
        self.tell(f"fault on {driver.name}: {fault}")
        driver.add_fault(fault)

    def _fault(self, driver: FakeDriver) -> Fault:
        call = driver.next_call + self._chance.randint(0, 2)
        start = driver.attempts.starts.total() + 1 + self._chance.randint(0, 1)
        at_ms = driver.elapsed_ms + self._chance.randint(0, 1_000)
        until_ms = at_ms + self._chance.randint(500, 8_000)
        after_ms = self._chance.randint(0, 2_000)
        node_name = self._chance.choice(driver.node_names)
        kinds: list[Callable[[], Fault]] = [
            lambda: LoseReply(call),
            lambda: DropCall(call),
            lambda: RepeatCall(call),
            lambda: DelayCall(call, self._chance.randint(100, 4_000)),
            lambda: FailAttempt(start, after_ms),
            lambda: FailAttempt(start, after_ms),
            lambda: Evict(start, after_ms),
            lambda: Evict(start, after_ms),
            lambda: LoseNode(node_name, at_ms, until_ms, is_fatal=self._chance.random() < 0.5),
            lambda: Silence(at_ms, until_ms),
            lambda: LateReports(at_ms, until_ms, self._chance.randint(200, 2_000)),
        ]
        return self._chance.choice(kinds)()

    # What must hold

    def check(self) -> None:
        """Check what holds at every moment."""
        with self.db.read() as tx:
            known = {job.id: job for job in jobs.list_for(tx, None, limit=1_000)}
            rows = {a.id: a for a in attempts.list_of_jobs(tx, known)}
        really = {a.attempt_id: (name, a) for name, a in self._really()}
        for driver in self.drivers.values():
            twice = [id_ for id_, count in driver.attempts.starts.items() if count > 1]
            require(not twice, "started once", f"{twice} were started more than once")
        strangers = really.keys() - rows.keys()
        require(not strangers, "none is lost", f"{strangers} run without a record")
        self._check_lines(known, rows.values())
        self._check_ends(rows, really)
        self._check_devices(rows, really)

    def _really(self) -> list[tuple[str, FakeAttempt]]:
        return [(name, it) for name, d in self.drivers.items() for it in d.attempts.all()]

    def _check_lines(self, known: Mapping[str, Job], rows: Any) -> None:
        by_index: dict[tuple[str, int], list[Attempt]] = defaultdict(list)
        for row in rows:
            by_index[row.job_id, row.array_index].append(row)
        for (job_id, index), made in by_index.items():
            numbers = sorted(row.number for row in made)
            told = f"{job_id}[{index}] has {numbers}"
            require(numbers == list(range(1, len(made) + 1)), "numbered without gaps", told)
            live = [row.id for row in made if not row.status.is_over]
            require(len(live) <= 1, "one at a time", f"{job_id}[{index}]: {live} at once")
            asked_ms = known[job_id].cancelled_at_ms
            late = [r.id for r in made if asked_ms is not None and r.created_at_ms > asked_ms]
            require(not late, "cancelled is final", f"{late} were made after the cancellation")
        for job in known.values():
            begun = [r.created_at_ms for r in rows if r.job_id == job.id]
            for needed in job.spec.depends_on if begun else ():
                is_done = known[needed].status is JobStatus.SUCCEEDED
                require(is_done, "in order", f"{job.id} began before {needed} had succeeded")

    def _check_ends(
        self, rows: Mapping[str, Attempt], really: Mapping[str, tuple[str, FakeAttempt]]
    ) -> None:
        """An attempt is recorded as over only when it is: silence is no end."""
        now_ms = self.clock.now_ms()
        lost = {f.node_name for d in self.drivers.values() for f in d.begun(LoseNode)}
        for row in rows.values():
            if not row.status.is_over or row.id in self._ended:
                continue
            self._ended.add(row.id)
            known = really.get(row.id)
            if known is None or known[1].state_at(now_ms).is_over:
                continue
            was_late = known[1].starts_at_ms >= row.changed_at_ms
            if not was_late and not set(known[1].node_names) & lost:
                told = f"{row.id} is {row.status} and still runs: {row.reason}"
                require(False, "unknown is not gone", told)

    def _check_devices(
        self, rows: Mapping[str, Attempt], really: Mapping[str, tuple[str, FakeAttempt]]
    ) -> None:
        """On the machine where Tramontane places, nothing shares a device."""
        now_ms = self.clock.now_ms()
        held: Counter[tuple[str, int]] = Counter()
        for process in self.drivers["own"].processes():
            if process.state_at(now_ms) is not RunState.EXITED:
                held.update((process.node_name, i) for i in process.launch.device_indexes)
        for name, it in really.values():
            is_owned = not rows[it.attempt_id].status.is_over
            if name == "own" and is_owned and not it.state_at(now_ms).is_over:
                held.update((it.node_names[0], i) for i in it.launch.device_indexes)
        shared = [place for place, count in held.items() if count > 1]
        require(not shared, "devices are not shared", f"{shared} are held twice")

    # The end

    def _settle(self) -> None:
        self.tell("the faults are over")
        for driver in self.drivers.values():
            driver.heal()
        for _ in range(SETTLE_TICKS_MAX):
            self._step(with_fate=False)
            self.replicas.step()
            self.check()
            self.clock.advance(2_000)
            with self.db.read() as tx:
                is_over = not jobs.list_live(tx) and not attempts.list_unaccounted(tx)
            if is_over:
                break
        with self.db.read() as tx:
            known = jobs.list_for(tx, None, limit=1_000)
            made = attempts.list_of_jobs(tx, [job.id for job in known])
        live = [(job.id, str(job.status), job.reason) for job in known if not job.status.is_over]
        require(not live, "each job ends", f"{live}")
        for job in known:
            self._check_outcome(job, [row for row in made if row.job_id == job.id])
        self._check_accounts(made)
        self._rest()

    def _check_outcome(self, job: Job, made: Sequence[Attempt]) -> None:
        ends = {i: [r.status for r in made if r.array_index == i] for i in job.indexes}
        done = [AttemptStatus.SUCCEEDED in statuses for statuses in ends.values()]
        told = f"{job.id} is {job.status} ({job.reason}) after {ends}"
        require(all(done) == (job.status is JobStatus.SUCCEEDED), "as its attempts", told)
        if job.cancelled_at_ms is not None and not all(done):
            require(job.status is JobStatus.CANCELLED, "as its attempts", told)
            return
        if job.status is JobStatus.FAILED and made:
            used_up = [
                sum(status in FAILURES for status in statuses) > job.spec.retries
                for statuses in ends.values()
            ]
            require(any(used_up), "as its attempts", told)
        for statuses in ends.values():
            last = statuses[-1:]
            is_followed = not set(last) & INTERRUPTIONS
            require(is_followed, "evicted ones are followed", told)

    def _check_accounts(self, made: Sequence[Attempt]) -> None:
        for row in made:
            for driver in self.drivers.values():
                record = driver.attempts.account([row.id]).get(row.id)
                if record is not None:
                    began_ms = record.started_at_ms
                    exact = (
                        0 if began_ms is None else record.devices * (record.ended_at_ms - began_ms)
                    )
                    told = f"{row.id} is counted {row.device_seconds} s, was {exact} ms"
                    is_exact = abs(row.device_seconds * 1_000 - exact) <= 500
                    require(is_exact, "counted exactly", told)

    def _rest(self) -> None:
        for _ in range(3):
            self.clock.advance(61_000)
            self._step(with_fate=False)
            self.replicas.step()
        writes = self.db.writes
        self.clock.advance(61_000)
        self._step(with_fate=False)
        require(self.db.writes == writes, "rests", "a pass over a world at rest writes")
        strays = [
            it.attempt_id
            for _, it in self._really()
            if not it.state_at(self.clock.now_ms()).is_over
        ]
        require(not strays, "no strays", f"{strays} live on")


def run_seed(seed: int, folder: Path, **options: Any) -> None:
    """Run one world in a copy of ``folder``'s template; AssertionError when a check fails."""
    place = folder / f"jobs-{seed}"
    place.mkdir()
    shutil.copy(folder / "template.sqlite", place / "tramontane.sqlite")
    world = JobWorld(seed, place, **options)
    try:
        world.run()
    except ViolationError as violation:
        msg = f"seed {seed}: {violation}"
        raise AssertionError(msg) from None
    finally:
        world.db.close()
        shutil.rmtree(place)
