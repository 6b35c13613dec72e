"""A deployment that scales by itself, to zero and back, and one that tries a canary."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.load import Ask, Load, endless_asks
from tests.support.system import DEMO, System
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

AT_ONCE = 100
FIRST_ANSWER_S_MAX = 15.0  # 0.3 to 0.5 s on a quiet machine: a busy one is not what is tested


@pytest.fixture
def at_zero(own_system: System) -> Iterator[System]:
    """Have the demo scale by itself, and wait until nothing of it runs."""
    body = {"replicas_max": 2, "requests_in_flight": 200, "idle_ms": 1_000}
    own_system.cloud("PUT", f"/deployments/{DEMO}/autoscale", json=body)
    wait_for_zero(own_system)
    yield own_system
    own_system.cloud("DELETE", f"/deployments/{DEMO}/autoscale")


def wait_for_zero(system: System) -> dict[str, Any]:
    asleep = system.wait_for_deployment(DEMO, lambda d: d["status"] == "stopped", "at zero")
    assert not system.processes("engine")
    return asleep


def test_the_first_request_wakes_it(at_zero: System) -> None:
    for _ in range(2):
        asleep = wait_for_zero(at_zero)
        assert (asleep["wanted_replicas"], asleep["ready_replicas"]) == (0, 0)
        assert asleep["wanted_reason"] == "no request for 1 s; the next one starts a replica"
        began_s = time.monotonic()
        reply = at_zero.chat()
        passed_s = time.monotonic() - began_s
        assert reply.status_code == 200, reply.text
        print(f"answered after {passed_s:.2f} s")
        assert passed_s < FIRST_ANSWER_S_MAX
    told = [event["message"] for event in story(at_zero) if event["kind"].endswith("autoscaled")]
    assert told[-1] == "replicas 0 -> 1: 1 request in flight, 200 per replica"


def test_a_hundred_at_once_are_all_answered(at_zero: System) -> None:
    asks = [Ask(DEMO, is_stream=n % 2 == 0, max_tokens=2) for n in range(AT_ONCE)]
    load = Load(at_zero.port, at_zero.api_key, asks, AT_ONCE)
    asyncio.run(load.run())
    assert load.counts() == {"answered": AT_ONCE}, [e.detail for e in load.endings]


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
    before = len(system.usage_events())
    load = Load(system.port, system.api_key, endless_asks(DEMO, 7), 4)
    thread = threading.Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        until(lambda: len(load.endings) >= 80, "its part of the load")
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
    events = until(lambda: all_of(system, before, len(load.endings)), "the usage of all")
    shares = Counter(event["deployment_id"] for event in events)
    assert set(shares) == {stable["id"], canary["deployment_id"]}
    assert {event["model"] for event in events} == {DEMO}, "under the name that was asked for"
    assert shares[canary["deployment_id"]] >= 80 // 4 // 2


def all_of(system: System, before: int, count: int) -> list[dict[str, Any]] | None:
    """Return the usage events after the first ``before``, once there are ``count``."""
    found = system.usage_events()[before:]
    return found if len(found) >= count else None


def named(system: System, name: str) -> list[dict[str, Any]]:
    return [found for found in system.pages("/deployments") if found["name"] == name]


def story(system: System) -> list[dict[str, Any]]:
    return system.cloud("GET", f"/deployments/{DEMO}/events", params={"limit": 100})["data"]
