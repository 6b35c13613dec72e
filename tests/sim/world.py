"""One simulated world: real reconcilers, real store, fake clusters, a clock moved by hand.

Everything follows from the seed. Some worlds are calm (users act, nothing fails), in others the
control plane crashes at its cuts, or two of them race without leases: the guards of the writes
alone must keep order.
"""

import contextlib
import os
import random
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.sim.checks import Checks, Seen, ViolationError, require
from tests.sim.cuts import Crash, CutDatabase, CutDriver
from tests.sim.faults import Misfortune
from tests.sim.gateways import SimGateway
from tests.sim.users import SimUsers
from tests.support.planning import GIB, NOW_MS, RECIPES, CountingIds, plant
from tramontane.domain.fleet import Device
from tramontane.domain.resources import Resources
from tramontane.drivers.fake import FakeDriver, FakeNode
from tramontane.reconcilers.autoscale import AutoscaleReconciler
from tramontane.reconcilers.metering import MeteringReconciler
from tramontane.reconcilers.replicas import ReplicaReconciler
from tramontane.reconcilers.routes import RouteReconciler
from tramontane.runtime.clock import ManualClock
from tramontane.services.gateways import Demands
from tramontane.store.db import Database

TICKS = 24
SETTLE_TICKS_MAX = 60  # of 3 s each: three times the longest backoff
CRASH_CHANCE = 0.02  # at each cut; a pass has about ten
RACE_CHANCE = 0.04
TRACE_LINES_KEPT = 60


