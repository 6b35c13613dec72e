"""One engine, one control plane and one gateway that tests share, all on real sockets.

Each test finds them with nothing written down and the first route table. A test that breaks or
kills something makes its own, with the classes of tests/support.
"""

from collections.abc import Iterator

import pytest

from tests.support.gateway import GatewayThread, make_route, make_table
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine


@pytest.fixture(scope="session")
def shared_engine() -> Iterator[StubEngine]:
    with StubEngine() as stub:
        yield stub


@pytest.fixture(scope="session")
def shared_control(shared_engine: StubEngine) -> Iterator[StubControl]:
    with StubControl(make_table(make_route([shared_engine.address]))) as stub:
        yield stub


@pytest.fixture(scope="session")
def shared_gateway(
    shared_control: StubControl, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayThread]:
    folder = tmp_path_factory.mktemp("gateway")
    with GatewayThread(folder, shared_control.url) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def engine(shared_engine: StubEngine) -> StubEngine:
    shared_engine.requests.clear()
    return shared_engine


@pytest.fixture
def control(shared_control: StubControl) -> StubControl:
    shared_control.calls.clear()
    return shared_control


@pytest.fixture
def gateway(
    shared_gateway: GatewayThread, engine: StubEngine, control: StubControl
) -> GatewayThread:
    return shared_gateway
