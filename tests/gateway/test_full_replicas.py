"""A replica holds so many requests in flight; one more waits, then is told to come back."""

import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import QUICK, GatewayThread, make_route, make_table
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until

pytestmark = pytest.mark.slow


def test_a_full_replica_takes_no_more(engine: StubEngine, tmp_path: Path) -> None:
    table = make_table(make_route([engine.address]))
    limits = replace(QUICK, replica_inflight_max=2, queue_s_min=0.1)
    with (
        StubControl(table) as control,
        GatewayThread(tmp_path / "gw", control.url, limits) as gateway,
    ):
        gateway.wait_ready()
        replies: list[httpx.Response] = []
        slow = {"stub": {"delay_s": 0.9}}
        threads = [
            threading.Thread(target=lambda: replies.append(gateway.chat(**slow))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        until(lambda: len(engine.ids) == 2, "two requests")
        refused = gateway.chat()
        for thread in threads:
            thread.join()
        assert refused.status_code == 503, refused.text
        assert "has 2 requests in flight" in refused.json()["message"]
        assert refused.headers["retry-after"] == "1"
        assert [reply.status_code for reply in replies] == [200, 200]
        assert gateway.chat().status_code == 200
        assert len(control.wait_events(3)) == 3