class SimulationError(AssertionError):
    """A check failed; the message holds the seed and the last lines of the trace."""

    def __init__(self, seed: int, check: str, told: str, trace: list[str]) -> None:
        lines = "\n  ".join(trace)
        super().__init__(f"seed {seed}: {told}\n  {lines}\nreplay: make sim SEED={seed}")
        self.check = check


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of the product that a mutation may replace."""

    reconciler: type[ReplicaReconciler] = ReplicaReconciler
    autoscale: type[AutoscaleReconciler] = AutoscaleReconciler
    driver: type[FakeDriver] = FakeDriver


PRODUCT = Parts()


class ControlPlane:
    """One copy of the control plane: its reconcilers, and whether it is inside a pass."""

    def __init__(self, world: "World") -> None:
        clock, db = world.clock, world.db
        self.replicas = world.parts.reconciler(
            db, world.cut_drivers, RECIPES, clock, world.ids, report=world.tell
        )
        self.autoscale = world.parts.autoscale(db, clock)
        self.routes = RouteReconciler(db, clock, "00")
        self.metering = MeteringReconciler(db, clock)

    def step(self, *, with_metering: bool = True) -> None:
        self.autoscale.step()
        self.replicas.step()
        self.routes.step()
        if with_metering:
            self.metering.step()


class World:
    """The world of one seed."""

    def __init__(
        self, seed: int, folder: Path, *, parts: Parts = PRODUCT, tell: Callable[[str], None]
    ) -> None:
        self.seed = seed
        self.parts = parts
        self.trace: deque[str] = deque(maxlen=TRACE_LINES_KEPT)
        self._tell = tell
        self._chance = random.Random(seed)
        self.is_calm = seed % 5 == 0
        self.is_racing = seed % 3 == 1
        self.clock = ManualClock(NOW_MS)
        self.ids = CountingIds()
        self.db = CutDatabase(f"sqlite:///{folder / 'tramontane.sqlite'}", self._at)
        self._is_fate_on = False
        self._depth = 0
        self._was_raced = False
        plant(self.db)
        nodes = self._nodes()
        self.drivers = {
            name: parts.driver(self.clock, there, name=name, seed=seed)
            for name, there in nodes.items()
        }
        self.checks = Checks(self.db, self.drivers, nodes)
        self.cut_drivers = {
            name: CutDriver(driver, self._at, self._watch) for name, driver in self.drivers.items()
        }
        # Each has a stream of chance of its own, so that a change to one leaves the others alone.
        self.users = SimUsers(self.db, random.Random(seed + 1), self.tell)
        self.misfortune = Misfortune(
            list(self.drivers.values()), random.Random(seed + 2), self.tell
        )
        self._clients = random.Random(seed + 9)
        self._demands = Demands(self.db, self.clock, lambda: None)
        self.gateways = [SimGateway(n, random.Random(seed + 3 + n)) for n in (1, 2)]
        self.planes = [ControlPlane(self) for _ in range(2 if self.is_racing else 1)]

    def run(self) -> int:
        """Live through the faults, then settle; return after how many ticks it had settled."""
        try:
            for tick in range(TICKS):
                self._tick(tick)
            return self._settle()
        except ViolationError as violation:
            told = list(self.trace)
            raise SimulationError(self.seed, violation.check, str(violation), told) from None

    def close(self) -> None:
        self.db.close()

    def tell(self, line: str) -> None:
        """Add a line to the trace."""
        at_s = (self.clock.now_ms() - NOW_MS) / 1_000
        line = f"{at_s:8.1f} s  {line}"
        self.trace.append(line)
        self._tell(line)

    def _tick(self, tick: int) -> None:
        if self._chance.random() < 0.4:
            self.users.act(self.clock.now_ms())
        if not self.is_calm:
            self.misfortune.strike()
        self._was_raced = False
        self._ask()
        is_whole = self._step(with_fate=not self.is_calm)
        self._meter()
        seen = self._check(is_whole=is_whole)
        if self.is_calm:
            self.checks.calm(seen)
        slow = self._chance.random() < 0.1
        self.clock.advance(self._chance.randint(*((5_000, 30_000) if slow else (100, 1_500))))

    def _step(self, *, with_fate: bool) -> bool:
        """Have a control plane make a pass; return whether nothing interrupted it."""
        index = self._chance.randrange(len(self.planes))
        self._is_fate_on = with_fate
        try:
            self.planes[index].step(with_metering=self._chance.random() < 0.3)
        except Crash as crash:
            self.tell(f"control plane {index} crashes {crash}")
            self.planes[index] = ControlPlane(self)
            return False
        finally:
            self._is_fate_on = False
        return True

    def _at(self, point: str) -> None:
        """Decide at a cut whether the control plane ends here, or another one comes between."""
        if not self._is_fate_on:
            return
        roll = self._chance.random()
        if roll < CRASH_CHANCE:
            raise Crash(point)
        is_between = point in {"before read", "before write", "before view", "before ensure"}
        if self.is_racing and is_between and not self._depth and roll < CRASH_CHANCE + RACE_CHANCE:
            self.tell(f"another control plane comes between, {point}")
            self._come_between()

    def _come_between(self) -> None:
        other = ControlPlane(self)
        self._depth += 1
        self._was_raced = True
        self._is_fate_on = False
        try:
            for _ in range(self._chance.randint(1, 3)):
                other.step(with_metering=False)
                self.clock.advance(self._chance.randint(0, 1_500))
        finally:
            self._depth -= 1
            self._is_fate_on = True

    def _watch(self, call: str, replica_id: str) -> None:
        self.tell(f"{call} {replica_id[-6:]}")
        fate, self._is_fate_on = self._is_fate_on, False
        try:
            check = self.checks.before_ensure if call == "ensure" else self.checks.before_stop
            check(replica_id)
        finally:
            self._is_fate_on = fate

    def _ask(self) -> None:
        """Have the gateways report the demand that they see."""
        self._is_fate_on = not self.is_calm
        for gateway in self.gateways:
            gateway.ask(self._clients, self._demands)
        self._is_fate_on = False

    def _meter(self) -> None:
        """Have one of the gateways serve, report and perhaps learn of new routes."""
        gateway = self._chance.choice(self.gateways)
        gateway.serve(self.clock.now_ms())
        self._is_fate_on = not self.is_calm
        gateway.ship(self.db, self.clock.now_ms())
        self._is_fate_on = False
        if self._chance.random() < 0.7:
            gateway.refresh(self.db)

    def _ship_all(self) -> None:
        """Have every gateway report what is left, with luck."""
        for gateway in self.gateways:
            while gateway.spool:
                gateway.ship(self.db, self.clock.now_ms(), is_lucky=True)

    def _check(self, *, is_whole: bool) -> Seen:
        seen = self.checks.look()
        self.checks.always(seen, self.clock.now_ms())
        if is_whole:
            self.checks.after_pass(seen)
        if is_whole and not self._was_raced:
            self.checks.after_clean_pass(seen, self.clock.now_ms())
        return seen

    def _settle(self) -> int:
        """Let the faults end and see that everything becomes as wanted, and stays so."""
        self.tell("the faults are over")
        self._was_raced = False
        for driver in self.drivers.values():
            driver.heal()
        told: str | None = "nothing was looked at"
        for tick in range(SETTLE_TICKS_MAX):
            self.planes[tick % len(self.planes)].step(with_metering=tick == 0)
            seen = self._check(is_whole=True)
            told = self.checks.unsettled(seen, self.clock.now_ms())
            self.clock.advance(3_000)
            if told is None:
                self._rest()
                return tick + 1
        require(False, "settles", f"not settled: {told}")
        return SETTLE_TICKS_MAX

    def _rest(self) -> None:
        """At rest nothing is written, and every request was counted once."""
        events = [event for gateway in self.gateways for event in gateway.events]
        tokens = sum(event.prompt_tokens + event.completion_tokens for event in events)
        self._ship_all()
        for _ in range(2):  # the stable mark of the last start may still be due
            self.clock.advance(60_000)
            self.planes[0].step()
        writes = self.db.writes
        self.tell("the world is at rest")
        self.planes[0].step()
        told = f"{self.db.writes - writes} writes in a pass over a world at rest"
        require(self.db.writes == writes, "rests", told)
        self.checks.usage_is_exact(len(events), tokens)

    def _nodes(self) -> dict[str, list[FakeNode]]:
        return {
            name: [self._node(f"{name}-{n}") for n in range(self._chance.randint(1, 2))]
            for name in ("local", "far")[: self._chance.randint(1, 2)]
        }

    def _node(self, name: str) -> FakeNode:
        count = self._chance.choice([0, 2, 4])
        devices = tuple(Device(index, "gpu", 80 * GIB) for index in range(count))
        return FakeNode(name, Resources(8_000, self._chance.choice([16, 32]) * GIB, count), devices)


@contextlib.contextmanager
def template() -> Iterator[Path]:
    """Yield a folder with a migrated database to copy, in memory where the machine has a place."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tramontane-sim-", dir=place) as name:
        db = Database(f"sqlite:///{name}/template.sqlite")
        db.migrate()
        db.close()
        yield Path(name)


def run_seed(
    seed: int,
    folder: Path,
    *,
    parts: Parts = PRODUCT,
    tell: Callable[[str], None] = lambda _line: None,
) -> World:
    """Run one world in a copy of ``folder``'s template; `SimulationError` when a check fails."""
    place = folder / f"seed-{seed}"
    place.mkdir()
    shutil.copy(folder / "template.sqlite", place / "tramontane.sqlite")
    world = World(seed, place, parts=parts, tell=tell)
    try:
        world.run()
    finally:
        world.close()
        shutil.rmtree(place)
    return world
