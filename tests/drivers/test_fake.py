"""The fake driver does what every driver must do."""

import dataclasses

import pytest

from tests.drivers.attempt_conformance import AttemptConformance
from tests.drivers.conformance import DriverConformance
from tests.support.attempts import How, job_launch
from tests.support.runners import tiny_launch
from tramontane.domain.jobs.attempt import JobLaunch
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.resources import Resources
from tramontane.drivers.fake import FakeDriver, FakeNode
from tramontane.drivers.faults import FailAttempt, FailStart
from tramontane.runtime.clock import ManualClock


class FakeCluster:
    """A fake driver whose clock the suite moves."""

    def __init__(self, *, queues: bool = False) -> None:
        self.clock = ManualClock()
        nodes = [FakeNode("node-a", Resources(4000, 1 << 33))]
        self.driver = FakeDriver(self.clock, nodes, queues=queues)

    def new_driver(self) -> FakeDriver:
        return self.driver  # its world lives in it

    def launch(self, *, fails: bool = False) -> LaunchSpec:
        if fails:
            number = self.driver.starts.total() + 1
            self.driver.add_fault(FailStart(number, reason="exit code 1\nout of luck"))
        return dataclasses.replace(tiny_launch(), drain_timeout_s=10)

    def job(self, how: How) -> JobLaunch:
        if how == "fails":
            number = self.driver.attempts.starts.total() + 1
            self.driver.add_fault(FailAttempt(number, reason="exit code 1\nout of luck"))
        return job_launch("work", time_limit_s=1 if how == "outlasts" else 60)

    def attempt_starts(self, attempt_id: str) -> int:
        return self.driver.attempts.starts[attempt_id]

    def starts(self, replica_id: str) -> int:
        return self.driver.starts[replica_id]

    def pass_time(self) -> None:
        self.clock.advance(100)


class TestFakeDriver(DriverConformance):
    @pytest.fixture
    def cluster(self) -> FakeCluster:
        return FakeCluster()


class TestAttemptsOfTheFakeDriver(AttemptConformance):
    @pytest.fixture
    def cluster(self) -> FakeCluster:
        return FakeCluster()


class TestQueueingFakeDriver(AttemptConformance):
    @pytest.fixture
    def cluster(self) -> FakeCluster:
        return FakeCluster(queues=True)
