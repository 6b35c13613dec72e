"""Requests wait while no replica has room: from zero, behind full ones, until a deadline."""

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import (
    DEPLOYMENT,
    MEMBER_KEY,
    OTHER_KEY,
    OTHER_PROJECT,
    QUICK,
    GatewayProcess,
    GatewayThread,
    chat_body,
    make_route,
    make_table,
    post,
)
from tests.support.load import Ask, Load
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until
from tramontane.domain.routing import Route
from tramontane.gateway.limits import Limits

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
PATIENT = replace(QUICK, queue_s_min=20.0)


def asleep(**changes: object) -> Route:
    """A route of a deployment that is at zero replicas and wakes when asked."""
    return make_route([], wakes=True, start_ms=1_500, **changes)


@contextmanager
def standing(
    folder: Path, *routes: Route, limits: Limits = PATIENT
) -> Iterator[tuple[GatewayThread, StubControl]]:
    with (
        StubControl(make_table(*routes)) as control,
        GatewayThread(folder, control.url, limits) as gateway,
    ):
        with gateway.client() as client:
            until(lambda: client.get("/v1/models").status_code == 200, "the route table")
        yield gateway, control


def queued(control: StubControl, deployment_id: str = DEPLOYMENT) -> int:
    """Return how many requests the gateway last said wait for a deployment."""
    told = [
        item["requests_queued"]
        for report in list(control.demand)
        for item in report["deployments"]
        if item["deployment_id"] == deployment_id
    ]
    return told[-1] if told else 0


def test_a_hundred_requests_at_zero_all_succeed(tmp_path: Path):
    with StubEngine() as engine, standing(tmp_path, asleep()) as (gateway, control):
        asks = [Ask("demo", is_stream=number % 2 == 0) for number in range(100)]
        load = Load(gateway.port, MEMBER_KEY, asks, 100)
        thread = threading.Thread(target=lambda: asyncio.run(load.run()))
        thread.start()
        until(lambda: queued(control) == 100, "a hundred requests in the queue")
        assert engine.requests == []
        control.publish(make_table(make_route([engine.address], wakes=True), revision=2))
        thread.join(30)
        assert load.counts() == {"answered": 100}
        assert len(set(engine.ids)) == 100
        events = control.wait_events(100)
        assert {event["outcome"] for event in events} == {"completed"}
        assert min(event["duration_ms"] for event in events) > 0
        until(lambda: queued(control) == 0, "the end of the queue")


def test_the_first_to_wait_is_told_at_once_and_the_rest_each_second(tmp_path: Path):
    slow = replace(PATIENT, sweep_s=600.0)  # no reading by itself
    with ExitStack() as stack:
        engine = stack.enter_context(StubEngine())
        gateway, control = stack.enter_context(standing(tmp_path, asleep(), limits=slow))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        asked = pool.submit(gateway.chat)
        until(lambda: queued(control) == 1, "the report of the first", 5)
        report = control.demand[0]
        assert report["gateway"] == "gw"
        assert report["holder"].startswith("gw-")
        assert report["deployments"] == [
            {
                "deployment_id": DEPLOYMENT,
                "requests_in_flight": 0,
                "requests_queued": 1,
                "tokens_per_s": 0,
                "idle_ms": 0,
            }
        ]
        control.publish(make_table(make_route([engine.address], wakes=True), revision=2))
        assert asked.result().status_code == 200


def test_traffic_is_told_until_it_is_over_and_then_once_more(tmp_path: Path):
    with StubEngine() as engine, standing(tmp_path, make_route([engine.address])) as (gw, control):
        assert control.demand == []
        gw.stream(stub={"chunks": 30, "pause_s": 0.02})

        def figures() -> list[dict]:
            return [item for report in list(control.demand) for item in report["deployments"]]

        until(lambda: figures() and figures()[-1]["requests_in_flight"] == 0, "the end")
        time.sleep(0.3)
        told = figures()
        count = len(control.demand)
        assert any(item["requests_in_flight"] == 1 for item in told)
        assert any(item["tokens_per_s"] > 0 for item in told)
        assert told[-1]["requests_in_flight"] == told[-1]["tokens_per_s"] == 0
        time.sleep(0.3)
        assert len(control.demand) == count


def test_demand_survives_a_control_plane_that_is_away(tmp_path: Path):
    with StubEngine() as engine, standing(tmp_path, asleep()) as (gateway, control):
        control.stop()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(gateway.chat)
            time.sleep(0.3)
            control.demand.clear()
            control.start()
            until(lambda: queued(control) == 1, "the report")
            control.publish(make_table(make_route([engine.address], wakes=True), revision=2))
            assert asked.result().status_code == 200


