"""Limits and budgets through a whole gateway: what clients are told, and what is counted."""

import itertools
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.support.gateway import (
    MEMBER_KEY,
    QUICK,
    GatewayProcess,
    GatewayThread,
    key_hash,
    make_keys,
    make_route,
    make_table,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until
from tramontane.domain.routing import RouteTable
from tramontane.domain.spending.limits import Limit, LimitMeter, LimitScope
from tramontane.domain.spending.pricing import Prices, cost_nano
from tramontane.gateway.alone.route_file import RouteFile
from tramontane.processes.gateway import Alone

PRICES = Prices(prompt_micro=1_000_000, completion_micro=3_000_000)
REVISIONS = itertools.count(1)
REQUEST_FAMILY = {
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-req-minute",
    "x-ratelimit-remaining-req-minute",
}
TOKEN_FAMILY = {name.replace("requests", "tokens") for name in REQUEST_FAMILY if "req-" not in name}
TOKEN_FAMILY |= {"x-ratelimit-limit-tokens-minute", "x-ratelimit-remaining-tokens-minute"}


def limited(engine: StubEngine, *limits: Limit, prices: Prices = PRICES, **key: Any) -> RouteTable:
    """Return a table in which `limits` bind the member's key."""
    keys = make_keys()
    hashed = key_hash(MEMBER_KEY)
    ids = tuple(limit.id for limit in limits)
    keys[hashed] = replace(keys[hashed], limit_ids=ids, **key)
    route = make_route([engine.address], prices=prices)
    by_id = {limit.id: limit for limit in limits}
    return make_table(route, keys=keys, limits=by_id, revision=next(REVISIONS))


def limit(number: int = 1, **bounds: Any) -> Limit:
    return Limit(f"lim_{number}", LimitScope.PROJECT, "prj_" + "a" * 20, **bounds)


@contextmanager
def running(folder: Path, table: RouteTable) -> Iterator[tuple[StubControl, GatewayThread]]:
    with StubControl(table) as control, GatewayThread(folder, control.url) as gateway:
        gateway.wait_ready()
        yield control, gateway


def rates(reply: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if "ratelimit" in name}


def test_every_reply_tells_what_is_left_in_both_forms(engine: StubEngine, tmp_path: Path):
    table = limited(engine, limit(requests_per_minute_max=5, tokens_per_minute_max=100_000))
    with running(tmp_path, table) as (_, gateway):
        reply = gateway.chat(max_tokens=5)
        told = rates(reply)
        assert set(told) == REQUEST_FAMILY | TOKEN_FAMILY | {"x-ratelimit-tokens-query-cost"}
        assert told["x-ratelimit-limit-requests"] == told["x-ratelimit-limit-req-minute"] == "5"
        assert told["x-ratelimit-remaining-requests"] == "4"
        used = reply.json()["usage"]["total_tokens"]
        assert told["x-ratelimit-tokens-query-cost"] == str(used)
        assert told["x-ratelimit-remaining-tokens"] == str(100_000 - used)
        assert told["x-ratelimit-reset-requests"] in {"1m0s", "59s", "58s"}
        with (
            gateway.client() as client,
            client.stream(
                "POST",
                "/v1/chat/completions",
                json={
                    "model": "demo",
                    "stream": True,
                    "messages": [{"role": "user", "content": "x"}],
                },
            ) as stream,
        ):
            head = rates(stream)
            stream.read()
        assert set(head) == REQUEST_FAMILY | TOKEN_FAMILY
        assert head["x-ratelimit-remaining-requests"] == "3"
        failed = gateway.chat(stub={"status": 400})
        assert failed.status_code == 400
        assert rates(failed)["x-ratelimit-remaining-requests"] == "2"
        unsound = gateway.chat(temperature="hot")
        assert unsound.status_code == 400
        assert rates(unsound)["x-ratelimit-remaining-requests"] == "2"
        with gateway.client() as client:
            unknown = client.post("/v1/chat/completions", json={"model": "no", "messages": []})
        assert "x-ratelimit-limit-requests" in rates(unknown)
        assert gateway.chat().status_code == gateway.chat().status_code == 200
        refused = gateway.chat()
        assert refused.status_code == 429
        assert rates(refused)["x-ratelimit-remaining-requests"] == "0"
        assert 50 < int(refused.headers["retry-after"]) <= 60
        assert 50_000 < int(refused.headers["retry-after-ms"]) <= 60_000
        assert refused.json()["type"] == "requests"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        nobody = gateway.chat(key=None)
        assert rates(nobody) == {}


def test_without_limits_no_header_pretends_to_one(gateway: GatewayThread):
    assert rates(gateway.chat()) == {}


def test_what_the_key_may_not_call(engine: StubEngine, tmp_path: Path):
    with running(tmp_path, limited(engine, models=("another",))) as (control, gateway):
        refused = gateway.chat()
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "model_not_allowed"
        with gateway.client() as client:
            assert client.get("/v1/models").json()["data"] == []
            assert client.get("/v1/models/demo").status_code == 404
        for who in ("organization", "project", "key"):
            control.publish(limited(engine, blocked=who))
            until(lambda who=who: who in gateway.chat().text, f"the block of the {who}")
            blocked = gateway.chat()
            assert blocked.status_code == 403
            assert blocked.json()["error"]["code"] == "permission_denied"
        control.publish(limited(engine))
        until(lambda: gateway.chat().status_code == 200, "the end of the block")


def test_tokens_have_a_limit_of_their_own(engine: StubEngine, tmp_path: Path):
    table = limited(engine, limit(tokens_per_minute_max=10))
    with running(tmp_path, table) as (_, gateway):
        assert gateway.chat(max_tokens=1, stub={"chunks": 8}).status_code == 200
        refused = gateway.chat(max_tokens=1)
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "tokens"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.slow
def test_a_budget_is_spent_by_what_requests_cost_and_whole_in_the_next_month(
    engine: StubEngine, tmp_path: Path
):
    bound = 1_000_000  # nano-euros
    most = cost_nano(PRICES, 85, 5)  # a prompt counts as long as its body, until it is counted
    with running(tmp_path, limited(engine, limit(budget_micro=bound // 1_000))) as (control, gw):

        def spend() -> int:
            """Ask until it is refused; return for how many there was money."""
            count = 0
            while (reply := gw.chat(max_tokens=5)).status_code == 200:
                count += 1
                assert count < 100
            assert reply.status_code == 429
            assert reply.json()["error"]["code"] == "insufficient_quota"
            assert reply.headers["x-should-retry"] == "false"
            assert int(reply.headers["retry-after"]) <= 86_400
            return count

        events = control.wait_events(spend())
        cost = 0
        for event in events:
            used = (event["prompt_tokens"], event["completion_tokens"], event["cached_tokens"])
            assert event["cost_nano"] == cost_nano(PRICES, *used) > 0
            assert event["holder"].startswith("gw-")
            cost += event["cost_nano"]
        assert bound - most < cost <= bound
        assert list(control.books.spent_nano.values()) == [cost]
        until(lambda: held(control) == 0, "what was held to be given back")
        control.clock_ahead_ms = 32 * 24 * 3_600_000
        until(lambda: gw.chat(max_tokens=5).status_code == 200, "the next month")
        each = cost // len(events)
        assert bound - most < (1 + spend()) * each <= bound, "the whole of it again"


def held(control: StubControl, meter: LimitMeter = LimitMeter.BUDGET) -> int:
    with control._changed:
        return sum(
            amount
            for key, holds in control.books.holds.items()
            if key[1] is meter
            for _, amount in holds.values()
        )


@pytest.mark.slow
def test_requests_in_flight_are_counted_until_they_end(engine: StubEngine, tmp_path: Path):
    table = limited(engine, limit(requests_in_flight_max=2))
    with running(tmp_path, table) as (control, gateway):
        with ThreadPoolExecutor(2) as pool:
            slow = [pool.submit(gateway.chat, stub={"delay_s": 0.7}) for _ in range(2)]
            until(lambda: len(engine.ids) == 2, "two requests")
            refused = gateway.chat()
            assert refused.status_code == 429
            assert int(refused.headers["retry-after-ms"]) <= 1_000
            assert [item.result().status_code for item in slow] == [200, 200]
        assert gateway.chat().status_code == 200
        until(lambda: held(control, LimitMeter.IN_FLIGHT) == 0, "the permits to be given back")


@pytest.mark.slow
def test_a_client_that_leaves_gives_back_what_it_held(engine: StubEngine, tmp_path: Path):
    table = limited(engine, limit(requests_in_flight_max=1, tokens_per_minute_max=10**6))
    with running(tmp_path, table) as (_, gateway):
        for _ in range(5):
            with gateway.client() as client, pytest.raises(httpx.ReadTimeout):
                client.post(
                    "/v1/chat/completions",
                    json={
                        "model": "demo",
                        "messages": [{"role": "user", "content": "x"}],
                        "stub": {"delay_s": 5},
                    },
                    timeout=0.2,
                )
            until(lambda: gateway.chat().status_code == 200, "the permit")


NONSENSE: tuple[int | bytes, ...] = (
    500,
    404,
    409,
    422,
    b"",
    b"[]",
    b"\xff\xfe",
    b'{"gateways":1,"grants":[]}',
    b'{"gateways":1,"grants":[{"limit_id":"lim_x","meter":"requests","granted":99}]}',
    b'{"gateways":1,"grants":[{"limit_id":"lim_ID","meter":"requests","granted":-5}]}',
    b'{"gateways":1,"grants":[{"limit_id":"lim_ID","meter":"requests","granted":1e99}]}',
    b'{"gateways":"many","grants":' + b"[" * 10_000,
)


@pytest.mark.slow
def test_an_answer_that_makes_no_sense_grants_nothing(engine: StubEngine, tmp_path: Path):
    with running(tmp_path, limited(engine)) as (control, gateway):
        for number, fault in enumerate(NONSENSE):
            control.publish(limited(engine, limit(number, requests_per_minute_max=number + 3)))
            wait_for_limit(gateway, number + 3)
            is_text = isinstance(fault, bytes)
            control.slice_faults.append(
                fault.replace(b"ID", str(number).encode()) if is_text else fault
            )
            statuses = [gateway.chat().status_code for _ in range(number + 4)]
            assert statuses == [200] * (number + 3) + [429], fault
            assert control.slice_faults == []


def wait_for_limit(gateway: GatewayThread, bound: int) -> None:
    """Ask what is refused before it counts: its headers tell the limit."""

    def look() -> bool:
        told = rates(gateway.chat(temperature="hot"))
        return told.get("x-ratelimit-limit-requests") == str(bound)

    until(look, f"the limit of {bound}")


@pytest.mark.slow
def test_a_lost_answer_counts_once(engine: StubEngine, tmp_path: Path):
    table = limited(engine, limit(requests_per_minute_max=3))
    with running(tmp_path, table) as (control, gateway):
        control.lose_grants = 2
        assert [gateway.chat().status_code for _ in range(5)] == [200] * 3 + [429] * 2
        assert control.reports[0] == control.reports[1] == control.reports[2]


@pytest.mark.slow
def test_a_limit_that_changes_counts_at_once(engine: StubEngine, tmp_path: Path):
    with running(tmp_path, limited(engine, limit(requests_per_minute_max=1))) as (control, gateway):
        assert [gateway.chat().status_code for _ in range(2)] == [200, 429]
        control.publish(limited(engine, limit(requests_per_minute_max=4)))
        until(lambda: gateway.chat().status_code == 200, "the higher limit")
        assert [gateway.chat().status_code for _ in range(3)] == [200, 200, 429]
        control.publish(limited(engine))
        until(lambda: gateway.chat().status_code == 200, "the end of the limit")


@pytest.mark.slow
def test_while_the_control_plane_is_away(engine: StubEngine, tmp_path: Path):
    """Rates keep to the gateway's share, budgets to what is held, and both come back."""
    with StubControl(limited(engine, limit(requests_per_minute_max=10))) as control:
        limits = replace(QUICK, slices_away_s=0.3)
        with GatewayThread(tmp_path, control.url, limits) as gateway:
            gateway.wait_ready()
            control.stop()
            statuses = [gateway.chat().status_code for _ in range(12)]
            assert statuses == [200] * 10 + [429] * 2  # it is the only gateway that it knows of
            control.start()
            until(lambda: gateway.chat().status_code == 200, "a grant")
            control.publish(limited(engine, limit(2, budget_micro=10**6)))
            until(lambda: rates(gateway.chat()) == {}, "the other limit")
            until(lambda: held(control) == 0, "all to be given back")
            control.stop()
            refused = gateway.chat()
            assert refused.status_code == 503, refused.text
            assert "budget" in refused.json()["message"]
            assert refused.headers["retry-after"] == "1"
            control.start()
            until(lambda: gateway.chat().status_code == 200, "a grant")


@pytest.mark.slow
def test_a_killed_gateways_budget_is_free_once_its_books_are_in(engine: StubEngine, tmp_path: Path):
    table = limited(engine, limit(budget_micro=100_000, requests_in_flight_max=50))
    with (
        StubControl(table) as control,
        GatewayProcess(tmp_path, control.url) as gateway,
    ):
        gateway.wait_ready()
        streams = [
            threading.Thread(target=open_and_wait, args=(gateway, engine), daemon=True)
            for _ in range(5)
        ]
        for stream in streams:
            stream.start()
        until(lambda: len(engine.ids) == 5, "five streams")
        until(lambda: all(seen.chunks >= 3 for seen in engine.requests), "some tokens")
        assert held(control) > 0
        dead = {holder for holds in control.books.holds.values() for holder in holds}
        gateway.end(signal.SIGKILL)
        gateway.start()
        gateway.wait_ready()
        events = control.wait_events(5)
        until(lambda: held(control) == 0, "what the dead gateway held")
        assert {event["holder"] for event in events} == dead
        assert all(event["cost_nano"] == event["completion_tokens"] * 3_000 for event in events)
        assert sum(event["cost_nano"] for event in events) > 0
        assert sum(control.books.spent_nano.values()) == sum(e["cost_nano"] for e in events)
        until(lambda: not list((tmp_path / "gateway").glob("settled-*")), "the note to go")
        for stream in streams:
            stream.join(10)


def open_and_wait(gateway: GatewayProcess, engine: StubEngine) -> None:
    body = {"stream": True, "max_tokens": 50, "stub": {"chunks": 500, "pause_s": 0.02}}
    try:
        with (
            gateway.client() as client,
            client.stream(
                "POST",
                "/v1/chat/completions",
                json={"model": "demo", "messages": [{"role": "user", "content": "x"}], **body},
            ) as reply,
        ):
            for _ in reply.iter_bytes():
                pass
    except httpx.TransportError:
        pass


@pytest.mark.slow
def test_a_gateway_that_stops_gives_everything_back(engine: StubEngine, tmp_path: Path):
    table = limited(
        engine,
        limit(requests_per_minute_max=10**6, budget_micro=10**9, requests_in_flight_max=1_000),
    )
    with StubControl(table) as control:
        with GatewayThread(tmp_path, control.url) as gateway:
            gateway.wait_ready()
            with ThreadPoolExecutor(8) as pool:
                replies = list(pool.map(lambda _: gateway.chat(), range(200)))
            assert {reply.status_code for reply in replies} == {200}
        assert held(control) == held(control, LimitMeter.IN_FLIGHT) == 0
        assert next(iter(control.books.windows.values())).granted == 200
        assert not list(tmp_path.glob("settled-*"))


@pytest.mark.slow
def test_a_gateway_that_runs_alone_keeps_the_same_limits(engine: StubEngine, tmp_path: Path):
    path = tmp_path / "table.json"
    path.write_bytes(
        orjson.dumps(
            limited(
                engine,
                limit(1, requests_per_minute_max=6, requests_in_flight_max=3),
                limit(2, tokens_per_minute_max=10**6, budget_micro=10**6),
                limit(3, requests_per_minute_max=0, model="another"),
            )
        )
    )
    file = RouteFile(path)
    links = Alone(file, file.read(), keeps_usage=True)
    with GatewayThread(tmp_path / "state", links) as gateway:
        gateway.wait_ready()
        with ThreadPoolExecutor(5) as pool:
            asked = list(pool.map(lambda _: gateway.chat(stub={"delay_s": 0.5}), range(5)))
        assert sorted(reply.status_code for reply in asked) == [200] * 3 + [429] * 2
        told = [reply.json()["message"] for reply in asked if reply.status_code == 429]
        assert all("3 requests in flight" in message for message in told)
        assert [gateway.chat().status_code for _ in range(4)] == [200] * 3 + [429]
        table = limited(engine, limit(4, budget_micro=0))
        path.write_bytes(orjson.dumps(table))
        until(lambda: gateway.chat().json().get("code") == "insufficient_quota", "the new file")
