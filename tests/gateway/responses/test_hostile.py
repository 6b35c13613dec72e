"""Whatever a client or an engine sends: an answer or a refusal, never an exception."""

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.responses.asking import NOW_S, ROUTE, TOKEN, WEATHER, asked
from tests.support.gateway import GatewayThread
from tramontane.domain.refusal import Refusal
from tramontane.gateway.calls.responses.call import ResponsesCall, read_responses_call
from tramontane.gateway.calls.responses.form import Asked
from tramontane.gateway.calls.stream import EventTooLargeError
from tramontane.gateway.calls.usage import MalformedReplyError

pytestmark = pytest.mark.slow

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
WORDS = st.sampled_from(
    [
        "message",
        "function_call",
        "function_call_output",
        "reasoning",
        "item_reference",
        "input_text",
        "output_text",
        "input_image",
        "input_file",
        "refusal",
        "reasoning_text",
        "summary_text",
        "user",
        "assistant",
        "system",
        "developer",
        "function",
        "allowed_tools",
        "required",
        "auto",
        "none",
        "json_schema",
        "json_object",
        "text",
        "weather",
        "low",
    ]
)
KEYS = st.sampled_from(
    [
        "type",
        "role",
        "content",
        "id",
        "call_id",
        "name",
        "arguments",
        "output",
        "summary",
        "text",
        "refusal",
        "image_url",
        "detail",
        "status",
        "tools",
        "mode",
        "parameters",
        "strict",
        "format",
        "schema",
        "verbosity",
        "effort",
        "delta",
        "tool_calls",
        "index",
        "function",
        "finish_reason",
        "message",
        "logprobs",
        "token",
        "usage",
        "prompt_tokens",
        "choices",
        "error",
    ]
)
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)
FIELDS = st.sampled_from(Asked.__struct_fields__)
BODIES = st.dictionaries(FIELDS, VALUES, max_size=6)


@settings(max_examples=200, deadline=None)
@given(BODIES, st.booleans())
def test_any_body_is_served_or_refused(body: dict[str, Any], may_store: bool) -> None:
    full = {"model": "demo", "input": "hello"} | body
    call = read_responses_call(orjson.dumps(full), TOKEN, may_store=may_store, now_s=lambda: NOW_S)
    if isinstance(call, Refusal):
        assert call.message
        return
    refusal = call.compose([]) or call.refused_by(ROUTE)
    if refusal is None:
        sent = orjson.loads(b"".join(call.pieces_for(ROUTE)))
        assert sent["messages"]
        assert call.completion_tokens_max(ROUTE.context_length) <= ROUTE.context_length
        orjson.dumps(call.skeleton.response("queued"))


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_any_items_are_served_or_refused(items: list[Any]) -> None:
    body = orjson.dumps({"model": "demo", "input": items})
    call = read_responses_call(body, TOKEN, may_store=True, now_s=lambda: NOW_S)
    if isinstance(call, ResponsesCall):
        call.compose(call.items)
        assert len({item["id"] for item in call.items}) == len(call.items)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    call = read_responses_call(data, TOKEN, may_store=False, now_s=lambda: NOW_S)
    assert isinstance(call, Refusal)


CHUNKS = st.lists(VALUES | st.dictionaries(KEYS, VALUES, max_size=4), max_size=6)


@settings(max_examples=150, deadline=None)
@given(CHUNKS, st.integers(1, 50), st.booleans())
def test_any_stream_ends_in_events(chunks: list[Any], step: int, is_choice: bool) -> None:
    watch = asked(stream=True, tools=[WEATHER]).watch(100_000)
    data = b""
    for value in chunks:
        chunk = {"choices": [{"index": 0, "delta": value}]} if is_choice else value
        data += b"data: " + orjson.dumps(chunk) + b"\n\n"
    out = b""
    for at in range(0, len(data), step):
        if watch.error is None:
            out += watch.feed(data[at : at + step])
    out += watch.end()
    if watch.response is None:
        error = {"code": "x", "message": "y", "param": None}
        out += watch.failure(error, "demo")
    out += watch.closing(is_stored=False)
    events = [json.loads(frame.split("\ndata: ")[1]) for frame in out.decode().split("\n\n")[:-1]]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    opened = [e["output_index"] for e in events if e["type"] == "response.output_item.added"]
    closed = [e["output_index"] for e in events if e["type"] == "response.output_item.done"]
    assert sorted(opened) == sorted(closed) == list(range(len(opened)))
    assert len(events[-1]["response"]["output"]) == len(opened)


@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES, st.binary(max_size=40))
def test_any_whole_reply_is_read_or_malformed(message: Any, reason: Any, raw: bytes) -> None:
    choice = {"message": message, "finish_reason": reason}
    for data in (raw, orjson.dumps({"choices": [choice], "usage": message})):
        with contextlib.suppress(MalformedReplyError):
            response, _ = asked().read_response(data)
            orjson.dumps(response)


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_any_bytes_of_a_stream_are_survived(pieces: list[bytes]) -> None:
    watch = asked(stream=True).watch(64)
    with contextlib.suppress(EventTooLargeError):
        for piece in pieces:
            if not watch.is_done and watch.error is None:
                watch.feed(piece)
        watch.end()


NESTED = b'{"model":"demo","input":' + b"[" * 900 + b"]" * 900 + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"model":"demo","input":"\\ud800"}',
        b'{"model":"demo","input":NaN}',
        NESTED,
        b'{"model":"demo","input":"x","tools":' + b"[" * 2_000,
        b'{"model":"demo","input":"' + b"x" * 400_000 + b'"}',
        b'{"model":"demo","input":' + b'{"role":"user","content":""},' * 5_000,
        b'{"model":"demo","input":"x","stream":true,"user":' + b'{"a":' * 300 + b"1" + b"}" * 301,
        b'{"model":"demo","input":"x","metadata":{"a":{}}}',
        b'{"model":"demo","input":"x","previous_response_id":"\\u0000\\n../x"}',
        b'{"model":"demo","input":"x","max_output_tokens":1e999}',
        b'{"model":"' + b"m" * 100_000 + b'","input":"x"}',
    ],
    ids=range(14),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/responses", "/mistral/v1/responses/input_tokens"])
def test_a_hostile_body_is_the_clients_fault(
    gateway: GatewayThread, path: str, body: bytes
) -> None:
    with gateway.client() as client:
        reply = client.post(path, content=body)
        assert 400 <= reply.status_code < 500, reply.text
        assert reply.json()["error"]["message"]
        assert client.get("/health").status_code == 200
