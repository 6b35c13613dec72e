"""A key that carries a bound has so many requests in flight and not one more."""

import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

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
from tests.support.waiting import until
from tramontane.domain.spending.limits import Limit, LimitScope


@pytest.mark.slow
def test_one_more_than_allowed_is_told_to_come_back(engine: StubEngine, tmp_path: Path) -> None:
    keys = make_keys()
    hashed = key_hash(MEMBER_KEY)
    keys[hashed] = key = replace(keys[hashed], limit_ids=("lim_1",))
    limit = Limit("lim_1", LimitScope.API_KEY, key.id, requests_in_flight_max=1)
    table = make_table(make_route([engine.address]), keys=keys, limits={limit.id: limit})
    with StubControl(table) as control, GatewayThread(tmp_path / "gw", control.url) as gateway:
        gateway.wait_ready()
        waiting: list[httpx.Response] = []
        first = threading.Thread(target=lambda: waiting.append(gateway.chat(stub={"delay_s": 0.7})))
        first.start()
        until(lambda: engine.ids, "the first request")
        refused = gateway.chat()
        first.join()
        assert refused.status_code == 429, refused.text
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.json()["error"]["type"] == "requests"
        assert refused.headers["retry-after"] == "1"
        assert "1 requests in flight" in refused.json()["message"]
        assert waiting[0].status_code == 200
        # What was refused is not counted, and leaving gives the place back.
        assert [gateway.chat().status_code for _ in range(5)] == [200] * 5
        assert len(control.wait_events(6)) == 6
