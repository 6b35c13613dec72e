"""The long poll of gateways: answers at once when there is news, and starves nobody."""

import asyncio
import json
import time
from dataclasses import asdict
from typing import Any

import pytest

from tests.support.cloud import GATEWAY_TOKEN, Cloud, check_error
from tramontane.api import revision_watch
from tramontane.domain.routing import Route, RouteKey, RouteReplica, RouteTable
from tramontane.domain.tenancy import Role
from tramontane.store import routes
from tramontane.store.db import StoreUnavailableError

GATEWAYS = 64
PATH = "/internal/v1/route-table"


def publish(cloud: Cloud, model: str = "chat") -> RouteTable:
    replica = RouteReplica("rep_a", "127.0.0.1:9000", "secret")
    route = Route("prj_a", model, "dep_a", model, "llamacpp", 512, 1, (replica,), 3)
    keys = {"hash": RouteKey("key_a", "prj_a", "org_a", Role.MEMBER)}
    return cloud.db.write(
        lambda tx: routes.publish(tx, RouteTable(0, "aa", keys, (route,), "dep_a"))
    )


def get(cloud: Cloud, query: str = "") -> Any:
    return cloud.send("GET", f"{PATH}{query}", key=GATEWAY_TOKEN)


def test_none_yet(cloud: Cloud) -> None:
    assert cloud.run(get(cloud)).status_code == 304
    assert cloud.run(get(cloud, "?revision=0")).status_code == 304


def test_what_this_process_publishes_is_told_at_once(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the next look when the reconciler says that there is news."""
    monkeypatch.setattr(cloud.app.state.revision_watch, "_poll_interval_s", 60.0)
    watch: revision_watch.RevisionWatch = cloud.app.state.revision_watch

    async def wait() -> Any:
        waiting = asyncio.create_task(get(cloud, "?revision=0&wait_s=20"))
        while not watch.is_awaited:
            await asyncio.sleep(0.01)
        table = await asyncio.to_thread(publish, cloud)
        await asyncio.to_thread(watch.tell, table.revision)
        return await waiting

    began = time.monotonic()
    assert cloud.run(wait()).status_code == 200
    assert time.monotonic() - began < 15


def test_the_whole_table(cloud: Cloud) -> None:
    table = publish(cloud)
    for query in ("", "?revision=0", "?revision=99", "?revision=99&wait_s=20"):
        reply = cloud.run(get(cloud, query))
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "application/json"
        assert reply.json() == json.loads(json.dumps(asdict(table)))
    reply = cloud.run(get(cloud, f"?revision={table.revision}"))
    assert (reply.status_code, reply.content) == (304, b"")
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize(
    "query", ["revision=-1", "revision=x", "wait_s=61", "wait_s=-1", "wait_s=nan", "x=1"]
)
def test_bad_queries(shared_cloud: Cloud, query: str) -> None:
    reply = shared_cloud.run(get(shared_cloud, f"?{query}"))
    check_error(reply, 400, "invalid_value", query.split("=", maxsplit=1)[0])


def test_a_wait_ends_by_itself(cloud: Cloud) -> None:
    table = publish(cloud)
    started_s = time.monotonic()
    reply = cloud.run(get(cloud, f"?revision={table.revision}&wait_s=0.3"))
    assert reply.status_code == 304
    assert time.monotonic() - started_s >= 0.3


@pytest.mark.slow
def test_many_gateways_wait_at_once_and_others_are_served(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the pool has threads: each hears of the news, and they read as much as one."""
    table = publish(cloud)
    reads: list[float] = []
    real = routes.current_revision

    def counted(tx: Any) -> int:
        reads.append(time.monotonic())
        return real(tx)

    async def scenario() -> None:
        waiting = [
            asyncio.create_task(get(cloud, f"?revision={table.revision}&wait_s=30"))
            for _ in range(GATEWAYS)
        ]
        watch = cloud.app.state.revision_watch
        async with asyncio.timeout(20):
            while watch._waiting < GATEWAYS:
                await asyncio.sleep(0.01)
        monkeypatch.setattr(routes, "current_revision", counted)
        others = await asyncio.gather(*(cloud.send("GET", "/cloud/v1/whoami") for _ in range(40)))
        assert all(reply.status_code == 200 for reply in others)
        await asyncio.sleep(3 * revision_watch.POLL_INTERVAL_S)
        assert 1 <= len(reads) <= 2 + (time.monotonic() - reads[0]) / revision_watch.POLL_INTERVAL_S
        assert not any(task.done() for task in waiting)
        newer = await asyncio.to_thread(publish, cloud, "other")
        async with asyncio.timeout(20):
            replies = await asyncio.gather(*waiting)
        assert {reply.json()["revision"] for reply in replies} == {newer.revision}

    cloud.run(scenario())


@pytest.mark.slow
def test_an_outage_while_waiting_is_waited_out(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = publish(cloud)
    real = routes.current_revision
    calls: list[int] = []

    def flaky(tx: Any) -> int:
        calls.append(1)
        if len(calls) == 2:
            raise StoreUnavailableError("gone")
        return real(tx)

    monkeypatch.setattr(routes, "current_revision", flaky)

    async def scenario() -> Any:
        waiting = asyncio.create_task(get(cloud, f"?revision={table.revision}&wait_s=30"))
        async with asyncio.timeout(20):
            while len(calls) < 3:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(publish, cloud, "other")
        return await waiting

    assert cloud.run(scenario()).status_code == 200


def test_the_end_of_the_process_does_not_wait(cloud: Cloud) -> None:
    table = publish(cloud)

    async def scenario() -> list[Any]:
        waiting = [
            asyncio.create_task(get(cloud, f"?revision={table.revision}&wait_s=60"))
            for _ in range(3)
        ]
        watch = cloud.app.state.revision_watch
        async with asyncio.timeout(20):
            while watch._waiting < 3:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(watch.close)
        async with asyncio.timeout(5):
            later = await get(cloud, f"?revision={table.revision}&wait_s=60")
            return [*await asyncio.gather(*waiting), later]

    assert [reply.status_code for reply in cloud.run(scenario())] == [304] * 4


def test_a_gateway_that_hangs_up_leaves_nothing_behind(cloud: Cloud) -> None:
    table = publish(cloud)

    async def scenario() -> None:
        task = asyncio.create_task(get(cloud, f"?revision={table.revision}&wait_s=60"))
        watch = cloud.app.state.revision_watch
        async with asyncio.timeout(20):
            while not watch._waiting:
                await asyncio.sleep(0.01)
            task.cancel()
            while watch._waiting or watch._poller:
                await asyncio.sleep(0.01)

    cloud.run(scenario())
