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


def test_several_answers_are_one_request_and_one_event(
    gateway: GatewayThread, engine: StubEngine, control: StubControl
):
    with gateway.client() as client:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "n": 3}
        reply = client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        found = reply.json()
        assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
        assert found["usage"]["prompt_tokens"] == 7
        assert found["usage"]["completion_tokens"] == 9
        event = control.wait_event(reply.headers["x-request-id"])
        assert (event["prompt_tokens"], event["completion_tokens"]) == (7, 9)
        texts = {"model": MODEL, "prompt": ["a", "b"], "n": 2, "stub": {"chunks": 2}}
        reply = client.post("/v1/completions", json=texts)
        assert [choice["index"] for choice in reply.json()["choices"]] == [0, 1, 2, 3]
        assert reply.json()["usage"] == {
            "prompt_tokens": 14,
            "completion_tokens": 8,
            "total_tokens": 22,
            "prompt_tokens_details": {"cached_tokens": 2},
        }
    sent = [seen.json for seen in engine.requests if seen.path == "/v1/completions"]
    assert [item["prompt"] for item in sent] == ["a", "a", "b", "b"]
    assert all("n" not in item for item in sent)


def test_streams_of_several_answers_interleave_by_index(
    gateway: GatewayThread, engine: StubEngine, control: StubControl
):
    found = [json.loads(item) for item in gateway.stream(n=10, stub={"pause_s": 0.005})[:-1]]
    texts = dict.fromkeys(range(10), "")
    for chunk in found:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    assert set(texts.values()) == {"tok 0tok 1tok 2"}
    assert len({chunk["id"] for chunk in found}) == 1
    usages = [chunk["usage"] for chunk in found if chunk.get("usage")]
    assert [(usage["prompt_tokens"], usage["completion_tokens"]) for usage in usages] == [(7, 30)]
    assert found[-1]["choices"][0]["finish_reason"] == "stop"
    assert len({seen.request_id for seen in engine.requests}) == 1
    event = control.wait_event(engine.ids[0])
    assert (event["completion_tokens"], event["token_source"]) == (30, "engine")


def test_one_answer_that_fails_ends_the_request_once(
    gateway: GatewayThread, engine: StubEngine, control: StubControl
):
    reply = gateway.chat(n=3, stub={"status": 400, "message": "no such thing"})
    assert reply.status_code == 400
    assert "no such thing" in reply.json()["error"]["message"]
    assert control.wait_event(reply.headers["x-request-id"])["outcome"] == "failed"
    reply = gateway.chat(n=3, stub={"die": "before"})
    assert reply.status_code == 502
    assert control.wait_event(reply.headers["x-request-id"])["outcome"] == "cut"
    assert gateway.chat(n=129).status_code == 400
