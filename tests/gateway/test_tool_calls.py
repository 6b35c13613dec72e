"""Tool calls are given whole, however the engine cuts them; usage and finish stay in place."""

import json
from dataclasses import replace

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.gateway import (
    MEMBER_KEY,
    QUICK,
    GatewayThread,
    data_of,
    key_hash,
    make_keys,
    make_route,
    make_table,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tramontane.gateway.calls.stream import StreamWatch, UsageForm
from tramontane.gateway.calls.tool_calls import GatheredCalls, complete_whole

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def event(delta: dict, reason: str | None = None, index: int = 0, **more: object) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": reason}
    value = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + orjson.dumps({**value, "choices": [choice], **more}) + b"\n\n"


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    at = sorted(min(cut, len(text)) for cut in cuts)
    return [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]


ARGUMENTS = st.dictionaries(st.text(max_size=4), st.text(max_size=6), max_size=3).map(json.dumps)
CALLS = st.lists(st.tuples(st.sampled_from(["look", "go"]), ARGUMENTS), min_size=1, max_size=3)


@given(st.lists(CALLS, min_size=1, max_size=2), st.data(), st.sampled_from(list(UsageForm)))
def test_any_pieces_give_the_same_whole_calls(choices, data, form: UsageForm):
    raw = b""
    for index, calls in enumerate(choices):
        raw += event({"role": "assistant", "content": None}, index=index)
        for place, (name, arguments) in enumerate(calls):
            cuts = data.draw(st.lists(st.integers(0, len(arguments)), max_size=4))
            for count, piece in enumerate(pieces_of(arguments, cuts)):
                function = {"arguments": piece} | ({"name": name} if count == 0 else {})
                call: dict = {"index": place, "function": function}
                if count == 0:
                    call |= {"id": f"id{index}x{place}", "type": "function"}
                raw += event({"tool_calls": [call]}, index=index)
    for index in range(len(choices)):
        raw += event({}, data.draw(st.sampled_from(["tool_calls", "stop"])), index)
    raw += event({}, usage=USAGE).replace(
        b'"choices":[{"index":0,"delta":{},"finish_reason":null}]', b'"choices":[]'
    )
    raw += b"data: [DONE]\n\n"
    watch = StreamWatch(form, lead=1, event_bytes_max=1 << 20, calls=GatheredCalls())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    out = b""
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        if end > start and not watch.is_done:
            out += watch.feed(raw[start:end])
    assert watch.is_done
    found: dict[int, list] = {index: [] for index in range(len(choices))}
    reasons = {}
    chunks = [json.loads(item) for item in data_of(out.decode())[:-1]]
    for chunk in chunks:
        for choice in chunk["choices"]:
            for call in choice["delta"].get("tool_calls") or []:
                assert call["index"] == len(found[choice["index"]])
                assert call["type"] == "function"
                assert call["id"] == f"id{choice['index']}x{call['index']}"
                function = call["function"]
                found[choice["index"]].append((function["name"], function["arguments"]))
            reasons[choice["index"]] = choice["finish_reason"] or reasons.get(choice["index"])
    assert found == dict(enumerate(choices))
    assert set(reasons.values()) == {"tool_calls"}
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert usages == ([] if form is UsageForm.NONE else [USAGE])
    assert watch.tokens == (5, 2, 0)


def test_a_call_without_id_or_arguments_gets_some():
    watch = StreamWatch(UsageForm.ON_FINISH, lead=1, event_bytes_max=1 << 20, calls=GatheredCalls())
    raw = event({"tool_calls": [{"function": {"name": "look"}}]}) + event({}, "stop")
    out = watch.feed(raw + b"data: [DONE]\n\n") + watch.end()
    call = json.loads(data_of(out.decode())[0])["choices"][0]["delta"]["tool_calls"][0]
    assert call["function"] == {"name": "look", "arguments": "{}"}
    assert call["id"]
    reply = {
        "choices": [
            {
                "index": 0,
                "message": {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
                "finish_reason": "stop",
            }
        ]
    }
    assert complete_whole(reply)
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["id"].isalnum()
    assert not complete_whole(reply)


@pytest.mark.parametrize("split", [0, 7])
def test_a_streamed_call_reaches_the_client_whole(
    gateway: GatewayThread, engine: StubEngine, control: StubControl, split: int
):
    stub = {"chunks": 2, "pieces": ['{"ci', 'ty": "Par', 'is"}'], "split": split}
    *data, done = gateway.stream(tools=TOOLS, stub=stub)
    assert done == "[DONE]"
    chunks = [json.loads(item)["choices"][0] for item in data]
    calls = [c["delta"]["tool_calls"] for c in chunks if c["delta"].get("tool_calls")]
    function = {"name": "look", "arguments": '{"city": "Paris"}'}
    assert calls == [[{"index": 0, "id": "abcdefghi", "type": "function", "function": function}]]
    assert "".join(c["delta"].get("content") or "" for c in chunks) == "tok 0tok 1"
    assert chunks[-1]["finish_reason"] == "tool_calls"
    assert json.loads(data[-1])["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("split", [0, 7])
@pytest.mark.parametrize("options", [None, {"include_usage": True}, {"include_usage": False}])
def test_the_running_usage_of_vllm_stays_with_us(tmp_path, split: int, options: dict | None):
    with StubEngine() as engine:
        table = make_table(make_route([engine.address], engine="vllm"))
        with StubControl(table) as control, GatewayThread(tmp_path, control.url, QUICK) as gateway:
            gateway.wait_ready()
            more = {} if options is None else {"stream_options": options}
            stub = {"running_usage": True, "split": split}
            *data, done = gateway.stream(stub=stub, **more)
            assert done == "[DONE]"
            assert engine.requests[0].json["stream_options"]["continuous_usage_stats"] is True
            chunks = [json.loads(item) for item in data]
            places = [bool(chunk["choices"]) for chunk in chunks if chunk.get("usage")]
            wanted = [True] if options is None else [False] * options["include_usage"]
            assert places == wanted
            assert control.wait_events(1)[0]["prompt_tokens"] == 7
            with pytest.raises(httpx.RemoteProtocolError):
                gateway.stream(stub={**stub, "die": "chunks"})
            cut = control.wait_events(2)[1]
            assert (cut["outcome"], cut["prompt_tokens"]) == ("cut", 7)
            assert (cut["completion_tokens"], cut["token_source"]) == (3, "counted")


def test_a_strict_project_is_told_of_unknown_fields_in_its_dialect(tmp_path, engine: StubEngine):
    keys = make_keys()
    member = key_hash(MEMBER_KEY)
    keys[member] = replace(keys[member], is_strict=True)
    table = make_table(make_route([engine.address]), keys=keys)
    with StubControl(table) as control, GatewayThread(tmp_path, control.url, QUICK) as gateway:
        gateway.wait_ready()
        body = {"model": "demo", "messages": [{"role": "user", "content": "x"}], "temprature": 1}
        with gateway.client() as client:
            plain = client.post("/v1/chat/completions", json=body)
            mistral = client.post("/mistral/v1/chat/completions", json=body)
            del body["temprature"]
            assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert (plain.status_code, plain.json()["param"]) == (400, "temprature")
    assert mistral.status_code == 422
    assert mistral.json()["detail"][0]["loc"] == ["body", "temprature"]
