"""Every field of every inference body: what is refused by name, whatever way it is read."""

import json
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.gateway import make_route
from tramontane.domain.refusal import Code, Refusal
from tramontane.gateway.calls.bodies import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    ENDPOINTS,
    FIM,
    Call,
    Endpoint,
    read_call,
)
from tramontane.gateway.calls.forms import MessageForm
from tramontane.wire import errors
from tramontane.wire.dialect import Dialect

HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
LEAST: dict[str, dict[str, Any]] = {
    CHAT.name: {"model": "m", "messages": HELLO},
    COMPLETIONS.name: {"model": "m", "prompt": "x"},
    FIM.name: {"model": "m", "prompt": "x"},
    EMBEDDINGS.name: {"model": "m", "input": "x"},
}
HUGE = 10**30
# Neither type nor size of these is right for any field that is typed.
WRONG: tuple[object, ...] = ({"a": {"b": [1]}}, [[[[1]]]], HUGE, -HUGE, 1e300, "\u0000" * 3)
# Fields that take anything, because they have no effect here or the engine judges them.
FREE = """
user metadata prompt_logprobs prediction store service_tier reasoning_effort verbosity
prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier
"""


def body(endpoint: Endpoint, **fields: object) -> bytes:
    return json.dumps({**LEAST[endpoint.name], **fields}).encode()


def fields_of(endpoint: Endpoint) -> list[str]:
    return [name for name in endpoint.form.__struct_fields__ if name not in FREE.split()]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda item: item.name)
def test_no_field_takes_every_kind_of_value(endpoint: Endpoint):
    for name in fields_of(endpoint):
        found = [read_call(endpoint, body(endpoint, **{name: value})) for value in WRONG]
        refused = [item for item in found if isinstance(item, Refusal)]
        assert len(refused) >= 2, name
        for refusal in refused:
            assert refusal.code in {Code.INVALID_VALUE, Code.UNSUPPORTED_BY_ENGINE}, refusal
            assert (refusal.param or "").startswith(name), (name, refusal)
            assert errors.status_of(refusal.code, Dialect.OPENAI) == 400
            assert errors.status_of(refusal.code, Dialect.MISTRAL) in {400, 422}


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda item: item.name)
@pytest.mark.parametrize(
    "value",
    [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'"\x01"',
        b"01",
        b"1.",
        b"[1,]",
        b"{1:2}",
        b"[" * 5_000 + b"]" * 5_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b"tru",
        b"",
    ],
)
def test_what_is_no_json_is_refused_in_every_field(endpoint: Endpoint, value: bytes):
    least = body(endpoint)[:-1]
    for name in [*endpoint.form.__struct_fields__, "unknown"]:
        refusal = read_call(endpoint, least + b',"%b":%b}' % (name.encode(), value))
        assert isinstance(refusal, Refusal), name
        assert refusal.code is Code.INVALID_JSON, name


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"functions": [{"name": "f"}]}, Code.UNSUPPORTED_BY_ENGINE, "functions"),
        ({"function_call": "auto"}, Code.UNSUPPORTED_BY_ENGINE, "function_call"),
        ({"audio": {"voice": "x"}}, Code.UNSUPPORTED_BY_ENGINE, "audio"),
        ({"modalities": ["text", "audio"]}, Code.UNSUPPORTED_BY_ENGINE, "modalities"),
        ({"web_search_options": {"x": 1}}, Code.UNSUPPORTED_BY_ENGINE, "web_search_options"),
        ({"prompt_mode": "reasoning"}, Code.UNSUPPORTED_BY_ENGINE, "prompt_mode"),
        ({"guardrails": [{}]}, Code.UNSUPPORTED_BY_ENGINE, "guardrails"),
        ({"tool_choice": "maybe"}, Code.INVALID_VALUE, "tool_choice"),
        ({"tool_choice": "required"}, Code.INVALID_VALUE, "tool_choice"),
        ({"tool_choice": "any", "tools": []}, Code.INVALID_VALUE, "tool_choice"),
        ({"tool_choice": {}, "tools": [WEATHER]}, Code.INVALID_VALUE, "tool_choice"),
        (
            {"tool_choice": {"function": {"name": "no"}}, "tools": [WEATHER]},
            Code.INVALID_VALUE,
            "tool_choice",
        ),
        ({"response_format": {}}, Code.INVALID_VALUE, "response_format.type"),
        ({"response_format": {"type": "xml"}}, Code.INVALID_VALUE, "response_format.type"),
        (
            {"response_format": {"type": "json_schema"}},
            Code.INVALID_VALUE,
            "response_format.json_schema",
        ),
        ({"messages": [{"role": "user", "content": 5}]}, Code.INVALID_VALUE, "messages[0].content"),
        ({"temperature": 1001}, Code.INVALID_VALUE, "temperature"),
        ({"top_p": 1.5}, Code.INVALID_VALUE, "top_p"),
        ({"presence_penalty": -3}, Code.INVALID_VALUE, "presence_penalty"),
        ({"seed": 2**64}, Code.INVALID_VALUE, "seed"),
        ({"n": 0}, Code.INVALID_VALUE, "n"),
    ],
)
def test_a_chat_that_cannot_be_served_is_refused_by_name(fields: dict, code: Code, param: str):
    refusal = read_call(CHAT, body(CHAT, **fields))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.param) == (code, param)


