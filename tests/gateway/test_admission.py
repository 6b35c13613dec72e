"""A key that carries a bound has so many requests in flight and not one more."""

import threading
import time
from dataclasses import replace

import httpx

from tests.support.gateway import (
    MEMBER_KEY,
    GatewayThread,
    key_hash,
    make_keys,
    make_route,
    make_table,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine


def bound(control: StubControl, engine: StubEngine, allowed: int | None, revision: int) -> None:
    keys = make_keys()
    hashed = key_hash(MEMBER_KEY)
    keys[hashed] = replace(keys[hashed], requests_in_flight_max=allowed)
    control.publish(make_table(make_route([engine.address]), revision=revision, keys=keys))


def test_one_more_than_allowed_is_told_to_come_back(
    gateway: GatewayThread, engine: StubEngine, control: StubControl
) -> None:
    bound(control, engine, 1, revision=2)
    waiting: list[httpx.Response] = []
    first = threading.Thread(target=lambda: waiting.append(gateway.chat(stub={"delay_s": 1.5})))
    deadline = time.monotonic() + 5
    first.start()
    while not engine.ids and time.monotonic() < deadline:
        time.sleep(0.01)
    refused = gateway.chat()
    first.join()
    assert refused.status_code == 429, refused.text
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.json()["error"]["type"] == "requests"
    assert refused.headers["retry-after"] == "1"
    assert "1 requests in flight" in refused.json()["message"]
    assert waiting[0].status_code == 200
    assert [gateway.chat().status_code for _ in range(5)] == [200] * 5
    assert len(control.wait_events(6)) == 6
