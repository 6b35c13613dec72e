"""Ten thousand requests, a third left midway, gateway and control plane killed: one event each.

Two witnesses. The clients: a request id that one was told must be in the usage table exactly once
(who left, or was cut off, before the reply's head does not know its id, so those requests only
bound what else may be there). And an engine of our own that writes down what reaches it.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.load import Ending, Load, mixed_asks
from tests.support.outside_engine import outside_engine
from tests.support.system import DEMO, System, running
from tests.support.waiting import until

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


def _kill_at(endings: int, role: str, load: Load, system: System) -> None:
    until(lambda: len(load.endings) >= endings, f"{endings} endings", LOAD_MAX_S)
    until(lambda: system.processes(role), f"a {role} to kill")[0].kill()


def storm(system: System, model: str) -> list[Ending]:
    """Make all the requests, killing as `KILLS` says."""
    killed_before = system.said().count("was ended by SIGKILL")
    asks = mixed_asks(model, REQUESTS, seed=11, leave_share=LEAVE_SHARE)
    load = Load(system.port, system.api_key, asks, CONNECTIONS)
    thread = threading.Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        for threshold, role in KILLS:
            _kill_at(threshold, role, load, system)
    finally:
        thread.join(LOAD_MAX_S)
        load.stop()
        thread.join(60)
    assert not thread.is_alive()
    assert system.said().count("was ended by SIGKILL") == killed_before + len(KILLS)
    return load.endings


def settled_events(system: System, model: str, known: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the model's usage events by request id, once ``known`` are there and none follow."""
    deadline = time.monotonic() + SETTLE_MAX_S
    count = -1
    while True:
        events = [event for event in system.usage_events() if event["model"] == model]
        found: dict[str, list[dict[str, Any]]] = {}
        for event in events:
            found.setdefault(event["request_id"], []).append(event)
        if (known <= found.keys() and len(events) == count) or time.monotonic() > deadline:
            return found
        count = len(events)
        time.sleep(1)


def check_endings(endings: list[Ending]) -> set[str]:
    """Check what the clients saw; returns the request ids that they know."""
    counts = Counter(ending.how for ending in endings)
    print(f"{len(endings)} requests: {dict(counts)}")
    assert len(endings) == REQUESTS
    refused = [f"{e.status} {e.detail}" for e in endings if e.how == "refused"]
    assert not refused, "\n".join(refused[:5])
    assert counts["left"] > REQUESTS / 5
    # Only a killed gateway cuts a request off: at most what was in flight on it.
    assert counts["cut"] <= 3 * CONNECTIONS
    return {ending.request_id for ending in endings if ending.request_id}


def check_events(endings: list[Ending], found: dict[str, list[dict[str, Any]]]) -> None:
    """Check that every id has one event, and that it tells what the client saw."""
    twice = {name: group for name, group in found.items() if len(group) > 1}
    assert not twice, f"{len(twice)} requests counted twice: {next(iter(twice.values()))}"
    assert len({group[0]["id"] for group in found.values()}) == len(found)
    for ending in endings:
        if ending.request_id is None:
            continue
        (event,) = found[ending.request_id]
        if ending.how == "answered":
            assert event["outcome"] == "completed", (ending, event)
            assert event["completion_tokens"] > 0
            assert event["token_source"] == "engine"
        assert event["is_stream"] == ending.ask.is_stream
        assert event["model"] == ending.ask.model


def test_each_request_to_the_demo_model_is_counted_once(busy_system: System) -> None:
    endings = storm(busy_system, DEMO)
    known = check_endings(endings)
    found = settled_events(busy_system, DEMO, known)
    assert known <= found.keys(), f"{len(known - found.keys())} lost"
    check_events(endings, found)
    nameless = sum(1 for ending in endings if not ending.request_id)
    assert len(found) - len(known) <= nameless


def test_each_request_that_reached_a_recording_engine_is_counted_once(
    busy_system: System, tmp_path: Path
) -> None:
    """The engine wrote down what reached it: the usage table must hold just that."""
    with outside_engine(busy_system, tmp_path) as engine:
        endings = storm(busy_system, engine.model)
        known = check_endings(endings)
        reached = set(engine.request_ids())
        found = settled_events(busy_system, engine.model, known | reached)
    assert known <= reached
    lost, invented = reached - found.keys(), found.keys() - reached
    assert not lost, f"{len(lost)} requests reached the engine and are not counted"
    assert not invented, f"{len(invented)} are counted and never reached the engine"
    check_events(endings, found)


def test_the_totals_are_the_sum_of_the_events(busy_system: System) -> None:
    """Runs last, on what the others left."""
    events = busy_system.usage_events()
    totals = busy_system.cloud("GET", "/usage", params={"from_ms": 0, "to_ms": 2**42})["data"]
    assert sum(total["requests"] for total in totals) == len(events)
    for field in ("prompt_tokens", "completion_tokens", "cached_tokens"):
        assert sum(total[field] for total in totals) == sum(event[field] for event in events)