def test_who_waits_too_long_is_told_when_to_come_back(tmp_path: Path):
    limits = replace(QUICK, queue_s_min=0.3)
    route = replace(asleep(), start_ms=700)
    with standing(tmp_path, route, limits=limits) as (gateway, control):
        began = time.monotonic()
        reply = gateway.chat()
        waited = time.monotonic() - began
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "no_ready_replica"
        assert "is starting" in reply.json()["message"]
        assert reply.headers["retry-after"] == "1"
        assert waited >= 1.0  # a start as measured, and half as long again
        assert control.events == {}
        until(lambda: queued(control) == 0, "its place to be free")


def test_a_start_that_takes_too_long_is_asked_for_and_not_waited_for(tmp_path: Path):
    route = replace(asleep(), start_ms=900_000)
    with standing(tmp_path, route) as (gateway, control):
        reply = gateway.chat()
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "900"
        told = until(lambda: [item for r in control.demand for item in r["deployments"]])
        assert told[0]["requests_queued"] == 1


def test_a_client_that_leaves_frees_its_place(tmp_path: Path):
    with StubEngine() as engine, standing(tmp_path, asleep()) as (gateway, control):
        body = json.dumps(chat_body()).encode()
        socks = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(3)]
        for sock in socks:
            sock.sendall(post(CHAT, body))
        until(lambda: queued(control) == 3, "three in the queue")
        for sock in socks[:2]:
            sock.close()
        until(lambda: queued(control) == 1, "two places to be free")
        control.publish(make_table(make_route([engine.address], wakes=True), revision=2))
        assert b"200 OK" in socks[2].recv(1_000)
        socks[2].close()
        assert len(engine.requests) == 1


@pytest.mark.slow
def test_a_gateway_that_leaves_refuses_who_waits(tmp_path: Path):
    with StubControl(make_table(asleep())) as control, GatewayProcess(tmp_path, control.url) as gw:
        until(lambda: _has_table(gw), "the route table")
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(gw.chat) for _ in range(4)]
            until(lambda: queued(control) == 4, "four in the queue")
            assert gw.end(signal.SIGTERM) == 0
            for item in asked:
                reply = item.result()
                assert reply.status_code == 503
                assert "stopping" in reply.json()["message"]
                assert reply.headers["retry-after"] == "1"


def _has_table(gateway: GatewayProcess) -> bool:
    try:
        with gateway.client() as client:
            return client.get("/v1/models").status_code == 200
    except httpx.TransportError:
        return False


def test_full_replicas_are_waited_for(tmp_path: Path):
    limits = replace(PATIENT, replica_inflight_max=2)
    with (
        StubEngine() as engine,
        standing(tmp_path, make_route([engine.address]), limits=limits) as (gateway, control),
    ):
        with ThreadPoolExecutor(7) as pool:
            asked = [pool.submit(gateway.chat, stub={"delay_s": 0.2}) for _ in range(7)]
            assert [item.result().status_code for item in asked] == [200] * 7
        open_at = [(seen.at_s, 1) for seen in engine.requests]
        open_at += [(seen.ended_s, -1) for seen in engine.requests]
        most = now = 0
        for _, step in sorted(open_at):
            now += step
            most = max(most, now)
        assert most == 2
        assert len(control.wait_events(7)) == 7


def test_a_deleted_model_ends_the_wait(tmp_path: Path):
    with standing(tmp_path, asleep()) as (gateway, control), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(gateway.chat)
        until(lambda: queued(control) == 1, "the request")
        control.publish(make_table(revision=2))
        assert asked.result().status_code == 404


def test_a_deployment_that_wakes_no_more_ends_the_wait(tmp_path: Path):
    with standing(tmp_path, asleep()) as (gateway, control), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(gateway.chat)
        until(lambda: queued(control) == 1, "the request")
        control.publish(make_table(make_route([]), revision=2))
        reply = asked.result()
        assert reply.status_code == 503
        assert "none is starting" in reply.json()["message"]


def test_when_all_places_are_taken_who_has_most_gives_way(tmp_path: Path):
    limits = replace(PATIENT, queue_max=4)
    routes = asleep(), asleep(project_id=OTHER_PROJECT)
    with ExitStack() as stack:
        engine = stack.enter_context(StubEngine())
        gateway, control = stack.enter_context(standing(tmp_path, *routes, limits=limits))
        pool = stack.enter_context(ThreadPoolExecutor(6))
        mine = [pool.submit(gateway.chat) for _ in range(4)]
        until(lambda: queued(control) == 4, "four in the queue")
        assert gateway.chat().status_code == 503  # there is no fifth place
        other = pool.submit(gateway.chat, key=OTHER_KEY)
        until(lambda: sum(item.done() for item in mine) == 1, "the one that gives way")
        ready = [
            make_route([engine.address], wakes=True, project_id=route.project_id)
            for route in routes
        ]
        control.publish(make_table(*ready, revision=2))
        assert other.result().status_code == 200
        statuses = sorted(item.result().status_code for item in mine)
        assert statuses == [200, 200, 200, 503]