@pytest.mark.parametrize("name", ["prompt", "input"])
@pytest.mark.parametrize(
    "value",
    [
        [1, "a"],
        ["a", 1],
        [[]],
        [["a"]],
        [[1], 2],
        [1.5],
        [True],
        [-1],
        [2**31],
        [{}],
        [None],
        [[1.0]],
    ],
)
def test_prompts_are_texts_or_token_ids(name: str, value: list):
    endpoint = COMPLETIONS if name == "prompt" else EMBEDDINGS
    refusal = read_call(endpoint, body(endpoint, **{name: value}))
    assert isinstance(refusal, Refusal)
    assert refusal.param == name


@pytest.mark.parametrize(
    ("endpoint", "fields", "param"),
    [
        (CHAT, {"min_tokens": 5}, "min_tokens"),
        (CHAT, {"prompt_logprobs": 1}, "prompt_logprobs"),
        (CHAT, {"best_of": 2}, "best_of"),
        (COMPLETIONS, {"best_of": 3, "n": 2}, "best_of"),
        (COMPLETIONS, {"max_tokens": 0}, "max_tokens"),
        (COMPLETIONS, {"echo": True, "logprobs": 1}, "logprobs"),
        (COMPLETIONS, {"echo": True, "prompt": [1, 2]}, "echo"),
        (COMPLETIONS, {"suffix": "x", "echo": True}, "suffix"),
        (COMPLETIONS, {"suffix": "x", "logprobs": 1}, "suffix"),
        (COMPLETIONS, {"suffix": "x", "prompt": [1, 2]}, "suffix"),
        (COMPLETIONS, {"prompt": ["x"] * 65, "n": 2}, "n"),
        (FIM, {"min_tokens": 5}, "min_tokens"),
    ],
)
def test_what_llama_cpp_would_pass_over_is_refused(endpoint, fields: dict, param: str):
    call = read_call(endpoint, body(endpoint, **fields))
    assert isinstance(call, Call)
    refusal = call.refused_by(make_route([], engine="llamacpp"))
    assert refusal is not None
    assert refusal.param == param
    assert call.refused_by(make_route([], engine="vllm")) is None or param in {"n", "suffix"}


