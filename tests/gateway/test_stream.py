"""The watch over a stream: usage in the right place, whatever the boundaries of the pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.gateway.calls.stream import EventTooLargeError, StreamWatch, UsageForm

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
TEXTS = st.lists(st.text(max_size=12), max_size=6)
TRICKY = [
    '"usage":',
    "[DONE]",
    '"finish_reason":"stop"',
    '"error"',
    "\n\n",
    "data: x",
    "é🌍\u2028",
    "usage",
]
EOLS = st.sampled_from(["\n", "\r\n"])


def watch(form: UsageForm = UsageForm.ON_FINISH, *, lead: int = 1, limit: int = 1 << 20):
    return StreamWatch(form, lead=lead, event_bytes_max=limit)


def chunk(content: str | None = None, reason: str | None = None, **more: object) -> dict:
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    base = {"id": "c1", "object": "chat.completion.chunk", "created": 9, "model": "m"}
    return {**base, "choices": [choice], **more}


def event(value: object, eol: str = "\n", separators: tuple[str, str] = (",", ":")) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=separators)
    return f"data: {text}{eol}{eol}"


def answer(texts: list[str], eol: str = "\n", separators: tuple[str, str] = (",", ":")) -> bytes:
    first = chunk()
    first["choices"][0]["delta"] = {"role": "assistant", "content": None}
    usage = {**chunk(), "choices": [], "usage": USAGE}
    values: list[object] = [first, *[chunk(text) for text in texts], chunk(reason="stop"), usage]
    return "".join(event(value, eol, separators) for value in [*values, "[DONE]"]).encode()


def feed(state: StreamWatch, data: bytes, cuts: list[int]) -> bytes:
    out = b""
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if end > start and not state.is_done:
            out += state.feed(data[start:end])
    return out + state.end()


def values(data: bytes) -> list[dict]:
    lines = data.decode().replace("\r\n", "\n").split("\n\n")
    return [json.loads(line[6:]) for line in lines if line and line != "data: [DONE]"]


@given(
    st.data(),
    TEXTS,
    st.sampled_from(list(UsageForm)),
    EOLS,
    st.sampled_from([(",", ":"), (", ", ": ")]),
)
def test_any_cut_gives_the_same_stream(data, texts, form, eol, separators):
    texts = [*texts, data.draw(st.sampled_from(TRICKY))]
    raw = answer(texts, eol, separators)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    state = watch(form)
    out = feed(state, raw, cuts)
    assert state.is_done
    assert state.tokens == (5, 2, 0)
    assert state.counted == len(texts)
    found = values(out)
    assert [v["choices"][0]["delta"].get("content") for v in found[1 : 1 + len(texts)]] == texts
    finish = found[1 + len(texts)]
    extra = found[2 + len(texts) :]
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert finish.get("usage") == (USAGE if form is UsageForm.ON_FINISH else None)
    assert [v["usage"] for v in extra] == ([USAGE] if form is UsageForm.OWN_CHUNK else [])
    assert out.endswith(f"data: [DONE]{eol}{eol}".encode())


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8))
def test_garbage_never_raises_and_is_never_multiplied(raw: bytes, cuts: list[int]):
    state = watch()
    out = feed(state, raw, sorted(min(cut, len(raw)) for cut in cuts))
    assert len(out) <= len(raw) + 2


def test_untouched_events_pass_byte_for_byte():
    state = watch()
    raw = answer(["a", "b"])
    events = raw.split(b"\n\n")
    out = feed(state, raw, []).split(b"\n\n")
    assert out[1:3] == events[1:3]


def test_a_whole_event_goes_out_at_once_and_half_of_one_waits():
    state = watch()
    state.feed(event(chunk("first")).encode())
    whole = event(chunk("second")).encode()
    assert state.feed(whole + whole[:9]) == whole
    assert state.feed(whole[9:]) == whole


def test_usage_that_the_engine_put_on_the_finish_chunk_stays_there():
    state = watch()
    raw = (
        event(chunk("x")) + event(chunk(reason="length", usage=USAGE)) + event("[DONE]")
    ).encode()
    assert feed(state, raw, []) == raw
    assert state.tokens == (5, 2, 0)


def test_null_usage_on_every_chunk_is_no_usage():
    state = watch()
    parts = [
        chunk("x", usage=None),
        chunk(reason="stop", usage=None),
        {**chunk(), "choices": [], "usage": USAGE},
    ]
    found = values(feed(state, "".join([*map(event, parts), event("[DONE]")]).encode(), []))
    assert len(found) == 2
    assert found[1]["usage"] == USAGE


def test_two_choices_keep_their_order_and_the_last_finish_gets_the_usage():
    second = chunk("late")
    second["choices"][0]["index"] = 1
    end = chunk(reason="stop")
    end["choices"][0]["index"] = 1
    parts = [
        chunk("a"),
        chunk(reason="stop"),
        second,
        end,
        {**chunk(), "choices": [], "usage": USAGE},
    ]
    found = values(feed(watch(), "".join([*map(event, parts), event("[DONE]")]).encode(), []))
    assert [(v["choices"][0]["index"], "usage" in v) for v in found] == [
        (0, False),
        (0, False),
        (1, False),
        (1, True),
    ]


def test_comments_pass_and_count_as_nothing():
    state = watch()
    raw = b": ping\n\n" + event(chunk("x")).encode() + b": ping\n\n"
    assert state.feed(raw[:8]) + state.feed(raw[8:-8]) + state.feed(raw[-8:]) == raw
    assert state.events == 0  # one piece, less the one that leads


def test_an_error_in_the_stream_is_noticed():
    state = watch()
    state.feed(event(chunk("x")).encode())
    assert state.feed(event({"error": {"message": "out of memory", "code": 500}}).encode()) == b""
    assert state.error == "out of memory"


@pytest.mark.parametrize("kind", ["chat.completion.chunk", "text_completion"])
def test_the_failure_event_is_a_valid_chunk_with_an_error(kind: str):
    state = watch()
    state.feed(event({**chunk("x"), "object": kind}).encode())
    value = values(state.failure({"message": "gone", "type": "server_error"}, "m"))[0]
    assert (value["id"], value["object"], value["model"], value["created"]) == ("c1", kind, "m", 9)
    assert value["choices"][0]["finish_reason"] == "error"
    assert ("delta" in value["choices"][0]) == (kind == "chat.completion.chunk")
    assert value["error"]["message"] == "gone"


def test_an_endless_event_is_refused():
    state = watch(limit=1000)
    assert state.feed(b"data: " + b"x" * 900) == b""
    with pytest.raises(EventTooLargeError):
        state.feed(b"x" * 100)
