"""The fake driver does what every driver must do."""

import dataclasses

import pytest

from tests.drivers.conformance import DriverConformance
from tests.support.runners import tiny_launch
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.resources import Resources
from tramontane.drivers.fake import FakeDriver, FakeNode
from tramontane.drivers.faults import FailStart
from tramontane.runtime.clock import ManualClock


class FakeCluster:
    """A fake driver whose clock the suite moves."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.driver = FakeDriver(self.clock, [FakeNode("node-a", Resources(4000, 1 << 33))])

    def new_driver(self) -> FakeDriver:
        return self.driver  # its world lives in it

    def launch(self, *, fails: bool = False) -> LaunchSpec:
        if fails:
            number = self.driver.starts.total() + 1
            self.driver.add_fault(FailStart(number, reason="exit code 1\nout of luck"))
        return dataclasses.replace(tiny_launch(), drain_timeout_s=10)

    def starts(self, replica_id: str) -> int:
        return self.driver.starts[replica_id]

    def pass_time(self) -> None:
        self.clock.advance(100)


class TestFakeDriver(DriverConformance):
    @pytest.fixture
    def cluster(self) -> FakeCluster:
        return FakeCluster()
