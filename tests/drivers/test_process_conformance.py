"""The process driver does what every driver must do, with real processes."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.attempt_conformance import AttemptConformance
from tests.drivers.conformance import DriverConformance
from tests.support.process_clusters import ProcessCluster, open_cluster
from tests.support.runners import zombies

pytestmark = pytest.mark.slow


class TestProcessDriver(DriverConformance):
    @pytest.fixture
    def cluster(self, tmp_path: Path) -> Iterator[ProcessCluster]:
        before = zombies()  # of other rooms' tests, in the same process
        with open_cluster(tmp_path) as cluster:
            yield cluster
        assert set(zombies()) <= set(before)

    def test_a_view_is_quick(self, cluster: ProcessCluster) -> None:
        for _ in range(4):
            cluster.start()
        times: list[float] = []
        for _ in range(50):
            began = time.perf_counter()
            cluster.driver.view()
            times.append(time.perf_counter() - began)
        assert sorted(times)[25] < 0.02  # 1 ms measured on a quiet machine


class TestAttemptsOfTheProcessDriver(AttemptConformance):
    @pytest.fixture
    def cluster(self, tmp_path: Path) -> Iterator[ProcessCluster]:
        with open_cluster(tmp_path) as cluster:
            yield cluster
