"""Bodies made to hurt whoever reads them: refused by name, cheaply, and never echoed."""

import json
import time

import pytest

from tests.support.gateway import GatewayThread, chat_body, make_route
from tests.support.stub_engine import StubEngine
from tramontane.domain.refusal import Code, Refusal
from tramontane.gateway.calls import bounds
from tramontane.gateway.calls.bodies import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    FIM,
    Call,
    Endpoint,
    read_call,
)
from tramontane.gateway.calls.responses.call import read_responses_call, without_answer
from tramontane.gateway.calls.validation import COMMAS_MAX, DEPTH_MAX, KEYS_MAX, OPENED_MAX

START = {
    "chat": b'{"model":"demo","messages":[{"role":"user","content":"x"}],',
    "completions": b'{"model":"demo","prompt":"x",',
    "fim": b'{"model":"demo","prompt":"x",',
    "embeddings": b'{"model":"demo","input":"x",',
    "responses": b'{"model":"demo","input":"x",',
}
ENDPOINTS = {"chat": CHAT, "completions": COMPLETIONS, "fim": FIM, "embeddings": EMBEDDINGS}
PATHS = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "fim": "/fim/completions",
    "embeddings": "/embeddings",
    "responses": "/responses",
}
MEGABYTES = 10_000_000


def read(kind: str, raw: bytes, **how: bool) -> object:
    if kind == "responses":
        return read_responses_call(raw, "t", may_store=False, now_s=lambda: 0, **how)
    return read_call(ENDPOINTS[kind], raw, **how)


def nested(depth: int, opener: bytes = b"[", inner: bytes = b"1", closer: bytes = b"]") -> bytes:
    return opener * depth + inner + closer * depth


@pytest.mark.parametrize("kind", START)
@pytest.mark.parametrize("field", [b'"unknown":', b'"metadata":', b'"user":'])
@pytest.mark.parametrize("depth", [DEPTH_MAX + 1, 256, 300, 1000])
@pytest.mark.parametrize("shape", ["lists", "objects"])
def test_what_could_not_be_written_again_is_refused(
    kind: str, field: bytes, depth: int, shape: str
) -> None:
    held = nested(depth) if shape == "lists" else nested(depth, b'{"a":', b"1", b"}")
    refusal = read(kind, START[kind] + field + held + b"}")
    assert isinstance(refusal, Refusal)
    assert refusal.code is Code.INVALID_JSON
    assert "deep" in refusal.message


@pytest.mark.parametrize(
    "deep",
    [
        {"tools": lambda held: [{"type": "function", "function": {"name": "f", "x": held}}]},
        {"messages": lambda held: [{"role": "user", "content": [{"type": "text", "x": held}]}]},
        {"response_format": lambda held: {"type": "json_schema", "json_schema": {"schema": held}}},
    ],
)
def test_a_field_of_the_form_is_looked_into_as_well(deep: dict) -> None:
    for depth, is_sound in ((DEPTH_MAX - 20, True), (DEPTH_MAX + 1, False)):
        held = json.loads(nested(depth, b'{"a":', b"1", b"}"))
        body = chat_body(**{name: made(held) for name, made in deep.items()})
        found = read_call(CHAT, json.dumps(body).encode())
        assert isinstance(found, Call) is is_sound
        if isinstance(found, Call):  # and it can be written again
            route = make_route([], model="demo", upstream_model="other")
            assert json.loads(b"".join(found.pieces_for(route)))["model"] == "other"


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_depth_through_a_gateway_that_rewrites(
    engine: StubEngine, gateway: GatewayThread, path: str
) -> None:
    kind = next(name for name, known in PATHS.items() if known == path)
    body = START[kind] + b'"seed":1,"random_seed":1,"stream":true,"x":' + nested(300) + b"}"
    with gateway.client() as client:
        for mount, status in (("/v1", 400), ("/mistral/v1", 422)):
            reply = client.post(mount + path, content=body)
            assert reply.status_code == status, reply.text
            assert reply.json()["error"]["code"] == "invalid_json"
    assert engine.ids == []


@pytest.mark.parametrize(
    "held",
    [
        b"[" + b"[]," * (OPENED_MAX + 1) + b"1]",
        b"[" + b"{}," * (MEGABYTES // 3) + b"1]",
        b"[" + b"1," * (COMMAS_MAX + 1) + b"1]",
        b"{" + b",".join(b'"%d":1' % number for number in range(KEYS_MAX + 1)) + b"}",
    ],
    ids=["lists", "objects", "numbers", "keys"],
)
@pytest.mark.parametrize("kind", START)
def test_more_values_than_anyone_reads_are_refused_unread(kind: str, held: bytes) -> None:
    raw = START[kind] + b'"x":' + held.ljust(2 * 1024 * 1024) + b"}"
    refusal = read(kind, raw)
    assert isinstance(refusal, Refusal)
    assert refusal.code is Code.BODY_TOO_LARGE
    assert without_answer(raw) is raw


def test_ten_megabytes_of_text_are_a_prompt() -> None:
    words = "Some text, which has a comma in it now and then. " * (MEGABYTES // 48)
    assert isinstance(read_call(CHAT, json.dumps(chat_body(user=words)).encode()), Call)


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (EMBEDDINGS, {"input": "x", "encoding_format": "h" * MEGABYTES}),
        (EMBEDDINGS, {"input": "x", "encoding_format": " - at `$.model`" * 100_000}),
        (EMBEDDINGS, {"input": "x", "dimensions": "9" * MEGABYTES}),
        (CHAT, {"messages": [{"role": "user"}], "n": "9" * MEGABYTES}),
        (CHAT, {"messages": [{"role": "user"}], "tool_choice": "x" * MEGABYTES}),
    ],
)
def test_a_wrong_value_is_not_sent_back_whole(endpoint: Endpoint, fields: dict) -> None:
    raw = json.dumps({"model": "demo", **fields}).encode()
    before_s = time.process_time()
    refusal = read_call(endpoint, raw)
    assert time.process_time() - before_s < 1.0  # it takes a twentieth of that
    assert isinstance(refusal, Refusal)
    assert refusal.param == list(fields)[-1]
    assert len(refusal.message) < 500


