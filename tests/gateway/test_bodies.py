"""Request bodies: what is refused by name, and what reaches the engine."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.gateway import make_route
from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.routing import Route
from tramontane.gateway.calls import bounds
from tramontane.gateway.calls.bodies import CHAT, COMPLETIONS, EMBEDDINGS, Call, read_call

HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}


def route_to(upstream_model: str, **changes: Any) -> Route:
    return make_route([], upstream_model=upstream_model, **changes)


def chat(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": HELLO, **fields}).encode()


def sent(raw: bytes, upstream: str = "m", endpoint=CHAT) -> dict:
    call = read_call(endpoint, raw)
    assert isinstance(call, Call), call
    return json.loads(b"".join(call.pieces_for(route_to(upstream))))


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"", Code.INVALID_JSON, None),
        (b"hello", Code.INVALID_JSON, None),
        (b"[]", Code.INVALID_JSON, None),
        (b'"x"', Code.INVALID_JSON, None),
        (b"null", Code.INVALID_JSON, None),
        (b'{"model":"m"', Code.INVALID_JSON, None),
        (b'{"model":"m"} x', Code.INVALID_JSON, None),
        (b'{"model":"\xff"}', Code.INVALID_JSON, None),
        (b'{"model":"\\ud800"}', Code.INVALID_JSON, None),
        (chat(temperature=float("nan")), Code.INVALID_JSON, None),
        (chat(x=float("inf")), Code.INVALID_JSON, None),
        (b'{"x":1e999}', Code.INVALID_JSON, None),
        (b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}", Code.INVALID_JSON, None),
        (b'{"x":' * 5000 + b"1" + b"}" * 5000, Code.INVALID_JSON, None),
        (b"{}", Code.MISSING_REQUIRED_PARAMETER, "model"),
        (b'{"model":"m"}', Code.MISSING_REQUIRED_PARAMETER, "messages"),
        (chat(model=5), Code.INVALID_VALUE, "model"),
        (chat(model=None), Code.INVALID_VALUE, "model"),
        (chat(messages=[]), Code.INVALID_VALUE, "messages"),
        (chat(messages="hi"), Code.INVALID_VALUE, "messages"),
        (chat(messages=["hi"]), Code.INVALID_VALUE, "messages[0]"),
        (
            chat(messages=[*HELLO, {"content": "x"}]),
            Code.MISSING_REQUIRED_PARAMETER,
            "messages[1].role",
        ),
        (chat(messages=[{"role": 1}]), Code.INVALID_VALUE, "messages[0].role"),
        (chat(stream="yes"), Code.INVALID_VALUE, "stream"),
        (chat(stream_options=[]), Code.INVALID_VALUE, "stream_options"),
        (chat(max_tokens=0), Code.INVALID_VALUE, "max_tokens"),
        (chat(max_tokens="9"), Code.INVALID_VALUE, "max_tokens"),
        (chat(max_tokens=1.5), Code.INVALID_VALUE, "max_tokens"),
        (chat(max_completion_tokens=-1), Code.INVALID_VALUE, "max_completion_tokens"),
        (chat(temperature="hot"), Code.INVALID_VALUE, "temperature"),
        (chat(temperature=-1), Code.INVALID_VALUE, "temperature"),
        (chat(n=0), Code.INVALID_VALUE, "n"),
        (chat(stop=5), Code.INVALID_VALUE, "stop"),
        (chat(tools="x"), Code.INVALID_VALUE, "tools"),
    ],
)
def test_a_bad_chat_body_is_refused_by_name(raw: bytes, code: Code, param: str | None):
    refusal = read_call(CHAT, raw)
    assert isinstance(refusal, Refusal), refusal
    assert (refusal.code, refusal.param) == (code, param)
    assert "`" not in refusal.message
    assert len(refusal.message) < 300


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b'{"model":"m"}', "prompt"),
        (b'{"model":"m","prompt":[]}', "prompt"),
        (b'{"model":"m","prompt":5}', "prompt"),
    ],
)
def test_a_completion_needs_a_prompt(raw: bytes, param: str):
    refusal = read_call(COMPLETIONS, raw)
    assert isinstance(refusal, Refusal)
    assert refusal.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 1}, "input"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_an_embedding_needs_an_input(fields: dict, param: str):
    refusal = read_call(EMBEDDINGS, json.dumps({"model": "m", **fields}).encode())
    assert isinstance(refusal, Refusal)
    assert refusal.param == param


def test_a_body_that_needs_no_change_goes_on_byte_for_byte():
    raw = b'  { "messages" : [{"role":"user","content":"h\\u00e9"}],"model":"m", "top_k": 4 }\n'
    call = read_call(CHAT, raw)
    assert isinstance(call, Call)
    assert b"".join(call.pieces_for(route_to("m"))) == raw


def test_a_stream_asks_the_engine_for_usage():
    assert sent(chat(stream=True))["stream_options"] == {"include_usage": True}
    assert sent(chat(stream=True, stream_options=None))["stream_options"] == {"include_usage": True}
    asked = sent(chat(stream=True, stream_options={"include_usage": False, "x": 1}))
    assert asked["stream_options"] == {"include_usage": True, "x": 1}
    assert "stream_options" not in sent(chat())


def test_the_engine_is_told_its_own_name_for_the_model():
    assert sent(chat(), upstream="other")["model"] == "other"
    assert sent(chat(stream=True), upstream="other")["stream_options"] == {"include_usage": True}


def test_mistral_words_become_the_engines():
    found = sent(chat(random_seed=7, tool_choice="any", tools=[WEATHER]))
    assert found["seed"] == 7
    assert "random_seed" not in found
    assert found["tool_choice"] == "required"
    assert sent(chat(random_seed=7, seed=8))["seed"] == 8
    assert sent(chat(random_seed=None))["random_seed"] is None


def test_explicit_nulls_and_unknown_fields_are_let_through():
    found = sent(chat(stop=None, max_tokens=None, stream=None, tools=None, something=True))
    assert found["something"] is True


@pytest.mark.parametrize(
    "fields",
    [
        {"dry_penalty_last_n": 2_000_000_000, "dry_multiplier": 1},
        {"dry_penalty_last_n": 2e9},
        {"repeat_last_n": 300_000_000},
        {"n_prev": 300_000_000},
        {"top_logprobs": 100_000, "logprobs": True},
        {"logprobs": 100_000},
        {"n_probs": 100_000},
        {"samplers": "k" * 33},
        {"samplers": ["top_k"] * 33},
        {"logit_bias": [[0, 1]] * 1_025},
        {"stop": ["x"] * 65},
        {"dry_sequence_breakers": ["x"] * 65},
        {"n": 129},
        {"n_cmpl": 129},
        {"max_tokens": 2**32 + 1},
        {"n_predict": 2**32 - 1},
        {"grammar": 'root ::= "a"'},
        {"grammar_triggers": []},
        {"id_slot": 0},
        {"lora": []},
    ],
)
def test_what_could_hurt_others_on_the_engine_is_refused_by_name(fields: dict):
    refusal = read_call(CHAT, chat(**fields))
    assert isinstance(refusal, Refusal)
    assert refusal.code is Code.INVALID_VALUE
    assert refusal.param == next(iter(fields))
    # The last of two equal keys counts, here as for the engine.
    name, value = next(iter(fields.items()))
    doubled = chat()[:-1] + f',"{name}":null,"{name}":{json.dumps(value)}}}'.encode()
    assert isinstance(read_call(CHAT, doubled), Refusal)


def test_usual_sampling_fields_reach_the_engine():
    usual = {
        "logprobs": True,
        "top_logprobs": 20,
        "logit_bias": {"50256": -100},
        "stop": ["a", "b"],
        "n": 4,
        "n_predict": -1,
        "repeat_last_n": -1,
        "dry_penalty_last_n": 4096,
        "samplers": ["top_k", "temperature"],
        "grammar": None,
        "json_schema": {"type": "object"},
    }
    assert usual.items() <= sent(chat(**usual)).items()


def test_one_request_holds_a_bounded_number_of_texts():
    def asks(endpoint, **fields: object):
        return read_call(endpoint, json.dumps({"model": "m", **fields}).encode())

    assert isinstance(asks(COMPLETIONS, prompt=["x"] * 129), Refusal)
    assert isinstance(asks(COMPLETIONS, prompt=["x"] * 128, logprobs=5), Call)
    assert isinstance(asks(COMPLETIONS, prompt=[7] * 3000), Call)
    assert isinstance(asks(EMBEDDINGS, input=["x"] * 2049), Refusal)
    assert isinstance(asks(EMBEDDINGS, input=[[1, 2]] * 2049), Refusal)
    assert isinstance(asks(EMBEDDINGS, input=[7] * 3000), Call)


@pytest.mark.parametrize(
    ("endpoint", "fields", "answers"),
    [
        (CHAT, {"messages": HELLO}, 1),
        (CHAT, {"messages": HELLO, "n": 3}, 3),
        (CHAT, {"messages": HELLO, "n": 1, "n_cmpl": 4}, 4),
        (COMPLETIONS, {"prompt": "x"}, 1),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, 1),
        (COMPLETIONS, {"prompt": ["x", "y"], "n": 2}, 4),
        (COMPLETIONS, {"prompt": [[1, 2], [3]]}, 2),
        (COMPLETIONS, {"prompt": "x", "best_of": 3}, 3),
        (EMBEDDINGS, {"input": ["x", "y"]}, 1),
    ],
)
def test_several_answers_have_attempts_of_their_own_where_the_engine_counts_one(
    endpoint, fields, answers: int
):
    call = read_call(endpoint, json.dumps({"model": "m", **fields}).encode())
    assert isinstance(call, Call)
    assert call.answers == answers
    for engine in ("vllm", "llamacpp"):
        refusal = call.refused_by(make_route([], engine=engine))
        is_best_of = "best_of" in fields and engine == "llamacpp"
        assert (refusal is not None and refusal.param == "best_of") is is_best_of
        assert call.is_split is (answers > 1 and engine == "llamacpp")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=6), st.booleans())
def test_whatever_else_a_body_holds_reaches_the_engine(extra: dict, stream: bool):
    known = {*CHAT.form.__struct_fields__, *bounds.REFUSED}
    extra = {key: value for key, value in extra.items() if key not in known}
    for upstream in ("m", "other"):
        found = sent(
            json.dumps({**extra, "model": "m", "messages": HELLO, "stream": stream}).encode(),
            upstream,
        )
        assert {key: found[key] for key in extra} == extra


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange_to_refuse(raw: bytes):
    for endpoint in (CHAT, COMPLETIONS, EMBEDDINGS):
        assert isinstance(read_call(endpoint, raw), Refusal)


def schema_body(pattern: str) -> bytes:
    schema = {"type": "object", "properties": {"x": {"type": "string", "pattern": pattern}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    messages = [{"role": "user", "content": "Hi"}]
    return json.dumps({"model": "m", "messages": messages, "response_format": form}).encode()


@pytest.mark.parametrize("pattern", ["^((b|bb)*|[a-z]*)*$", "(ab){2,}", "a*b*c*d*e*"])
def test_a_pattern_that_could_hang_the_engine_is_refused(pattern: str) -> None:
    call = read_call(CHAT, schema_body(pattern))
    assert isinstance(call, Call)
    refusal = call.refused_by(route_to("m", engine="llamacpp", context_length=2048))
    assert refusal is not None
    assert (refusal.code, refusal.param) == (Code.UNSUPPORTED_BY_ENGINE, "response_format")
    assert call.refused_by(route_to("m", engine="vllm", context_length=2048)) is None


@pytest.mark.parametrize(
    "pattern", ["^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "^(yes|no)$", "[a-z]+@[a-z.]+"]
)
def test_a_plain_pattern_passes(pattern: str) -> None:
    call = read_call(CHAT, schema_body(pattern))
    assert isinstance(call, Call)
    assert call.refused_by(route_to("m", engine="llamacpp", context_length=2048)) is None


def test_a_prompt_beyond_any_context_is_refused_before_it_is_tokenized() -> None:
    messages = [{"role": "user", "content": "word " * 60_000}]
    call = read_call(CHAT, json.dumps({"model": "m", "messages": messages}).encode())
    assert isinstance(call, Call)
    refusal = call.refused_by(route_to("m", engine="llamacpp", context_length=2048))
    assert refusal is not None
    assert refusal.code is Code.CONTEXT_LENGTH_EXCEEDED
    assert "expected at most 262144 bytes" in refusal.message
    assert call.refused_by(route_to("m", engine="llamacpp", context_length=131_072)) is None
    assert call.refused_by(route_to("m", engine="vllm", context_length=2048)) is None
