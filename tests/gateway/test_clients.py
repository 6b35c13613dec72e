"""Clients that leave, and clients that are slow."""

import json
import socket
import time

import pytest

from tests.support.gateway import MODEL, GatewayThread, chat_body, post
from tests.support.stub_control import StubControl
from tests.support.stub_engine import Seen, StubEngine
from tests.support.waiting import until

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


def wait_left(seen: Seen) -> float:
    """Return when the engine noticed that nobody waits any more."""
    until(lambda: seen.ended != "open", "the engine to notice", 4)
    assert seen.ended == "left"
    return seen.ended_s


def wait_seen(engine: StubEngine, count: int = 1) -> Seen:
    until(lambda: len(engine.requests) >= count, f"request {count}")
    return engine.requests[count - 1]


def hang_up(sock: socket.socket, *, reset: bool) -> None:
    if reset:
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    sock.close()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_engine(
    gateway: GatewayThread, engine: StubEngine, control: StubControl, stream: bool, reset: bool
):
    stub = {"pause_s": 0.05, "chunks": 100} if stream else {"delay_s": 0.9}
    body = json.dumps(chat_body(stream=stream, stub=stub)).encode()
    sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=5)
    sock.sendall(post(CHAT, body))
    seen = wait_seen(engine)
    if stream:
        data = b""
        while data.count(b"data: ") < 4:  # the role, then three tokens
            data += sock.recv(65_536)
    left_s = time.monotonic()
    hang_up(sock, reset=reset)
    assert wait_left(seen) - left_s < 0.3
    event = control.wait_event(seen.request_id)
    assert (event["outcome"], event["token_source"]) == ("cut", "counted")
    assert event["status"] == (200 if stream else 499)
    if stream:
        assert 3 <= event["completion_tokens"] <= 6
        assert event["first_byte_ms"] is not None
    assert event["duration_ms"] < 900


def test_a_client_that_leaves_with_its_body_half_sent_reaches_no_engine(
    gateway: GatewayThread, engine: StubEngine
):
    sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=5)
    sock.sendall(post(CHAT, json.dumps(chat_body()).encode())[:-5])
    time.sleep(0.05)
    hang_up(sock, reset=False)
    time.sleep(0.1)
    assert engine.ids == []


def test_many_leave_at_once(gateway: GatewayThread, engine: StubEngine, control: StubControl):
    body = json.dumps(chat_body(stream=True, stub={"pause_s": 0.05, "chunks": 100})).encode()
    socks = [socket.create_connection(("127.0.0.1", gateway.port), timeout=5) for _ in range(20)]
    for sock in socks:
        sock.sendall(post(CHAT, body))
    wait_seen(engine, 20)
    for sock in socks:
        sock.recv(1000)
    left_s = time.monotonic()
    for sock in socks:
        hang_up(sock, reset=False)
    assert max(wait_left(seen) for seen in engine.requests) - left_s < 0.5
    events = [control.wait_event(request_id) for request_id in engine.ids]
    assert {event["outcome"] for event in events} == {"cut"}


def test_a_slow_reader_holds_the_engine_back(gateway: GatewayThread, engine: StubEngine):
    """Kernel buffers and 256 KiB of ours fill; then the engine must wait, not our memory."""
    text = "x" * 20_000
    body = json.dumps(chat_body(stream=True, stub={"chunks": 3000, "text": text})).encode()
    sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=5)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    sock.sendall(post(CHAT, body))
    seen = wait_seen(engine)
    before = -1
    while seen.chunks == 0 or seen.chunks != before:
        before = seen.chunks
        time.sleep(0.2)
    assert before < 2500  # 60 MB would be on the way otherwise
    total = 0
    while total < 30_000_000:
        data = sock.recv(1 << 20)
        assert data, "the stream ended early"
        total += len(data)
    assert seen.chunks > before
    hang_up(sock, reset=False)
    wait_left(seen)


@pytest.mark.slow
def test_a_reader_that_stopped_is_dropped(
    gateway: GatewayThread, engine: StubEngine, control: StubControl
):
    body = json.dumps(chat_body(stream=True, stub={"chunks": 3000, "text": "x" * 20_000})).encode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.sendall(post(CHAT, body))
        seen = wait_seen(engine)
        wait_left(seen)
    assert control.wait_event(seen.request_id)["outcome"] == "cut"


def test_a_long_prompt_arrives_whole(gateway: GatewayThread, engine: StubEngine):
    content = "wörd " * 40_000
    reply = gateway.chat(messages=[{"role": "user", "content": content}])
    assert reply.status_code == 200
    assert engine.requests[0].json["messages"][0]["content"] == content


def test_a_long_reply_arrives_whole(gateway: GatewayThread):
    with gateway.client() as client:
        stub = {"chunks": 100, "text": "é" * 50_000}
        body = {"model": MODEL, "prompt": "x", "stub": stub}
        reply = client.post("/v1/completions", json=body)
    text = reply.json()["choices"][0]["text"]
    assert text == "".join("é" * 50_000 + str(number) for number in range(100))


@pytest.mark.slow
def test_idle_connections_are_closed(gateway: GatewayThread):
    began = time.monotonic()
    assert gateway.raw(b"", timeout_s=10) == b""
    assert 4 < time.monotonic() - began < 8
