"""Routing through a real gateway: affinity, canaries, ejection, retries within a version."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gateway.test_engines import free_port
from tests.support.gateway import QUICK, GatewayThread, make_route, make_table
from tests.support.stub_control import StubControl
from tests.support.stub_engine import SECRET, StubEngine
from tests.support.waiting import until
from tramontane.domain.routing import Route, RouteReplica
from tramontane.gateway.limits import Limits

pytestmark = pytest.mark.slow

CANARY = "dep_" + "c" * 20


def route_of(engines: Sequence[StubEngine], **changes: object) -> Route:
    return make_route([engine.address for engine in engines], **changes)


def canary_of(addresses: Sequence[str], **changes: object) -> Route:
    replicas = tuple(
        RouteReplica(f"rep_canary{number}", address, SECRET)
        for number, address in enumerate(addresses)
    )
    return make_route([], replicas=replicas, deployment_id=CANARY, **changes)


@contextmanager
def standing(
    folder: Path, route: Route, limits: Limits = QUICK
) -> Iterator[tuple[GatewayThread, StubControl]]:
    with (
        StubControl(make_table(route)) as control,
        GatewayThread(folder, control.url, limits) as gateway,
    ):
        with gateway.client() as client:
            until(lambda: client.get("/v1/models").status_code == 200, "the route table")
        yield gateway, control


def turns_of(topic: str, count: int) -> list[list[dict[str, str]]]:
    """Return the messages of each turn of one conversation."""
    messages = [{"role": "system", "content": "Be brief. " * 60}]
    turns = []
    for number in range(count):
        messages = [*messages, {"role": "user", "content": f"{topic}, part {number}"}]
        turns.append(messages)
        messages = [*messages, {"role": "assistant", "content": f"answer {number}"}]
    return turns


def test_the_turns_of_a_conversation_meet_on_one_replica(tmp_path: Path):
    with ExitStack() as stack:
        engines = [stack.enter_context(StubEngine()) for _ in range(3)]
        gateway, _ = stack.enter_context(standing(tmp_path, route_of(engines)))
        homes = Counter()
        for number in range(24):
            for engine in engines:
                engine.requests.clear()
            for messages in turns_of(f"topic {number}", 3):
                assert gateway.chat(messages=messages).status_code == 200
            found = [at for at, engine in enumerate(engines) for _ in engine.requests]
            assert len(found) == 3
            assert len(set(found)) == 1
            homes[found[0]] += 1
        assert set(homes) == {0, 1, 2}


def test_a_hot_prefix_spreads(tmp_path: Path):
    with ExitStack() as stack:
        engines = [stack.enter_context(StubEngine()) for _ in range(3)]
        gateway, _ = stack.enter_context(standing(tmp_path, route_of(engines)))
        with ThreadPoolExecutor(12) as pool:
            slow = [pool.submit(gateway.chat, stub={"delay_s": 0.5}) for _ in range(12)]
            assert [item.result().status_code for item in slow] == [200] * 12
        counts = sorted(len(engine.requests) for engine in engines)
        assert sum(counts) == 12
        assert counts[-1] <= 6
        assert counts[0] >= 1


def test_a_replica_that_comes_or_goes_moves_few_conversations(tmp_path: Path):
    with ExitStack() as stack:
        engines = [stack.enter_context(StubEngine()) for _ in range(4)]
        gateway, control = stack.enter_context(standing(tmp_path, route_of(engines[:3])))

        def homes() -> dict[str, int]:
            found = {}
            for number in range(30):
                for engine in engines:
                    engine.requests.clear()
                gateway.chat(messages=[{"role": "user", "content": f"topic {number}"}])
                (found[str(number)],) = [at for at, engine in enumerate(engines) if engine.requests]
            return found

        before = homes()
        control.publish(make_table(route_of(engines), revision=2))

        def has_come() -> bool:
            gateway.chat(messages=[{"role": "user", "content": f"at {time.monotonic()}"}])
            return bool(engines[3].requests)

        until(has_come, "the fourth replica's first request")
        after = homes()
        moved = [number for number, home in after.items() if home != before[number]]
        assert {after[number] for number in moved} <= {3}
        assert len(moved) < 18  # a quarter is expected


def test_a_canary_gets_exactly_its_share_also_across_tables(tmp_path: Path):
    with StubEngine() as old, StubEngine() as new:
        canary = canary_of([new.address])
        route = route_of([old], canary=canary, canary_percent=30)
        with standing(tmp_path, route) as (gateway, control):
            with gateway.client() as client:
                before = len(control.calls)
                for number in range(100):
                    if number == 45:
                        control.publish(make_table(route, revision=2))
                    body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
                    assert client.post("/v1/chat/completions", json=body).status_code == 200
                assert len(control.calls) == before
            assert (len(old.requests), len(new.requests)) == (70, 30)
            deployments = Counter(event["deployment_id"] for event in control.wait_events(100))
            assert deployments == {route.deployment_id: 70, CANARY: 30}


def test_a_canary_that_is_dead_costs_no_request(tmp_path: Path):
    with StubEngine() as old:
        canary = canary_of([f"127.0.0.1:{free_port()}"])
        with standing(tmp_path, route_of([old], canary=canary, canary_percent=50)) as (gateway, _):
            assert [gateway.chat().status_code for _ in range(10)] == [200] * 10
            assert len(old.requests) == 10


def test_a_retry_stays_within_the_version(tmp_path: Path):
    with StubEngine() as old, StubEngine() as one, StubEngine() as two:
        canary = canary_of([one.address, two.address])
        route = route_of([old], canary=canary, canary_percent=100)
        with standing(tmp_path, route) as (gateway, _):
            one.loading = True
            assert [gateway.chat().status_code for _ in range(6)] == [200] * 6
            assert len(two.requests) == 6
            assert old.requests == []
            two.loading = True  # now that version has none, and the other one serves
            assert gateway.chat().status_code == 200
            assert len(old.requests) == 1


def test_a_version_that_cannot_take_a_request_does_not_get_it(tmp_path: Path):
    with StubEngine() as old, StubEngine() as new:
        canary = canary_of([new.address], context_length=1)
        route = route_of([old], canary=canary, canary_percent=100, context_length=20_000)
        with standing(tmp_path, route) as (gateway, _):
            long = [{"role": "user", "content": "wind " * 60_000}]
            assert gateway.chat(messages=long).status_code == 200
            assert (len(old.requests), len(new.requests)) == (1, 0)


def test_a_replica_that_keeps_failing_is_ejected_and_returns(tmp_path: Path):
    limits = replace(QUICK, eject_s=0.6)
    with ExitStack() as stack:
        good, bad = stack.enter_context(StubEngine()), stack.enter_context(StubEngine())
        gateway, _ = stack.enter_context(standing(tmp_path, route_of([good, bad]), limits))
        bad.script = {"status": 500}

        def asks(count: int) -> Counter[int]:
            stem = f"{time.monotonic()}"
            return Counter(
                gateway.chat(messages=[{"role": "user", "content": f"{stem} {number}"}]).status_code
                for number in range(count)
            )

        first = asks(40)
        assert first[502] >= limits.eject_failures
        # Once it is out only probes reach it: no more than one in each growing pause.
        bad.requests.clear()
        assert asks(20)[502] <= 2
        assert len(bad.requests) <= 2
        bad.script = {}
        until(lambda: not asks(6)[502] and len(bad.requests) > 8, "its return")
        assert asks(10) == {200: 10}


def test_requests_that_are_at_fault_eject_nobody(tmp_path: Path):
    with ExitStack() as stack:
        one, two = stack.enter_context(StubEngine()), stack.enter_context(StubEngine())
        gateway, _ = stack.enter_context(standing(tmp_path, route_of([one, two])))
        for number in range(20):
            stub = {"status": 500, "message": "Failed to parse tools: no type"}
            messages = [{"role": "user", "content": f"question {number}"}]
            assert gateway.chat(stub=stub, messages=messages).status_code == 400
        before = len(one.requests), len(two.requests)
        for number in range(20):
            messages = [{"role": "user", "content": f"question {number}"}]
            assert gateway.chat(messages=messages).status_code == 200
        assert (len(one.requests), len(two.requests)) == (before[0] * 2, before[1] * 2)
        assert min(before) > 0


def test_the_only_replica_is_never_ejected(tmp_path: Path):
    with StubEngine() as engine, standing(tmp_path, route_of([engine])) as (gateway, _):
        engine.script = {"die": "before"}
        assert {gateway.chat().status_code for _ in range(12)} == {502}
        engine.script = {}
        assert gateway.chat().status_code == 200
