"""What a client gets: replies, streams, usage, headers; and what the engine was sent."""

import json

from tests.support.gateway import MODEL, GatewayThread
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine


def test_a_chat_is_answered_and_counted(
    gateway: GatewayThread, engine: StubEngine, control: StubControl
):
    reply = gateway.chat()
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == "tok 0tok 1tok 2"
    assert engine.ids == [reply.headers["x-request-id"]]
    event = control.wait_event(reply.headers["x-request-id"])
    assert event["request_id"] == reply.headers["x-request-id"]
    assert event["id"] == "evt_" + event["request_id"][4:]
    assert (event["prompt_tokens"], event["completion_tokens"]) == (7, 3)
    assert (event["outcome"], event["token_source"], event["status"]) == (
        "completed",
        "engine",
        200,
    )


def test_a_stream_carries_usage_on_its_finish_chunk(
    gateway: GatewayThread, engine: StubEngine, control: StubControl
):
    data = gateway.stream()
    assert data[-1] == "[DONE]"
    chunks = [json.loads(item) for item in data[:-1]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [bool(chunk["choices"]) for chunk in chunks] == [True] * 5
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    assert all("usage" not in chunk for chunk in chunks[:-1])
    event = control.wait_event(engine.ids[0])
    assert event["completion_tokens"] == 3
    assert event["token_source"] == "engine"
    assert event["is_stream"] is True
    assert event["model"] == MODEL


def test_answers_that_the_engine_would_not_count_reach_no_engine(
    gateway: GatewayThread, engine: StubEngine
):
    before = list(engine.ids)
    with gateway.client() as client:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "n": 2}
        reply = client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "unsupported_by_engine"
        assert reply.json()["error"]["param"] == "n"
        texts = {"model": MODEL, "prompt": ["a", "b"]}
        assert client.post("/v1/completions", json=texts).status_code == 400
    assert engine.ids == before
