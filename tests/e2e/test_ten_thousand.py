"""Ten thousand requests, a third left midway, gateway and control plane killed: one event each.

What the clients know decides: a request id that a client was told must be in the usage table
exactly once. A client that left, or was cut off, before the reply's head does not know its id, so
those requests bound what else may be in the table.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.load import Ending, Load, mixed_asks
from tests.support.system import DEMO, System, running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REQUESTS = 10_000
CONNECTIONS = 64
LEAVE_SHARE = 1 / 3
# After so many endings, this process is killed.
KILLS = (
    (1_500, "gateway"),
    (3_000, "control"),
    (4_500, "gateway"),
    (6_000, "control"),
    (7_500, "gateway"),
)
LOAD_MAX_S = 150.0
SETTLE_MAX_S = 30.0  # until the last event is shipped and counted


@pytest.fixture(scope="module")
def busy_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("busy") / "home") as system:
        yield system


def storm(system: System, model: str) -> list[Ending]:
    """Make all the requests, killing as `KILLS` says."""
    asks = mixed_asks(model, REQUESTS, seed=11, leave_share=LEAVE_SHARE)
    load = Load(system.port, system.api_key, asks, CONNECTIONS)
    thread = threading.Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        for threshold, role in KILLS:
            reached = threshold
            wait_for(lambda: len(load.endings) >= reached, f"{reached} endings", LOAD_MAX_S)  # noqa: B023
            victims = wait_for(lambda: system.processes(role), f"a {role} to kill")  # noqa: B023
            victims[0].kill()
    finally:
        thread.join(LOAD_MAX_S)
        load.stop()
        thread.join(60)
    assert not thread.is_alive()
    return load.endings


def settled_events(system: System, known: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the usage events by request id, once all of ``known`` are there and none follow."""
    deadline = time.monotonic() + SETTLE_MAX_S
    count = -1
    while True:
        events = system.usage_events()
        found: dict[str, list[dict[str, Any]]] = {}
        for event in events:
            found.setdefault(event["request_id"], []).append(event)
        if (known <= found.keys() and len(events) == count) or time.monotonic() > deadline:
            return found
        count = len(events)
        time.sleep(1)


def test_each_request_is_counted_once(busy_system: System) -> None:
    began = time.monotonic()
    endings = storm(busy_system, DEMO)
    counts = Counter(ending.how for ending in endings)
    print(f"{REQUESTS} requests in {time.monotonic() - began:.0f} s: {dict(counts)}")
    assert len(endings) == REQUESTS
    assert counts["refused"] == 0, [e for e in endings if e.how == "refused"][:5]
    assert counts["left"] > REQUESTS / 5
    assert counts["cut"] < 3 * CONNECTIONS + 1, [e for e in endings if e.how == "cut"][:5]
    known = {ending.request_id for ending in endings if ending.request_id}
    nameless = sum(1 for ending in endings if not ending.request_id)
    found = settled_events(busy_system, known)
    events = [event for group in found.values() for event in group]
    print(f"{len(events)} events, {len(known)} ids known, {nameless} requests without an id")
    assert known <= found.keys(), f"{len(known - found.keys())} lost"
    assert all(len(group) == 1 for group in found.values()), "counted twice"
    assert len({event["id"] for event in events}) == len(events)
    assert len(events) - len(known) <= nameless
    for ending in endings:
        if ending.request_id is None:
            continue
        (event,) = found[ending.request_id]
        if ending.how == "answered":
            assert event["outcome"] == "completed", (ending, event)
            assert event["completion_tokens"] > 0
            assert event["token_source"] == "engine"
        assert event["is_stream"] == ending.ask.is_stream
        assert event["model"] == DEMO
    totals = busy_system.cloud("GET", "/usage", params={"from_ms": 0, "to_ms": 2**42})["data"]
    assert sum(total["requests"] for total in totals) == len(events)
    for field in ("prompt_tokens", "completion_tokens"):
        assert sum(t[field] for t in totals) == sum(event[field] for event in events)
