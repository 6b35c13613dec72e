"""From an engine's answer to a response, whole and as a stream of named events."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.responses import engine_replies as engine
from tests.gateway.responses.asking import NOW_S, TOKEN, WEATHER, asked
from tests.support.golden import assert_golden
from tramontane.gateway.calls.responses.events import ResponseStream
from tramontane.gateway.calls.stream import EventTooLargeError
from tramontane.gateway.calls.usage import MalformedReplyError

GOLDEN = Path(__file__).parents[2] / "golden" / "responses"
EVENT_MAX = 10_000


def watched(data: bytes, step: int = 0, **fields: Any) -> tuple[ResponseStream, bytes]:
    """Return the stream's state and all that a client gets of ``data``."""
    watch = asked(stream=True, **fields).watch(EVENT_MAX)
    step = step or len(data)
    pieces = [watch.feed(data[at : at + step]) for at in range(0, len(data), step)]
    rest = watch.end()
    last = watch.closing(is_stored=False) if watch.response is not None else b""
    return watch, b"".join([*pieces, rest, last])


def events_of(out: bytes) -> list[dict[str, Any]]:
    """Return the data of each event; its name stands before it and in it."""
    found: list[dict[str, Any]] = []
    for frame in out.decode().split("\n\n")[:-1]:
        name, data = frame.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    assert [value["sequence_number"] for value in found] == list(range(len(found)))
    return found


SEQUENCES = {
    "text": engine.text_stream(["The ", "wind."]),
    "cut_short": engine.text_stream(["The "], "length"),
    "empty": engine.text_stream([]),
    "reasoning_text_and_calls": b"".join(
        [
            engine.chunk({"role": "assistant"}),
            engine.chunk({"reasoning_content": "Two "}),
            engine.chunk({"reasoning": "cities."}),
            engine.chunk({"content": "I look."}),
            engine.chunk(engine.call_piece(0, "", "weather", "c1")),
            engine.chunk(engine.call_piece(0, '{"city":')),
            engine.chunk(engine.call_piece(0, '"Nice"}')),
            engine.chunk(engine.call_piece(1, '{"city":"Lyon"}', "weather", "c2")),
            engine.chunk({}, "tool_calls"),
            engine.usage_chunk(),
            engine.DONE,
        ]
    ),
    "log_probs": b"".join(
        [
            engine.chunk(
                {"content": "é"},
                logprobs={
                    "content": [
                        {
                            "token": "é",
                            "logprob": -0.5,
                            "bytes": [195, 169],
                            "top_logprobs": [{"token": "e", "logprob": -1.5, "bytes": [101]}],
                        }
                    ]
                },
            ),
            engine.chunk({}, "stop"),
            engine.usage_chunk(),
            engine.DONE,
        ]
    ),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_events_of_a_stream(name: str) -> None:
    _, out = watched(SEQUENCES[name], tools=[WEATHER])
    lines = [json.dumps(event, ensure_ascii=False) for event in events_of(out)]
    assert_golden(GOLDEN / f"{name}.jsonl", "\n".join(lines) + "\n")


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("step", [1, 7, 64])
def test_a_stream_in_pieces_gives_the_same_events(name: str, step: int) -> None:
    assert watched(SEQUENCES[name], step)[1] == watched(SEQUENCES[name])[1]


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_items_that_were_streamed_are_the_response(name: str) -> None:
    watch, out = watched(SEQUENCES[name])
    events = events_of(out)
    last = events[-1]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert last["response"]["output"] == done
    assert last["response"] == watch.response
    text = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    parts = [p["text"] for i in done if i["type"] == "message" for p in i["content"]]
    assert text == "".join(parts)
    assert watch.tokens == (11, 5, 3)


def test_tokens_are_counted_as_they_pass() -> None:
    watch, _ = watched(SEQUENCES["text"])
    assert watch.counted == 2
    assert watch.is_done
    assert watch.has_finish


def test_an_engine_that_leaves_done_out_ends_all_the_same() -> None:
    watch, out = watched(SEQUENCES["text"].removesuffix(engine.DONE))
    assert events_of(out)[-1]["type"] == "response.completed"
    assert watch.tail == b""


def test_a_failure_midway_is_an_error_and_a_failed_response() -> None:
    watch = asked(stream=True).watch(EVENT_MAX)
    out = watch.feed(engine.chunk({"content": "half"}))
    error = {"code": "upstream_error", "message": "it broke", "type": "server_error", "param": None}
    out += watch.failure(error, "demo") + watch.closing(is_stored=False)
    events = events_of(out)
    assert [event["type"] for event in events[-3:]] == [
        "response.output_item.done",
        "error",
        "response.failed",
    ]
    assert events[-3]["item"]["status"] == "incomplete"
    assert "error" not in events[-2]  # OpenAI's client would take it for a broken stream
    response = events[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "it broke"}
    assert response["output"][0]["content"][0]["text"] == "half"


def test_an_engines_error_event_is_seen() -> None:
    watch = asked(stream=True).watch(EVENT_MAX)
    watch.feed(engine.event({"error": {"message": "out of memory"}}))
    assert watch.error == "out of memory"


def test_an_event_without_an_end_is_given_up() -> None:
    watch = asked(stream=True).watch(EVENT_MAX)
    with pytest.raises(EventTooLargeError):
        watch.feed(b"data: " + b"x" * (EVENT_MAX + 1))


def test_comments_and_unknown_chunks_say_nothing() -> None:
    watch = asked(stream=True).watch(EVENT_MAX)
    assert watch.feed(b": alive\n\ndata: 7\n\ndata: nonsense\n\n") == b""


# Whole replies.


def response_of(data: bytes, **fields: Any) -> dict[str, Any]:
    return asked(**fields).read_response(data)[0]


def test_a_whole_answer() -> None:
    call = asked(metadata={"a": "b"}, tools=[WEATHER], instructions="Be brief.", temperature=0)
    response, tokens = call.read_response(engine.whole({"role": "assistant", "content": "wind"}))
    assert tokens == (11, 5, 3)
    assert_golden(GOLDEN / "whole.json", json.dumps(response, indent=2) + "\n")
    assert response["id"] == f"resp_{TOKEN}"
    assert response["created_at"] == NOW_S


def test_a_whole_answer_of_calls_has_no_message() -> None:
    calls = [
        {"id": "c1", "function": {"name": "weather", "arguments": "{}"}},
        {"function": {"name": "weather", "arguments": "{}"}},
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    output = response_of(engine.whole(message, "tool_calls"))["output"]
    assert [item["type"] for item in output] == ["function_call", "function_call"]
    assert output[0]["call_id"] == "c1"
    assert output[1]["call_id"].startswith("call_")
    assert len({item["id"] for item in output}) == 2


@pytest.mark.parametrize(
    ("reason", "status", "details"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_how_it_ended(reason: str, status: str, details: Any) -> None:
    response = response_of(engine.whole({"content": "x"}, reason))
    assert response["status"] == status
    assert response["incomplete_details"] == details
    assert response["output"][0]["status"] == status
    assert (response["completed_at"] == NOW_S) is (status == "completed")


def test_usage_without_counts_is_null() -> None:
    assert response_of(b'{"choices":[{"message":{"content":"x"}}]}')["usage"] is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[7]}'])
def test_what_is_no_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedReplyError):
        asked().read_response(body)
