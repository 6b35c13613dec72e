"""A deployment that is stopped by hand, and one that tries a canary."""

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest

from tests.support.load import Load, endless_asks
from tests.support.system import DEMO, System
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def wait_for_zero(system: System) -> dict[str, Any]:
    asleep = system.wait_for_deployment(DEMO, lambda d: d["status"] == "stopped", "at zero")
    assert not system.processes("engine")
    return asleep


def test_scaled_to_nothing_by_hand_it_does_not_wake(own_system: System) -> None:
    own_system.cloud("POST", f"/deployments/{DEMO}/scale", json={"replicas": 0})
    wait_for_zero(own_system)
    until(lambda: own_system.chat().status_code == 503, "its route")
    reply = own_system.chat()
    assert reply.json()["error"]["code"] == "no_ready_replica"
    assert "retry-after" not in reply.headers, "nothing is being started"
    assert own_system.deployment()["wanted_replicas"] == 0
    own_system.cloud("POST", f"/deployments/{DEMO}/scale", json={"replicas": 1})
    until(own_system.serves, "its first answer")


def test_a_canary_gets_its_part_and_is_promoted_without_a_failed_request(
    own_system: System,
) -> None:
    system = own_system
    until(system.serves, "its first answer")
    path = f"/deployments/{DEMO}/canary"
    canary = system.cloud("PUT", path, json={"percent": 25, "parallel": 2})["canary"]
    system.wait_for_deployment(canary["name"], lambda d: d["status"] == "ready", "ready")
    until(lambda: system.chat(model=canary["name"]).status_code == 200, "its route")
    stable = system.deployment()
    load = Load(system.port, system.api_key, endless_asks(DEMO, 7), 4)
    thread = threading.Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        until(lambda: len(load.endings) >= 80, "its part of the load")
        before = {ending.request_id for ending in load.endings}
        system.cloud("POST", f"{path}/promote")
        promoted = system.wait_for_deployment(
            DEMO,
            lambda d: d["generation"] == d["observed_generation"] and d["status"] == "ready",
            "what its canary was",
        )
        assert (promoted["parallel"], promoted["canary"]) == (2, None)
        until(lambda: not named(system, canary["name"]), "the end of the canary")
    finally:
        load.stop()
        thread.join()
    assert set(load.counts()) == {"answered"}, [e.detail for e in load.endings if e.detail][:3]
    ids = {ending.request_id for ending in load.endings}
    events = until(lambda: usage_of(system, ids), "the usage of all")
    shares = Counter(event["deployment_id"] for event in events)
    assert set(shares) == {stable["id"], canary["deployment_id"]}
    assert {event["model"] for event in events} == {DEMO}, "under the name that was asked for"
    tried = [e["deployment_id"] for e in events if e["request_id"] in before]
    share = tried.count(canary["deployment_id"]) / len(tried)
    assert 0.15 < share < 0.35, "a quarter, until it was promoted"


def usage_of(system: System, ids: set[str | None]) -> list[dict[str, Any]] | None:
    """Return the usage events of the requests with ``ids``, once all are counted."""
    found = [event for event in system.usage_events() if event["request_id"] in ids]
    return found if len(found) == len(ids) else None


def named(system: System, name: str) -> list[dict[str, Any]]:
    return [found for found in system.pages("/deployments") if found["name"] == name]
