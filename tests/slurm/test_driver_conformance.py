"""The suites of all drivers, on a real Slurm cluster."""

from collections.abc import Iterator

import pytest

from tests.drivers.attempt_conformance import AttemptConformance
from tests.drivers.conformance import DriverConformance
from tests.support.attempts import How
from tests.support.slurm_driver import SlurmWorld, open_world
from tramontane.dev.slurm.cluster import SlurmCluster
from tramontane.domain.jobs.attempt import JobLaunch

pytestmark = pytest.mark.slow

MARK = "echo started $TRAMONTANE_ATTEMPT >> $TRAMONTANE_CHECKPOINT_DIR/starts"
DOES: dict[How, str] = {
    "runs": "echo one; sleep 60",
    "succeeds": "echo done",
    "fails": "echo out of luck; exit 3",
    "outlasts": "echo slow; sleep 60",
}


class AttemptWorld:
    """An installation on the cluster as the suite of attempts wants it."""

    def __init__(self, world: SlurmWorld) -> None:
        self._world = world
        self.driver = world.driver
        self.new_driver = world.new_driver
        self.pass_time = world.pass_time

    def job(self, how: How) -> JobLaunch:
        limit_s = 1 if how == "outlasts" else 60
        return self._world.job(f"{MARK}; {DOES[how]}", time_limit_s=limit_s)

    def attempt_starts(self, attempt_id: str) -> int:
        marks = self._world.folder.glob("jobs/*/checkpoint/starts")
        return sum(path.read_text().count(attempt_id) for path in marks)


@pytest.fixture
def cluster(slurm: SlurmCluster) -> Iterator[SlurmWorld]:
    with open_world(slurm) as world:
        yield world


class TestSlurmDriver(DriverConformance):
    """Slurm."""


class TestAttemptsOfTheSlurmDriver(AttemptConformance):
    @pytest.fixture
    def cluster(self, slurm: SlurmCluster) -> Iterator[AttemptWorld]:
        with open_world(slurm) as world:
            yield AttemptWorld(world)
