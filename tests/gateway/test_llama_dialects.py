"""What llama.cpp does not do by itself, or does in another form, through the gateway."""

import base64
import json
import math
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import GatewayThread, data_of, make_route, make_table
from tests.support.llama import DEMO_WEIGHTS, llama
from tests.support.random_gguf import write_random_gguf
from tests.support.stub_control import StubControl
from tramontane.gateway.limits import Limits

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
FIM = "/v1/fim/completions"
HELLO = [{"role": "user", "content": "hello"}]
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "w", "parameters": PARAMETERS}}
    for name in ("get_weather", "get_time")
]

Stack = tuple[GatewayThread, StubControl]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`demo` is the demo model, `filler` has random weights and the tokens to fill in."""
    folder = tmp_path_factory.mktemp("dialects")
    filler = write_random_gguf(folder / "filler.gguf", fills_in=True)
    with llama(DEMO_WEIGHTS, "demo") as demo, llama(filler, "inner") as other:
        second = make_route(
            [other], model="filler", upstream_model="inner", deployment_id="dep_" + "b" * 20
        )
        table = make_table(make_route([demo]), second)
        with StubControl(table) as control, GatewayThread(folder, control.url, Limits()) as gateway:
            gateway.wait_ready()
            yield gateway, control


def ask(stack: Stack, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    gateway, control = stack
    with gateway.client() as client:
        reply = client.post(path, json={"model": "demo", "temperature": 0, **body})
    assert reply.status_code == status, reply.text
    found = reply.json()
    if status == 200:
        event = control.wait_event(reply.headers["x-request-id"])
        usage = found["usage"]
        assert event["prompt_tokens"] == usage["prompt_tokens"] > 0
        assert event["completion_tokens"] == usage.get("completion_tokens", 0)
    return found


def ask_stream(stack: Stack, path: str, **body: Any) -> list[dict[str, Any]]:
    gateway, _ = stack
    with gateway.client() as client:
        asked = {"model": "demo", "temperature": 0, "stream": True, **body}
        reply = client.post(path, json=asked)
    assert reply.status_code == 200, reply.text
    *data, done = data_of(reply.text)
    assert done == "[DONE]"
    chunks = [json.loads(item) for item in data]
    assert [bool(chunk.get("usage")) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all("prompt_progress" not in chunk for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["model"] for chunk in chunks} == {asked["model"]}
    return chunks


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(
        (choice["delta"].get("content") or "") if "delta" in choice else choice["text"]
        for choice in choices
        if choice["index"] == index
    )


def test_the_middle_is_filled_in_with_a_chats_answer(stack: Stack):
    body = {"model": "filler", "prompt": "def f(", "suffix": "): pass", "max_tokens": 6}
    whole = ask(stack, FIM, **body)
    assert (whole["object"], whole["model"]) == ("chat.completion", "filler")
    choice = whole["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    assert whole["usage"]["prompt_tokens"] == 16  # 13 characters and 3 tokens around them
    chunks = ask_stream(stack, FIM, **body)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] == 6


def test_a_suffix_of_a_completion_is_filled_in_too(stack: Stack):
    body = {"model": "filler", "prompt": "def f(", "suffix": "): pass", "max_tokens": 6}
    assert ask(stack, COMPLETIONS, **body)["object"] == "text_completion"
    assert ask_stream(stack, COMPLETIONS, **body)[0]["object"] == "text_completion"


def test_a_model_that_cannot_fill_in_says_so_but_goes_on_without_a_suffix(stack: Stack):
    refused = ask(stack, FIM, 400, prompt="a", suffix="b")
    assert refused["code"] == "unsupported_by_engine"
    assert "Infill is not supported" in refused["message"]
    plain = ask(stack, COMPLETIONS, prompt="What is", max_tokens=4)["choices"][0]["text"]
    for suffix in ({}, {"suffix": ""}, {"suffix": None}):
        chat = ask(stack, FIM, prompt="What is", max_tokens=4, **suffix)
        assert chat["choices"][0]["message"]["content"] == plain
    assert text_of(ask_stream(stack, FIM, prompt="What is", max_tokens=4)) == plain


def test_the_prompt_is_echoed(stack: Stack):
    plain = ask(stack, COMPLETIONS, prompt="What is", max_tokens=4)["choices"][0]["text"]
    body = {"prompt": "What is", "max_tokens": 4, "echo": True}
    assert ask(stack, COMPLETIONS, **body)["choices"][0]["text"] == "What is" + plain
    assert text_of(ask_stream(stack, COMPLETIONS, **body)) == "What is" + plain


def test_log_probabilities_of_completions_come_in_parallel_lists(stack: Stack):
    body = {"prompt": "What is", "max_tokens": 4, "logprobs": 2}
    choice = ask(stack, COMPLETIONS, **body)["choices"][0]
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"]
    assert found["text_offset"] == [
        len("".join(found["tokens"][:number])) for number in range(len(found["tokens"]))
    ]
    for token, value, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert len(top) == 2
        assert top[token] == value <= 0
    none = ask(stack, COMPLETIONS, **{**body, "logprobs": 0})["choices"][0]["logprobs"]
    assert none["token_logprobs"] == pytest.approx(found["token_logprobs"], abs=1e-3)
    assert none["top_logprobs"] is None
    chunks = ask_stream(stack, COMPLETIONS, **body)
    streamed = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert [item["text_offset"][0] for item in streamed] == found["text_offset"]


def test_log_probabilities_of_chats_serve_both_dialects(stack: Stack):
    body = {"messages": HELLO, "max_tokens": 2, "logprobs": True, "top_logprobs": 2}
    whole = ask(stack, CHAT, **body)["choices"][0]["logprobs"]["content"]
    chunks = ask_stream(stack, CHAT, **body)
    streamed = [
        entry
        for chunk in chunks
        for entry in (chunk["choices"][0].get("logprobs") or {"content": []})["content"]
    ]
    for entries in (whole, streamed):
        assert len(entries) == 2
        for entry in [*entries, *entries[0]["top_logprobs"]]:
            assert bytes(entry["bytes"]).decode() == entry["token"]
            assert isinstance(entry["token_id"], int)
            assert entry["logprob"] <= 0


def test_several_prompts_and_answers_are_counted_once(stack: Stack):
    one = ask(stack, COMPLETIONS, prompt="What is", max_tokens=3)
    two = ask(stack, COMPLETIONS, prompt=["What is", "Who"], n=2, max_tokens=3)
    assert [choice["index"] for choice in two["choices"]] == [0, 1, 2, 3]
    assert two["choices"][0]["text"] == two["choices"][1]["text"] == one["choices"][0]["text"]
    assert two["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"] + 1
    assert two["usage"]["completion_tokens"] == 12
    chunks = ask_stream(stack, COMPLETIONS, prompt=["What is", "Who"], n=2, max_tokens=3)
    assert [text_of(chunks, n) for n in range(4)] == [c["text"] for c in two["choices"]]


def test_answers_differ_with_their_seeds_and_repeat_with_the_same(stack: Stack):
    body = {"messages": HELLO, "n": 6, "temperature": 2.0, "max_tokens": 12, "seed": 5}
    first = [c["message"]["content"] for c in ask(stack, CHAT, **body)["choices"]]
    assert len(set(first)) > 1
    body["random_seed"] = body.pop("seed")
    assert [c["message"]["content"] for c in ask(stack, CHAT, **body)["choices"]] == first


def test_prompts_may_be_token_ids(stack: Stack):
    one = ask(stack, COMPLETIONS, prompt=[416, 300], max_tokens=3)
    assert (
        one["choices"][0]["text"]
        == (ask(stack, COMPLETIONS, prompt="What is", max_tokens=3)["choices"][0]["text"])
    )
    assert len(ask(stack, COMPLETIONS, prompt=[[416, 300], [1]], max_tokens=2)["choices"]) == 2
    assert ask(stack, COMPLETIONS, 400, prompt=[99_999_999])["code"] == "invalid_value"


@pytest.mark.parametrize(
    "choice", ["auto", "required", "any", {"type": "function", "function": {"name": "get_time"}}]
)
def test_a_streamed_tool_call_comes_whole(stack: Stack, choice: object):
    body = {"messages": WEATHER, "tools": TOOLS, "tool_choice": choice, "max_tokens": 100}
    whole = ask(stack, CHAT, **body)["choices"][0]
    assert whole["finish_reason"] == "tool_calls"
    chunks = ask_stream(stack, CHAT, **body)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    (calls,) = [delta["tool_calls"] for delta in deltas if delta.get("tool_calls")]
    (call,) = calls
    assert set(call) == {"index", "id", "type", "function"}
    assert json.loads(call["function"]["arguments"]).keys() == {"city"}
    named = isinstance(choice, dict)
    assert call["function"]["name"] == ("get_time" if named else "get_weather")
    assert call["function"] == whole["message"]["tool_calls"][0]["function"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_no_tool_is_called_when_none_may_be(stack: Stack):
    body = {"messages": WEATHER, "tools": TOOLS, "tool_choice": "none", "max_tokens": 40}
    message = ask(stack, CHAT, **body)["choices"][0]["message"]
    assert not message.get("tool_calls")
    assert "tool_call" not in message["content"]


def test_an_answer_goes_on_from_its_prefix_also_in_a_stream(stack: Stack):
    prefixed = [*HELLO, {"role": "assistant", "content": "The", "prefix": True}]
    whole = ask(stack, CHAT, messages=prefixed, max_tokens=4)["choices"][0]["message"]["content"]
    assert whole.startswith("The ")
    assert text_of(ask_stream(stack, CHAT, messages=prefixed, max_tokens=4)) == whole


def test_a_json_schema_holds(stack: Stack):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    found = ask(stack, CHAT, messages=HELLO, max_tokens=40, response_format=wanted)
    assert isinstance(json.loads(found["choices"][0]["message"]["content"])["a"], int)


def test_embeddings_are_cut_and_normalized(stack: Stack):
    full = ask(stack, "/v1/embeddings", input=["hello"])["data"][0]["embedding"]
    for name in ("dimensions", "output_dimension"):
        cut = ask(stack, "/v1/embeddings", input=["hello", "you"], **{name: 16})["data"]
        short = cut[0]["embedding"]
        assert [len(item["embedding"]) for item in cut] == [16, 16]
        assert math.hypot(*short) == pytest.approx(1)
        scale = short[0] / full[0]
        assert short == pytest.approx([number * scale for number in full[:16]], abs=1e-6)
    packed = ask(stack, "/v1/embeddings", input="hello", dimensions=16, encoding_format="base64")
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack("<16f", raw) == pytest.approx(short, abs=1e-5)
    assert ask(stack, "/v1/embeddings", 400, input="x", dimensions=257)["param"] == "dimensions"
    long = ask(stack, "/v1/embeddings", 400, input="word " * 2_000)
    assert (long["code"], long["param"]) == ("context_length_exceeded", "input")
    tokens = ask(stack, "/v1/embeddings", input=[[416, 300], [1]])
    assert len(tokens["data"]) == 2


def test_a_cut_request_has_its_prompts_tokens(stack: Stack):
    gateway, control = stack
    body = {"model": "demo", "messages": HELLO, "stream": True, "max_tokens": 400}
    whole = ask(stack, CHAT, messages=HELLO, max_tokens=1)
    with (
        gateway.client() as client,
        client.stream("POST", CHAT, json={**body, "ignore_eos": True}) as reply,
    ):
        for _ in reply.iter_lines():
            break
    event = control.wait_event(reply.headers["x-request-id"])
    assert (event["outcome"], event["token_source"]) == ("cut", "counted")
    assert event["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert 0 < event["completion_tokens"] < 400
