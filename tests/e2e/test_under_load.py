"""Scaling, rolling replacement and a killed engine under steady load: what may fail."""

import time
from collections.abc import Iterator

import pytest

from tests.support.steady_load import CONNECTIONS, SteadyLoad, failures, told
from tests.support.system import DEMO, System
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def load(own_system: System) -> Iterator[SteadyLoad]:
    steady = SteadyLoad(own_system)
    try:
        steady.go_on()
        yield steady
    finally:
        steady.stop()


def scale(system: System, replicas: int) -> None:
    """Scale the demo deployment and wait until that is what runs."""
    system.cloud("POST", f"/deployments/{DEMO}/scale", json={"replicas": replicas})
    system.wait_for_deployment(
        DEMO,
        lambda d: d["status"] == "ready" and d["ready_replicas"] == replicas,
        f"ready with {replicas} replicas",
    )
    until(lambda: len(system.processes("engine")) == replicas, f"{replicas} engines")


def test_scaling_up_and_down_fails_no_request(own_system: System, load: SteadyLoad) -> None:
    scale(own_system, 3)
    load.go_on()
    # Asked while the load goes on: a gateway learns of a replica a moment after it is ready.
    until(
        lambda: len({event["replica_id"] for event in own_system.usage_events()}) >= 3,
        "usage of three replicas",
        limit_s=90,
    )
    scale(own_system, 1)
    load.go_on()
    endings = load.stop()
    assert not failures(endings), told(failures(endings))
    assert len(endings) > 100


def test_a_rolling_replacement_fails_no_request(own_system: System, load: SteadyLoad) -> None:
    scale(own_system, 2)
    before = {engine.replica_id for engine in own_system.processes("engine")}
    seen = own_system.deployment()
    lowest = seen["ready_replicas"]
    own_system.cloud("PATCH", f"/deployments/{DEMO}", json={"parallel": seen["parallel"] + 1})
    deadline = time.monotonic() + 60
    while True:
        now = own_system.deployment()
        lowest = min(lowest, now["ready_replicas"])
        engines = {engine.replica_id for engine in own_system.processes("engine")}
        if len(engines) == 2 and not engines & before and now["status"] == "ready":
            break
        assert time.monotonic() < deadline, (now, engines, before)
        time.sleep(0.02)
    load.go_on()
    endings = load.stop()
    assert not failures(endings), told(failures(endings))
    assert lowest == 2  # it never served with fewer than wanted
    assert own_system.deployment()["parallel"] == seen["parallel"] + 1


def test_a_killed_engine_fails_only_what_it_was_answering(
    own_system: System, load: SteadyLoad
) -> None:
    scale(own_system, 2)
    load.go_on()
    victim = own_system.processes("engine")[0]
    killed_s = time.time()
    victim.kill()
    gone_s = time.time()
    load.go_on()
    own_system.wait_for_deployment(DEMO, lambda d: d["status"] == "ready", "ready again")
    load.go_on()
    endings = load.stop()
    failed = failures(endings)
    assert len(failed) <= CONNECTIONS
    for ending in failed:
        assert ending.began_s <= gone_s, f"killed {killed_s:.3f}-{gone_s:.3f}: {told([ending])}"
        assert ending.ended_s >= killed_s, f"killed {killed_s:.3f}-{gone_s:.3f}: {told([ending])}"
    known = {ending.request_id for ending in failed if ending.request_id}
    until(
        lambda: known <= {event["request_id"] for event in own_system.usage_events()},
        "the usage of what was cut",
    )
    for event in own_system.usage_events():
        if event["request_id"] in known:
            assert event["replica_id"] == victim.replica_id
            assert event["outcome"] in ("cut", "failed")
