"""The suite of all drivers, on a real Slurm cluster."""

from collections.abc import Iterator

import pytest

from tests.drivers.conformance import DriverConformance
from tests.support.slurm_driver import SlurmWorld, open_world
from tramontane.dev.slurm.cluster import SlurmCluster

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(slurm: SlurmCluster) -> Iterator[SlurmWorld]:
    with open_world(slurm) as world:
        yield world


class TestSlurmDriver(DriverConformance):
    """Slurm."""
