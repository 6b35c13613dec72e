"""POST /v1/responses through a real gateway: whole, streamed, stored, refused, counted."""

import json
from typing import Any

import httpx
import pytest

from tests.support.gateway import (
    MEMBER_KEY,
    OTHER_KEY,
    OTHER_PROJECT,
    GatewayThread,
    GatewayUnderTest,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until

pytestmark = pytest.mark.slow

PATH = "/v1/responses"


def create(gateway: GatewayUnderTest, key: str = MEMBER_KEY, **fields: Any) -> httpx.Response:
    with gateway.client(key) as client:
        return client.post(PATH, json={"model": "demo", "input": "hello"} | fields)


def stream(gateway: GatewayThread, key: str = MEMBER_KEY, **fields: Any) -> list[dict[str, Any]]:
    reply = create(gateway, key, stream=True, **fields)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    frames = reply.text.split("\n\n")
    assert frames.pop() == ""
    return [json.loads(frame.split("\ndata: ")[1]) for frame in frames]


def text_of(response: dict[str, Any]) -> str:
    return "".join(p["text"] for i in response["output"] for p in i["content"])


def test_a_whole_answer(gateway: GatewayThread, engine: StubEngine, control: StubControl) -> None:
    reply = create(gateway, instructions="Be brief.")
    response = reply.json()
    assert reply.status_code == 200
    assert response["status"] == "completed"
    assert response["model"] == "demo"
    assert text_of(response) == "tok 0tok 1tok 2"
    assert response["id"] == "resp_" + reply.headers["x-request-id"][4:]
    (seen,) = engine.requests
    assert seen.path == "/v1/chat/completions"
    assert seen.json["messages"][0] == {"role": "system", "content": "Be brief."}
    event = control.wait_event(reply.headers["x-request-id"])
    assert event["endpoint"] == "responses"
    assert (event["prompt_tokens"], event["completion_tokens"]) == (7, 3)
    assert response["usage"]["input_tokens"] == 7
    assert response["usage"]["output_tokens"] == 3


def test_a_streamed_answer(gateway: GatewayThread, control: StubControl) -> None:
    events = stream(gateway)
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] == "response.completed"
    assert text_of(events[-1]["response"]) == "tok 0tok 1tok 2"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    event = control.wait_event("req_" + events[0]["response"]["id"][5:])
    assert event["outcome"] == "completed"
    assert event["token_source"] == "engine"


@pytest.mark.parametrize("mount", ["/openai/v1", "/mistral/v1", "/v1/v1"])
def test_every_mount_serves_it(gateway: GatewayThread, control: StubControl, mount: str) -> None:
    with gateway.client() as client:
        body = {"model": "demo", "input": "hello"}
        assert client.post(f"{mount}/responses/", json=body).status_code == 200
        client.get(f"{mount}/responses/resp_x/input_items?limit=2")
    assert control.calls[-1].path == "/v1/responses/resp_x/input_items?limit=2"


# Stored.


def test_it_is_stored_before_the_answer_ends(gateway: GatewayThread, control: StubControl) -> None:
    response = create(gateway).json()
    assert response["store"] is True
    kept = control.stored.kept[response["id"]]
    assert kept["response"] == response
    assert [item["type"] for item in kept["input_items"]] == ["message"]
    streamed = stream(gateway)[-1]["response"]
    assert streamed["store"] is True
    assert control.stored.kept[streamed["id"]]["response"] == streamed


@pytest.mark.parametrize(
    ("key", "fields"),
    [(MEMBER_KEY, {"store": False}), (OTHER_KEY, {}), (OTHER_KEY, {"store": False})],
)
def test_it_is_not_stored_unless_it_may_be(
    gateway: GatewayThread, control: StubControl, key: str, fields: dict[str, Any]
) -> None:
    response = create(gateway, key, **fields).json()
    assert response["store"] is False
    assert control.stored.kept == {}


def test_a_key_that_may_not_store_is_told_who_can_allow_it(
    gateway: GatewayThread, engine: StubEngine
) -> None:
    for fields in ({"store": True}, {"background": True}):
        reply = create(gateway, OTHER_KEY, **fields)
        assert reply.status_code == 400
        assert "operator can allow it" in reply.json()["error"]["message"]
    assert not engine.requests


