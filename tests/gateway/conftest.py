"""One engine, one control plane and one gateway for each test, all on real sockets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import GatewayThread, make_route, make_table
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine


@pytest.fixture
def engine() -> Iterator[StubEngine]:
    with StubEngine() as stub:
        yield stub


@pytest.fixture
def control(engine: StubEngine) -> Iterator[StubControl]:
    with StubControl(make_table(make_route([engine.address]))) as stub:
        yield stub


@pytest.fixture
def gateway(control: StubControl, tmp_path: Path) -> Iterator[GatewayThread]:
    with GatewayThread(tmp_path / "gateway", control.url) as running:
        running.wait_ready()
        yield running