def test_an_unknown_name_is_not_sent_back_whole() -> None:
    for kind, start in START.items():
        refusal = read(kind, start + b'"' + b"a" * 100_000 + b'":1}', is_strict=True)
        assert isinstance(refusal, Refusal)
        assert refusal.param == "a" * 64
        assert len(refusal.message) < 300


def test_tools_are_bounded() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for count, is_sound in ((bounds.TOOLS_MAX, True), (bounds.TOOLS_MAX + 1, False)):
        found = read_call(CHAT, json.dumps(chat_body(tools=[tool] * count)).encode())
        assert isinstance(found, Call) is is_sound
        assert isinstance(found, Call) or found.param == "tools"


PATTERN = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^((a*)*)*$"}}}


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("json_schema", PATTERN),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": PATTERN}}),
    ],
)
def test_a_pattern_that_hangs_the_engine_is_found_in_every_field(
    endpoint: Endpoint, name: str, held: dict
) -> None:
    prompt = {"messages": [{"role": "user"}]} if endpoint is CHAT else {"prompt": "x"}
    call = read_call(endpoint, json.dumps({"model": "demo", **prompt, name: held}).encode())
    assert isinstance(call, Call)
    refusal = call.refused_by(make_route([], engine="llamacpp"))
    assert refusal is not None
    assert (refusal.code, refusal.param) == (Code.UNSUPPORTED_BY_ENGINE, name)


def test_what_fim_does_not_have_never_reaches_an_engine() -> None:
    """No bound of a completion's fields is looked at there."""
    foreign = {"dry_penalty_last_n": 2_000_000_000, "n": 100_000, "n_predict": -1, "n_probs": 10**9}
    body = {"model": "demo", "prompt": "x", "max_tokens": 5, "random_seed": 7, **foreign}
    for suffix in ({}, {"suffix": "y"}):
        call = read_call(FIM, json.dumps(body | suffix).encode())
        assert isinstance(call, Call)
        assert call.refused_by(make_route([])) is None
        sent = json.loads(b"".join(call.pieces_for(make_route([]))))
        assert not foreign.keys() & sent.keys() - {"n_predict"}
        assert sent.get("n_predict", sent.get("max_tokens")) == 5
        assert sent["seed"] == 7


@pytest.mark.parametrize("name", ["kv_transfer_params", "logits_processors", "priority"])
def test_fields_that_reach_beyond_the_request_are_refused(name: str) -> None:
    for kind, start in START.items():
        refusal = read(kind, start + b'"%b":1}' % name.encode())
        assert isinstance(refusal, Refusal)
        assert refusal.param == name


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, 2048),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 900}, 900),
        ({"max_tokens": 900, "max_completion_tokens": 1}, 900),
        ({"max_tokens": 1, "n_predict": -1}, 2048),
        ({"max_tokens": 1, "n_predict": 700}, 700),
        ({"max_tokens": 1, "n_predict": 0}, 1),
        ({"max_tokens": 1, "n_predict": 10**6}, 2048),
        ({"max_tokens": 5, "n": 128}, 640),
        ({"n": 2, "n_cmpl": 128, "max_tokens": 2**31 - 1}, 128 * 2048),
    ],
)
def test_the_most_that_a_request_can_generate_is_reserved(fields: dict, most: int) -> None:
    """Whichever name the engine reads: who reserves a token must not get a thousand."""
    call = read_call(CHAT, json.dumps(chat_body(**fields)).encode())
    assert isinstance(call, Call)
    assert call.completion_tokens_max(2048) == most


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest", "https://a.example/x.png", "file:///etc/passwd", "//a/b"],
)
@pytest.mark.parametrize("is_object", [True, False])
def test_an_engine_is_not_sent_to_fetch_anything(url: str, is_object: bool) -> None:
    part = {"type": "image_url", "image_url": {"url": url} if is_object else url}
    message = {"role": "user", "content": [{"type": "text", "text": "look"}, part]}
    refusal = read_call(CHAT, json.dumps({"model": "m", "messages": [message]}).encode())
    assert isinstance(refusal, Refusal)
    assert refusal.code is Code.UNSUPPORTED_BY_ENGINE
    assert url not in refusal.message


def test_an_image_in_the_request_itself_is_the_engines_matter() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    message = {"role": "user", "content": [part]}
    call = read_call(CHAT, json.dumps({"model": "m", "messages": [message]}).encode())
    assert isinstance(call, Call)
    assert call.refused_by(make_route([], engine="vllm")) is None
