"""What engines do wrong, and which replica a request goes to."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import (
    MEMBER_KEY,
    MODEL,
    QUICK,
    GatewayThread,
    chat_body,
    data_of,
    make_route,
    make_table,
    post,
    replica_id,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


@contextmanager
def standing(
    folder: Path, addresses: list[str], **route: object
) -> Iterator[tuple[GatewayThread, StubControl]]:
    """A gateway of its own in front of engines at ``addresses``."""
    table = make_table(make_route(addresses, **route))
    with StubControl(table) as control, GatewayThread(folder, control.url) as gateway:
        with gateway.client() as client:
            until(lambda: client.get("/v1/models").status_code == 200, "the route table")
        yield gateway, control


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@pytest.mark.parametrize(
    ("stub", "expected", "words"),
    [
        ({"status": 400, "message": "bad temperature"}, (400, "invalid_value"), "bad temperature"),
        (
            {"status": 400, "kind": "exceed_context_size_error", "message": "6019 tokens"},
            (400, "context_length_exceeded"),
            "6019 tokens",
        ),
        (
            {"status": 400, "message": "This model's maximum context length is 512 tokens"},
            (400, "context_length_exceeded"),
            "512",
        ),
        (
            {"status": 500, "message": "input is too large to process"},
            (400, "context_length_exceeded"),
            "large",
        ),
        (
            {"status": 500, "message": "Failed to parse tools: Missing tool type: {}"},
            (400, "invalid_value"),
            "Missing tool type",
        ),
        (
            {"status": 500, "message": "image input is not supported - hint: mmproj"},
            (400, "invalid_value"),
            "image input",
        ),
        ({"status": 500, "message": "boom"}, (502, "upstream_error"), "boom"),
        ({"status": 500, "raw": "<html>"}, (502, "upstream_error"), "500"),
        (
            {"status": 501, "message": "no embeddings here"},
            (400, "unsupported_by_engine"),
            "no embeddings",
        ),
        ({"status": 404, "raw": "{}"}, (400, "unsupported_by_engine"), "404"),
        ({"status": 401, "message": "Invalid secret abc"}, (502, "upstream_error"), "gateway"),
        ({"status": 429, "message": "busy"}, (503, "unavailable"), "busy"),
        ({"status": 503, "message": "Loading model"}, (503, "unavailable"), "Loading model"),
    ],
)
def test_an_engines_error_becomes_ours(
    gateway: GatewayThread, control: StubControl, stub: dict, expected: tuple[int, str], words: str
):
    reply = gateway.chat(stub=stub)
    assert (reply.status_code, reply.json()["error"]["code"]) == expected
    assert words in reply.json()["message"]
    assert "secret abc" not in reply.text
    assert ("retry-after" in reply.headers) == (reply.status_code == 503)
    event = control.wait_event(reply.headers["x-request-id"])
    assert (event["outcome"], event["status"]) == ("failed", reply.status_code)
    assert event["prompt_tokens"] == event["completion_tokens"] == 0


def test_an_engines_error_speaks_the_callers_dialect(gateway: GatewayThread, control: StubControl):
    body = chat_body(stub={"status": 400, "message": "bad"})
    with gateway.client() as client:
        reply = client.post("/mistral/v1/chat/completions", json=body)
    assert reply.status_code == 422
    assert isinstance(reply.json()["detail"], list)
    assert control.wait_event(reply.headers["x-request-id"])["status"] == 422


@pytest.mark.parametrize("raw", ["not json", "[1]", '{"a":', "\x00\x01"])
def test_a_malformed_reply_is_502(gateway: GatewayThread, control: StubControl, raw: str):
    reply = gateway.chat(stub={"raw": raw})
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_error")
    assert control.wait_event(reply.headers["x-request-id"])["outcome"] == "failed"


def test_a_reply_without_usage_is_passed_on(gateway: GatewayThread, control: StubControl):
    reply = gateway.chat(stub={"usage": False})
    assert reply.status_code == 200
    event = control.wait_event(reply.headers["x-request-id"])
    assert (event["outcome"], event["token_source"]) == ("completed", "counted")


@pytest.mark.parametrize("die", ["before", "head"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_dies_before_its_answer_is_502(
    gateway: GatewayThread, engine: StubEngine, control: StubControl, die: str, stream: bool
):
    if die == "head" and not stream:
        return
    reply = gateway.chat(stream=stream, stub={"die": die})
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_error")
    assert len(set(engine.ids)) == 1
    assert control.wait_event(reply.headers["x-request-id"])["outcome"] == "cut"


@pytest.mark.parametrize(
    "stub",
    [{"die": "chunks", "chunks": 4}, {"error_after": 4, "chunks": 9, "message": "out of memory"}],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_an_engine_that_fails_midway_is_told_in_the_stream(
    gateway: GatewayThread, engine: StubEngine, control: StubControl, stub: dict, path: str
):
    body = {**chat_body(stream=True, stub=stub), "prompt": "hello"}
    raw = gateway.raw(post(path, json.dumps(body).encode()))
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert not rest.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in rest
    last = json.loads(data_of(rest.decode().replace("\r\n", "\n"))[-1])
    assert last["choices"][0]["finish_reason"] == "error"
    assert last["error"]["code"] == "upstream_error"
    assert last["model"] == MODEL
    assert last["id"]
    event = control.wait_event(engine.ids[0])
    assert (event["outcome"], event["token_source"], event["completion_tokens"]) == (
        "cut",
        "counted",
        4,
    )
    assert event["status"] == 200


def test_an_engine_that_dies_after_the_finish_has_answered(
    gateway: GatewayThread, engine: StubEngine, control: StubControl
):
    data = gateway.stream(stub={"die": "finish", "chunks": 4})
    assert data[-1] == "[DONE]"
    assert json.loads(data[-2])["choices"][0]["finish_reason"] == "stop"
    event = control.wait_event(engine.ids[0])
    assert (event["outcome"], event["completion_tokens"]) == ("completed", 4)


@pytest.mark.parametrize(
    "stub", [{"framing": "close"}, {"eol": "\r\n"}, {"split": 1}, {"split": 7}]
)
def test_streams_of_other_shapes_arrive_whole(
    gateway: GatewayThread, engine: StubEngine, control: StubControl, stub: dict
):
    stub = {"text": "é🌍 ", "chunks": 5, **stub}
    data = gateway.stream(stub=stub)
    texts = [json.loads(item)["choices"][0]["delta"].get("content") for item in data[1:-2]]
    assert texts == [f"é🌍 {number}" for number in range(5)]
    assert json.loads(data[-2])["usage"]["completion_tokens"] == 5
    assert control.wait_event(engine.ids[0])["completion_tokens"] == 5


@pytest.mark.parametrize(
    ("options", "own_chunk"), [({"include_usage": True}, True), ({"include_usage": False}, False)]
)
def test_stream_options_decide_where_the_usage_goes(
    gateway: GatewayThread, options: dict, own_chunk: bool
):
    chunks = [json.loads(item) for item in gateway.stream(stream_options=options)[:-1]]
    assert [bool(chunk.get("usage")) for chunk in chunks] == [False] * 5 + [True] * own_chunk
    assert [bool(chunk["choices"]) for chunk in chunks] == [True] * 5 + [False] * own_chunk


@pytest.mark.slow
def test_an_engine_that_says_nothing_is_given_up(gateway: GatewayThread, engine: StubEngine):
    began = time.monotonic()
    reply = gateway.chat(stub={"delay_s": 10})
    assert reply.status_code == 502
    assert "1 s" in reply.json()["message"]
    assert time.monotonic() - began < 3
    until(lambda: engine.requests[0].ended == "left", "the engine to notice", 4)


@pytest.mark.slow
def test_a_stream_that_stalls_is_cut(gateway: GatewayThread):
    body = json.dumps(chat_body(stream=True, stub={"pause_s": 1.6})).encode()
    assert b" 502 " in gateway.raw(post(CHAT, body, extra="Connection: close\r\n"))


def test_requests_without_a_prefix_go_to_the_least_loaded_replica(tmp_path: Path):
    """Embeddings keep nothing that a later request could use."""

    def embed(gateway: GatewayThread, **stub: float) -> int:
        body = {"model": MODEL, "input": "hello", "stub": stub}
        with gateway.client() as client:
            return client.post("/v1/embeddings", json=body).status_code

    with (
        StubEngine() as one,
        StubEngine() as two,
        standing(tmp_path, [one.address, two.address]) as (gateway, _),
    ):
        with ThreadPoolExecutor(10) as pool:
            slow = [pool.submit(embed, gateway, delay_s=0.4) for _ in range(10)]
            assert [item.result() for item in slow] == [200] * 10
        assert (len(one.requests), len(two.requests)) == (5, 5)
        for _ in range(10):
            embed(gateway)
        assert len(one.requests) == len(two.requests) == 10


def test_a_dead_replica_costs_no_request(tmp_path: Path):
    with (
        StubEngine() as alive,
        standing(tmp_path, [f"127.0.0.1:{free_port()}", alive.address]) as (gateway, control),
    ):
        assert [gateway.chat().status_code for _ in range(10)] == [200] * 10
        events = control.wait_events(10)
        assert {event["replica_id"] for event in events} == {replica_id(1)}
        assert len(alive.requests) == 10


def test_a_loading_replica_costs_no_request(tmp_path: Path):
    """It answers 503 before it looks at a request, so the request goes on to another."""
    with (
        StubEngine() as one,
        StubEngine() as two,
        standing(tmp_path, [one.address, two.address]) as (gateway, control),
    ):
        one.loading = True
        replies = [gateway.chat() for _ in range(6)]
        assert [reply.status_code for reply in replies] == [200] * 6
        assert Counter(event["outcome"] for event in control.wait_events(6)) == {"completed": 6}
        two.loading = True
        refused = gateway.chat()
        assert refused.status_code == 503
        assert "retry-after" in refused.headers


def test_a_kept_connection_that_the_engine_closed_costs_no_request(
    gateway: GatewayThread, engine: StubEngine
):
    for _ in range(20):
        assert gateway.chat().status_code == 200
        engine.drop_connections()  # the close and the next request cross, or nearly so
        assert gateway.chat().status_code == 200
    assert len(engine.ids) == 40


def test_connections_to_an_engine_are_kept(tmp_path: Path):
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayThread(tmp_path / "gw", control.url) as gateway,
    ):
        gateway.wait_ready()
        gateway.chat()
        before = engine.connections
        for _ in range(10):
            gateway.chat()
            gateway.stream()
        # One more is allowed: a machine that stalls for the seconds that an idle one may live.
        assert engine.connections <= before + 1


def test_an_engine_that_hangs_up_after_streams_is_found_out(tmp_path: Path):
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayThread(tmp_path / "gw", control.url) as gateway,
    ):
        gateway.wait_ready()
        for _ in range(20):  # a stalled machine takes the hang-up for one of age
            gateway.stream()
            engine.drop_connections()
            assert gateway.chat().status_code == 200
            before = engine.connections
            gateway.stream()
            gateway.chat()
            if engine.connections == before + 1:
                return  # it is not kept after a stream any more
        pytest.fail("connections are kept although the engine hangs up")


@pytest.mark.slow
def test_a_replica_killed_under_load_costs_only_what_it_was_serving(tmp_path: Path):
    with ExitStack() as stack:
        one, two = stack.enter_context(StubEngine()), stack.enter_context(StubEngine())
        gateway, control = stack.enter_context(standing(tmp_path, [one.address, two.address]))
        pool = stack.enter_context(ThreadPoolExecutor(8))
        stop = threading.Event()

        def work() -> list[int]:
            found = []
            with gateway.client() as client:
                while not stop.is_set():
                    found.append(
                        client.post(CHAT, json=chat_body(stub={"delay_s": 0.02})).status_code
                    )
            return found

        working = [pool.submit(work) for _ in range(8)]
        time.sleep(0.4)
        one.stop()
        time.sleep(0.6)
        stop.set()
        found = Counter(status for item in working for status in item.result())
        assert set(found) <= {200, 502}
        assert found[502] <= 5  # of eight: their prompt is the same, and 1.25 of the mean the most
        assert found[200] > 50
        served = set(one.ids) | set(two.ids)
        events = control.wait_events(len(served))
        assert {event["request_id"] for event in events} == served


@pytest.mark.slow
def test_a_new_table_moves_requests_at_once_and_lets_old_ones_finish(tmp_path: Path):
    with (
        StubEngine() as one,
        StubEngine() as two,
        standing(tmp_path, [one.address]) as (
            gateway,
            control,
        ),
        ThreadPoolExecutor(4) as pool,
    ):
        slow = [pool.submit(gateway.stream, stub={"pause_s": 0.1, "chunks": 6}) for _ in range(4)]
        until(lambda: len(one.requests) == 4, "four streams")
        route = replace(
            make_route([two.address]), replicas=make_route([two.address, two.address]).replicas[1:]
        )
        control.publish(make_table(route, revision=2))

        def has_moved() -> bool:
            assert gateway.chat().status_code == 200
            return bool(two.requests)

        until(has_moved, "the new table")
        assert all(item.result()[-1] == "[DONE]" for item in slow)
        count = len(one.requests)
        assert [gateway.chat().status_code for _ in range(5)] == [200] * 5
        assert len(one.requests) == count


@pytest.mark.parametrize(
    ("addresses", "retry_after_s", "expected", "words"),
    [
        ([], None, None, "none is starting"),
        ([], 4, "4", "is starting"),
        (["127.0.0.1:1"], None, "10", "answers now"),
    ],
)
def test_a_model_without_a_ready_replica_is_503_with_an_honest_wait(
    tmp_path: Path,
    addresses: list[str],
    retry_after_s: int | None,
    expected: str | None,
    words: str,
):
    with standing(tmp_path, addresses, retry_after_s=retry_after_s) as (gateway, control):
        reply = gateway.chat()
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "no_ready_replica"
        assert words in reply.json()["message"]
        assert reply.headers.get("retry-after") == expected
        assert reply.headers.get("retry-after-ms") == (expected and expected + "000")
        time.sleep(0.1)
        assert control.events == {}


def test_many_streams_at_once(gateway: GatewayThread, engine: StubEngine):
    with ThreadPoolExecutor(24) as pool:
        streams = [
            pool.submit(gateway.stream, stub={"chunks": 20, "pause_s": 0.01}) for _ in range(24)
        ]
        for item in streams:
            data = item.result()
            assert len(data) == 23
            assert json.loads(data[-2])["usage"]["completion_tokens"] == 20
    assert len(set(engine.ids)) == 24


def test_what_the_engine_is_sent(gateway: GatewayThread, engine: StubEngine):
    with gateway.client() as client:
        client.post(CHAT, json=chat_body(), headers={"cookie": "a=b", "x-request-id": "mine"})
    seen = engine.requests[0]
    assert seen.headers["host"] == engine.address
    assert seen.headers["authorization"] == "Bearer engine-secret"
    assert seen.headers["x-request-id"].startswith("req_")
    assert MEMBER_KEY not in str(seen.headers)
    assert "cookie" not in seen.headers
    assert seen.json == chat_body()


def test_expired_and_revoked_keys_stop_at_once(tmp_path: Path):
    with StubEngine() as engine, standing(tmp_path, [engine.address]) as (gateway, control):
        assert gateway.chat().status_code == 200
        table = make_table(make_route([engine.address]), revision=2)
        now_ms = int(time.time() * 1000)
        keys = {name: replace(key, expires_at_ms=now_ms + 300) for name, key in table.keys.items()}
        control.publish(replace(table, keys=keys))
        until(lambda: gateway.chat().status_code == 401, "the end of the key")
        assert "expired" in gateway.chat().json()["message"]
        control.publish(replace(table, revision=3))
        until(lambda: gateway.chat().status_code == 200, "the key's return")
        control.publish(replace(table, revision=4, keys={}))
        until(lambda: gateway.chat().status_code == 401, "the end of all keys")
        assert gateway.chat().json()["error"]["code"] == "invalid_api_key"


def test_a_dial_that_hangs_is_given_up(tmp_path: Path):
    """A listener whose backlog is full drops SYNs, as a dead host does."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        address = f"127.0.0.1:{full.getsockname()[1]}"
        engine = stack.enter_context(StubEngine())
        gateway, _ = stack.enter_context(standing(tmp_path, [address, engine.address]))
        began = time.monotonic()
        assert [gateway.chat().status_code for _ in range(4)] == [200] * 4
        assert time.monotonic() - began < 4 * QUICK.connect_s + 1


@pytest.mark.slow
def test_a_client_may_leave_while_the_gateway_dials(tmp_path: Path):
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        address = f"127.0.0.1:{full.getsockname()[1]}"
        gateway, control = stack.enter_context(standing(tmp_path, [address]))
        with gateway.client() as client, pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=chat_body(), timeout=0.1)
        time.sleep(QUICK.connect_s + 0.3)
        assert control.events == {}
        assert gateway.chat().status_code == 503