def test_without_control_plane_an_answer_says_that_it_is_not_stored(
    gateway: GatewayThread, control: StubControl
) -> None:
    control.stored.status = 503
    response = create(gateway).json()
    assert (response["status"], response["store"]) == ("completed", False)
    assert stream(gateway)[-1]["response"]["store"] is False


@pytest.mark.parametrize(
    "fields", [{"store": True}, {"background": True}, {"store": True, "stream": True}]
)
def test_without_control_plane_who_insists_is_refused_before_any_work(
    gateway: GatewayThread, control: StubControl, engine: StubEngine, fields: dict[str, Any]
) -> None:
    control.stored.status = 503
    reply = create(gateway, **fields)
    assert reply.status_code == 503
    assert reply.headers["retry-after"]
    assert not engine.requests


def test_an_organization_that_just_forbade_it_is_obeyed(
    gateway: GatewayThread, control: StubControl
) -> None:
    control.stored.refuses = True
    assert create(gateway).json()["store"] is False


# Conversations.


def test_the_items_before_are_joined(gateway: GatewayThread, engine: StubEngine) -> None:
    first = create(gateway, instructions="Be brief.").json()
    second = create(gateway, input="and?", previous_response_id=first["id"]).json()
    assert second["previous_response_id"] == first["id"]
    assert engine.requests[-1].json["messages"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "tok 0tok 1tok 2"},
        {"role": "user", "content": "and?"},
    ]


def test_nothing_before_is_not_found(gateway: GatewayThread, engine: StubEngine) -> None:
    reply = create(gateway, previous_response_id="resp_" + "z" * 20)
    assert reply.status_code == 404
    assert reply.json()["error"]["param"] == "previous_response_id"
    odd = create(gateway, previous_response_id="../../x?y=1&project_id=" + OTHER_PROJECT)
    assert odd.status_code == 400  # it is none of our ids, and never becomes part of a path
    assert odd.json()["error"]["param"] == "previous_response_id"
    assert not engine.requests


# In the background.


def test_in_the_background(
    gateway: GatewayThread, control: StubControl, engine: StubEngine
) -> None:
    engine.script = {"delay_s": 0.2}
    reply = create(gateway, background=True)
    response = reply.json()
    assert (response["status"], response["background"], response["output"]) == ("queued", True, [])
    kept = control.stored.kept[response["id"]]
    until(lambda: kept["response"]["status"] == "completed", "the end of the response")
    assert text_of(kept["response"]) == "tok 0tok 1tok 2"
    event = control.wait_event(reply.headers["x-request-id"])
    assert event["outcome"] == "completed"
    assert event["completion_tokens"] == 3


def test_a_cancelled_one_stops_its_engine(
    gateway: GatewayThread, control: StubControl, engine: StubEngine
) -> None:
    engine.script = {"chunks": 1_000, "pause_s": 0.05}
    reply = create(gateway, background=True)
    response_id = reply.json()["id"]
    until(lambda: engine.requests and engine.requests[-1].chunks > 1, "the engine's work")
    control.stored.kept[response_id]["response"]["status"] = "cancelled"
    until(lambda: engine.requests[-1].ended == "left", "the engine's stop")
    event = control.wait_event(reply.headers["x-request-id"])
    assert event["outcome"] == "cut"
    assert event["completion_tokens"] > 0
    assert control.stored.kept[response_id]["response"]["status"] == "cancelled"


def test_a_deleted_one_stops_its_engine(
    gateway: GatewayThread, control: StubControl, engine: StubEngine
) -> None:
    engine.script = {"chunks": 1_000, "pause_s": 0.05}
    response_id = create(gateway, background=True).json()["id"]
    until(lambda: engine.requests and engine.requests[-1].chunks > 1, "the engine's work")
    del control.stored.kept[response_id]
    until(lambda: engine.requests[-1].ended == "left", "the engine's stop")
    assert response_id not in control.stored.kept


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ({"status": 500, "message": "out of memory"}, "server_error"),
        ({"status": 400, "message": "no such thing"}, "invalid_prompt"),
        ({"die": "before"}, "server_error"),
        ({"die": "chunks"}, "server_error"),
    ],
)
def test_a_failure_in_the_background_is_stored(
    gateway: GatewayThread, control: StubControl, engine: StubEngine, script: Any, code: str
) -> None:
    engine.script = script
    response_id = create(gateway, background=True).json()["id"]
    kept = control.stored.kept[response_id]
    until(lambda: kept["response"]["status"] == "failed", "the end of the response")
    assert kept["response"]["error"]["code"] == code
    assert kept["response"]["error"]["message"]


