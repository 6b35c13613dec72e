"""A gateway that ends while a response runs in the background: killed, or asked to."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gateway.responses.test_serving import create, text_of
from tests.support.gateway import (
    MEMBER_KEY,
    QUICK,
    GatewayProcess,
    GatewayThread,
    key_hash,
    make_route,
    make_table,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
def own_control(engine: StubEngine) -> Iterator[StubControl]:
    table = make_table(make_route([engine.address]))
    mine = key_hash(MEMBER_KEY)
    table.keys[mine] = replace(table.keys[mine], may_store=True)
    with StubControl(table) as stub:
        yield stub


@pytest.mark.slow
def test_a_killed_gateways_response_is_metered_as_cut(
    engine: StubEngine, own_control: StubControl, tmp_path: Path
) -> None:
    """That it is then told as failed is the control plane's part: tests/reconcilers."""
    engine.script = {"chunks": 1_000, "pause_s": 0.05}
    with GatewayProcess(tmp_path / "home", own_control.url) as gateway:
        gateway.wait_ready()
        reply = create(gateway, background=True)
        until(lambda: engine.requests and engine.requests[-1].chunks > 3, "the engine's work")
        gateway.end(signal.SIGKILL)
        gateway.start()
        event = own_control.wait_event(reply.headers["x-request-id"])
    assert event["outcome"] == "cut"
    assert event["completion_tokens"] > 0
    holders = {report["holder"] for report in own_control.stored.reports}
    assert len(holders) <= 1, "the next life of the gateway does not speak for the one before"


def test_a_stopping_gateway_finishes_what_it_has_in_the_background(
    engine: StubEngine, own_control: StubControl, tmp_path: Path
) -> None:
    engine.script = {"delay_s": 0.5}
    with GatewayThread(tmp_path / "gw", own_control.url) as gateway:
        gateway.wait_ready()
        response_id = create(gateway, background=True).json()["id"]
    response = own_control.stored.kept[response_id]["response"]
    assert response["status"] == "completed"
    assert text_of(response) == "tok 0tok 1tok 2"


def test_a_gateway_that_may_wait_no_longer_says_so(
    engine: StubEngine, own_control: StubControl, tmp_path: Path
) -> None:
    engine.script = {"chunks": 1_000, "pause_s": 0.05}
    limits = replace(QUICK, drain_s=0.3)
    with GatewayThread(tmp_path / "gw", own_control.url, limits) as gateway:
        gateway.wait_ready()
        reply = create(gateway, background=True)
    response = own_control.stored.kept[reply.json()["id"]]["response"]
    assert response["status"] == "failed"
    assert "gateway stopped" in response["error"]["message"]
    event = own_control.wait_event(reply.headers["x-request-id"])
    assert event["outcome"] == "cut"


def test_without_a_control_plane_nobody_waits_long(
    engine: StubEngine, own_control: StubControl, tmp_path: Path
) -> None:
    with GatewayThread(tmp_path / "gw", own_control.url) as gateway:
        gateway.wait_ready()
        own_control.stop()
        for _ in range(3):
            response = create(gateway).json()
            assert (response["status"], response["store"]) == ("completed", False)
        assert create(gateway, store=True).status_code == 503
        assert len(engine.requests) == 3
        own_control.start()
        until(lambda: create(gateway).json()["store"], "storage again")