def test_vllm_does_not_fill_in_the_middle():
    for endpoint in (FIM, COMPLETIONS):
        call = read_call(endpoint, body(endpoint, suffix="x"))
        assert isinstance(call, Call)
        refusal = call.refused_by(make_route([], engine="vllm"))
        assert refusal is not None
        assert refusal.param == "suffix"
        call = read_call(endpoint, body(endpoint, suffix=""))
        assert isinstance(call, Call)
        assert call.refused_by(make_route([], engine="vllm")) is None
        assert b"suffix" not in b"".join(call.pieces_for(make_route([], engine="vllm", model="m")))


def test_vllm_is_told_to_go_on_with_a_prefix_and_for_running_usage():
    prefixed = [*HELLO, {"role": "assistant", "content": "The", "prefix": True}]
    raw = body(CHAT, messages=prefixed, stream=True, tool_choice="none", tools=[WEATHER])
    call = read_call(CHAT, raw)
    assert isinstance(call, Call)
    sent = json.loads(b"".join(call.pieces_for(make_route([], engine="vllm"))))
    assert sent["messages"][-1] == {"role": "assistant", "content": "The"}
    assert sent["continue_final_message"] is sent["echo"] is True
    assert sent["add_generation_prompt"] is False
    assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert sent["tool_choice"] == "none"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temprature": 1}, "temprature"),
        ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "messages[0].colour"),
        ({"stream_options": {"include_use": True}}, "stream_options.include_use"),
        ({"mirostat": 2, "max_token": 4}, "max_token"),
    ],
)
def test_a_strict_project_refuses_fields_that_nobody_knows(fields: dict, param: str):
    raw = body(CHAT, **fields)
    assert isinstance(read_call(CHAT, raw), Call)
    refusal = read_call(CHAT, raw, is_strict=True)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.param) == (Code.INVALID_VALUE, param)
    assert isinstance(read_call(CHAT, body(CHAT, mirostat=2, top_k=4), is_strict=True), Call)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool"])},
        optional=dict.fromkeys(MessageForm.__struct_fields__[1:], JSON),
    ),
    min_size=1,
    max_size=3,
)


@given(st.data(), st.sampled_from(ENDPOINTS))
def test_both_ways_to_read_a_body_agree_on_any_fields(data: st.DataObject, endpoint: Endpoint):
    names = st.sampled_from(endpoint.form.__struct_fields__)
    fields = data.draw(st.dictionaries(names, JSON, max_size=4))
    if endpoint is CHAT and data.draw(st.booleans()):
        fields["messages"] = data.draw(MESSAGES)
    raw = (
        orjson.dumps({**LEAST[endpoint.name], **fields}, option=orjson.OPT_NAIVE_UTC)
        if all(abs(number) < 2**63 for number in numbers_in(fields))
        else body(endpoint, **fields)
    )
    quick = read_call(endpoint, raw)
    # An unknown field sends a body the other way.
    closely = read_call(endpoint, raw[:-1] + b',"another":1}')
    if isinstance(quick, Refusal):
        assert quick == closely
        return
    assert isinstance(closely, Call)
    for route in (make_route([], engine=engine) for engine in ("llamacpp", "vllm", "other")):
        assert quick.refused_by(route) == closely.refused_by(route)
        sent = orjson.loads(b"".join(quick.pieces_for(route)))
        other = orjson.loads(b"".join(closely.pieces_for(route)))
        assert {**other, "another": 1} == {**sent, "another": 1}
        assert quick.answers >= 1
        assert quick.prompt_tokens_max(2048) >= 0


def numbers_in(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers_in(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, int | float) else []


@given(st.binary(max_size=40), st.sampled_from(ENDPOINTS), st.integers(0, 80))
def test_bytes_put_anywhere_into_a_body_are_read_alike(noise: bytes, endpoint, at: int):
    raw = body(endpoint, stream=True, stop=["a", "\u00e9"])
    raw = raw[:at] + noise + raw[at:]
    found = read_call(endpoint, raw)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        assert isinstance(found, Refusal)
        assert found.code is Code.INVALID_JSON
        return
    try:
        msgspec.convert(value, endpoint.form)
    except msgspec.ValidationError:
        assert isinstance(found, Refusal)