def test_its_end_is_stored_when_the_control_plane_is_back(
    gateway: GatewayThread, control: StubControl, engine: StubEngine
) -> None:
    engine.script = {"delay_s": 0.3}
    response_id = create(gateway, background=True).json()["id"]
    control.stored.status = 503
    until(lambda: engine.requests and engine.requests[-1].ended == "answered", "the answer")
    control.stored.status = 0
    kept = control.stored.kept[response_id]
    until(lambda: kept["response"]["status"] == "completed", "the end of the response")


# Failures.


def test_an_engine_that_dies_midway(
    gateway: GatewayThread, control: StubControl, engine: StubEngine
) -> None:
    engine.script = {"die": "chunks"}
    events = stream(gateway)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    response = events[-1]["response"]
    assert text_of(response) == "tok 0tok 1tok 2"
    assert control.stored.kept[response["id"]]["response"] == response
    event = control.wait_event("req_" + response["id"][5:])
    assert (event["outcome"], event["completion_tokens"]) == ("cut", 3)


def test_an_engine_that_reports_an_error_midway(gateway: GatewayThread, engine: StubEngine) -> None:
    engine.script = {"error_after": 1}
    events = stream(gateway)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]


def test_an_engine_that_dies_after_its_finish_has_answered(
    gateway: GatewayThread, engine: StubEngine
) -> None:
    engine.script = {"die": "finish"}
    assert stream(gateway)[-1]["type"] == "response.completed"


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ({"status": 500}, 502),
        ({"status": 400}, 400),
        ({"die": "before"}, 502),
        ({"raw": "nonsense"}, 502),
        ({"raw": '{"choices":[]}'}, 502),
    ],
)
def test_an_engine_that_fails_at_once(
    gateway: GatewayThread, control: StubControl, engine: StubEngine, script: Any, status: int
) -> None:
    engine.script = script
    assert create(gateway).status_code == status
    assert control.stored.kept == {}


def test_in_mistrals_dialect_a_validation_error_is_422(gateway: GatewayThread) -> None:
    with gateway.client() as client:
        reply = client.post("/mistral" + PATH, json={"model": "demo", "input": []})
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["body", "input"]


def test_a_client_that_leaves_stops_the_engine(
    gateway: GatewayThread, control: StubControl, engine: StubEngine
) -> None:
    engine.script = {"chunks": 1_000, "pause_s": 0.02}
    body = {"model": "demo", "input": "hello", "stream": True}
    with gateway.client() as client, client.stream("POST", PATH, json=body) as reply:
        next(reply.iter_lines())
    until(lambda: engine.requests[-1].ended == "left", "the engine's stop")
    assert control.wait_event(reply.headers["x-request-id"])["outcome"] == "cut"
    assert control.stored.kept == {}


# Counting.


@pytest.mark.parametrize(
    ("model", "count", "path"),
    [("demo", 17, "/v1/chat/completions/input_tokens"), ("on-vllm", 18, "/tokenize")],
)
def test_tokens_are_counted_by_the_engine(  # noqa: PLR0917 - what is set and what is used
    gateway: GatewayThread,
    engine: StubEngine,
    control: StubControl,
    model: str,
    count: int,
    path: str,
) -> None:
    body = {"model": model, "input": "hello", "instructions": "Be brief.", "stream": True}
    with gateway.client() as client:
        reply = client.post(f"{PATH}/input_tokens", json=body)
    assert reply.json() == {"object": "response.input_tokens", "input_tokens": count}
    (seen,) = engine.requests
    assert seen.path == path
    assert [message["role"] for message in seen.json["messages"]] == ["system", "user"]
    event = control.wait_event(reply.headers["x-request-id"])
    assert (event["prompt_tokens"], event["completion_tokens"]) == (0, 0)


def test_an_engine_that_cannot_count_is_named(gateway: GatewayThread) -> None:
    with gateway.client() as client:
        reply = client.post(f"{PATH}/input_tokens", json={"model": "on-other", "input": "hello"})
    assert reply.status_code == 400
    assert "other" in reply.json()["error"]["message"]
