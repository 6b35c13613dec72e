"""A gateway of this room: its first key may store responses, its second may not."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.gateway import (
    MEMBER_KEY,
    OTHER_KEY,
    PROJECT,
    GatewayThread,
    key_hash,
    make_route,
    make_table,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine


@pytest.fixture(scope="module")
def one_engine() -> Iterator[StubEngine]:
    with StubEngine() as stub:
        yield stub


@pytest.fixture(scope="module")
def one_control(one_engine: StubEngine) -> Iterator[StubControl]:
    table = make_table(
        make_route([one_engine.address], upstream_model="demo-engine"),
        make_route([one_engine.address], model="on-vllm", engine="vllm"),
        make_route([one_engine.address], model="on-other", engine="other"),
    )
    mine = key_hash(MEMBER_KEY)
    table.keys[mine] = replace(table.keys[mine], may_store=True)
    other = key_hash(OTHER_KEY)
    table.keys[other] = replace(table.keys[other], project_id=PROJECT)
    with StubControl(table) as stub:
        yield stub


@pytest.fixture(scope="module")
def one_gateway(
    one_control: StubControl, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayThread]:
    with GatewayThread(tmp_path_factory.mktemp("gateway"), one_control.url) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def engine(one_engine: StubEngine) -> StubEngine:
    one_engine.requests.clear()
    one_engine.script = {}
    return one_engine


@pytest.fixture
def control(one_control: StubControl) -> StubControl:
    one_control.stored.clear()
    one_control.calls.clear()
    return one_control


@pytest.fixture
def gateway(one_gateway: GatewayThread, engine: StubEngine, control: StubControl) -> GatewayThread:
    return one_gateway
