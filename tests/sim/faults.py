"""What goes wrong in a simulated world, and when, from one stream of chance."""

import random
from collections.abc import Callable

from tramontane.drivers.fake import FakeDriver
from tramontane.drivers.faults import (
    Crash,
    DelayCall,
    DrainNode,
    DropCall,
    FailStart,
    Fault,
    LateReports,
    LoseNode,
    LoseReply,
    RepeatCall,
    Silence,
    SlowStart,
    Walltime,
)

FAULTS_PER_TICK = 0.42


class Misfortune:
    """Adds faults to the drivers of a world."""

    def __init__(
        self, drivers: list[FakeDriver], chance: random.Random, tell: Callable[[str], None]
    ) -> None:
        self._drivers = drivers
        self._chance = chance
        self._tell = tell

    def strike(self) -> None:
        """Perhaps add one fault somewhere."""
        if self._chance.random() > FAULTS_PER_TICK:
            return
        driver = self._chance.choice(self._drivers)
        if self._chance.random() < 0.15:
            self._kill_one(driver)
            return
        fault = self._fault(driver)
        self._tell(f"fault on {driver.name}: {fault}")
        driver.add_fault(fault)

    def _kill_one(self, driver: FakeDriver) -> None:
        alive = [process.replica_id for process in driver.processes()]
        if alive:
            replica_id = self._chance.choice(alive)
            self._tell(f"fault on {driver.name}: {replica_id} crashes")
            driver.crash(replica_id)

    def _fault(self, driver: FakeDriver) -> Fault:
        call = driver.next_call + self._chance.randint(0, 2)
        start = driver.starts.total() + 1 + self._chance.randint(0, 1)
        at_ms = driver.elapsed_ms + self._chance.randint(0, 1_000)
        until_ms = at_ms + self._chance.randint(500, 8_000)
        node_name = self._chance.choice(driver.node_names)
        kinds: list[Callable[[], Fault]] = [
            lambda: LoseReply(call),
            lambda: DropCall(call),
            lambda: RepeatCall(call),
            lambda: DelayCall(call, self._chance.randint(100, 4_000)),
            lambda: DelayCall(call, self._chance.randint(2_000, 8_000)),  # when its row has ended
            lambda: FailStart(start),
            lambda: SlowStart(start, self._chance.randint(1_000, 10_000)),
            lambda: Crash(start, self._chance.randint(100, 20_000)),
            lambda: LoseNode(node_name, at_ms, until_ms, is_fatal=self._chance.random() < 0.5),
            lambda: Silence(at_ms, until_ms),
            lambda: DrainNode(node_name, at_ms, at_ms + self._chance.randint(2_000, 40_000)),
            lambda: Walltime(start, self._chance.randint(10_000, 120_000)),
            lambda: LateReports(at_ms, until_ms, self._chance.randint(200, 2_000)),
        ]
        return self._chance.choice(kinds)()
