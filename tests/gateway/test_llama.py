"""The gateway in front of the real llama.cpp server with the demo model."""

import base64
import json
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.gateway import (
    GatewayThread,
    chat_body,
    data_of,
    make_route,
    make_table,
    post,
)
from tests.support.llama import DEMO_WEIGHTS, llama
from tests.support.stub_control import StubControl
from tramontane.gateway.limits import Limits

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with llama(DEMO_WEIGHTS, "demo") as running:
        yield running


@pytest.fixture(scope="module")
def stack(
    address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GatewayThread, StubControl]]:
    folder = tmp_path_factory.mktemp("gateway")
    table = make_table(make_route([address]))
    with StubControl(table) as control, GatewayThread(folder, control.url, Limits()) as gateway:
        gateway.wait_ready()
        yield gateway, control


def test_a_chat_is_answered_with_usage(stack: tuple[GatewayThread, StubControl]):
    gateway, control = stack
    reply = gateway.chat(max_tokens=8, temperature=0)
    assert reply.status_code == 200, reply.text
    usage = reply.json()["usage"]
    event = control.wait_event(reply.headers["x-request-id"])
    assert event["prompt_tokens"] == usage["prompt_tokens"] > 0
    assert event["completion_tokens"] == usage["completion_tokens"] > 0
    assert event["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("options", [None, {"include_usage": True}, {"include_usage": False}])
def test_a_stream_has_its_usage_where_the_client_wants_it(
    stack: tuple[GatewayThread, StubControl], options: dict | None
):
    gateway, control = stack
    more = {} if options is None else {"stream_options": options}
    data = gateway.stream(max_tokens=8, temperature=0, **more)
    assert data[-1] == "[DONE]"
    chunks = [json.loads(item) for item in data[:-1]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("finish_reason" in choice for chunk in chunks for choice in chunk["choices"])
    carrying = [bool(chunk["choices"]) for chunk in chunks if chunk.get("usage")]
    assert carrying == ([True] if options is None else [False] if options["include_usage"] else [])
    assert {event["token_source"] for event in control.wait_events(1)} == {"engine"}


def test_completions_stream_and_answer(stack: tuple[GatewayThread, StubControl]):
    gateway, _ = stack
    body = {"model": "demo", "prompt": "What is", "max_tokens": 4, "temperature": 0}
    with gateway.client() as client:
        whole = client.post("/v1/completions", json=body).json()
        text = client.post("/v1/completions", json={**body, "stream": True}).text
    chunks = [json.loads(item) for item in data_of(text)[:-1]]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert [bool(chunk.get("usage")) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_embeddings_as_numbers_and_as_base64(stack: tuple[GatewayThread, StubControl]):
    gateway, control = stack
    with gateway.client() as client:
        body = {"model": "demo", "input": ["hello", "good day"]}
        numbers = client.post("/v1/embeddings", json=body)
        packed = client.post("/v1/embeddings", json={**body, "encoding_format": "base64"})
    assert numbers.status_code == packed.status_code == 200, numbers.text
    assert numbers.json()["id"].startswith("embd-")
    first = numbers.json()["data"][0]["embedding"]
    raw = base64.b64decode(packed.json()["data"][0]["embedding"])
    assert struct.unpack(f"<{len(first)}f", raw) == pytest.approx(first, abs=1e-5)
    event = control.wait_event(numbers.headers["x-request-id"])
    assert event["prompt_tokens"] > 0
    assert event["completion_tokens"] == 0


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        (
            {"messages": [{"role": "user", "content": "word " * 2000}]},
            400,
            "context_length_exceeded",
        ),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "no"}}}},
            400,
            "invalid_value",
        ),
        ({"max_completion_tokens": 3}, 200, None),
        ({"random_seed": 4, "max_tokens": 3}, 200, None),
        ({"safe_prompt": True, "max_tokens": 3}, 200, None),
    ],
)
def test_what_the_engine_says_reaches_the_client(
    stack: tuple[GatewayThread, StubControl], fields: dict, status: int, code: str | None
):
    gateway, _ = stack
    reply = gateway.chat(**fields)
    assert reply.status_code == status, reply.text
    if code is not None:
        assert reply.json()["error"]["code"] == code
    elif "max_completion_tokens" in fields:
        assert reply.json()["usage"]["completion_tokens"] == 3


def test_streams_that_are_left_free_the_engine(
    stack: tuple[GatewayThread, StubControl], address: str
):
    gateway, control = stack
    before = len(control.events)
    body = json.dumps(chat_body(stream=True, max_tokens=400, ignore_eos=True)).encode()
    socks = [socket.create_connection(("127.0.0.1", gateway.port), timeout=20) for _ in range(20)]
    for sock in socks:
        sock.sendall(post(CHAT, body))
    socks[0].recv(1000)
    time.sleep(0.3)  # all have reached the engine; who leaves before is not counted
    for sock in socks:
        sock.close()
    assert gateway.chat(max_tokens=2).status_code == 200
    outcomes = [event["outcome"] for event in control.wait_events(before + 21)[before:]]
    assert outcomes.count("cut") >= 15  # a few may have ended before their clients left


def test_more_clients_than_slots_are_all_answered(stack: tuple[GatewayThread, StubControl]):
    gateway, _ = stack
    began = time.monotonic()
    with ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(gateway.chat, max_tokens=4) for _ in range(48)]
        assert [item.result().status_code for item in asked] == [200] * 48
    assert time.monotonic() - began < 30
