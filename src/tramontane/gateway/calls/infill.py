"""llama.cpp's ``/infill``, which fills in the middle, in the forms of the two APIs.

It answers in llama.cpp's own form: ``content``, ``stop`` and counts of tokens, in each event of a
stream too, and its streams have no ``[DONE]``. A model without the tokens for it answers 501. Of
a long prefix it reads the end and of a long suffix the beginning, as much as fits its batch.
"""

from typing import Any, Final

PATH: Final = "/infill"
# What is passed on as it is: the rest of a body would mean something else there.
_SHARED: Final = (
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "max_tokens",
    "frequency_penalty",
    "presence_penalty",
    "repeat_penalty",
    "logit_bias",
    "ignore_eos",
    "return_progress",
)


def body_of(value: dict[str, Any]) -> dict[str, Any]:
    """Return the engine's body for a ``prompt`` and a ``suffix``."""
    body = {name: value[name] for name in _SHARED if value.get(name) is not None}
    if "max_tokens" in body:
        body["n_predict"] = body.pop("max_tokens")
    if isinstance(body.get("stop"), str):
        body["stop"] = [body["stop"]]
    return {**body, "input_prefix": value["prompt"], "input_suffix": value["suffix"]}


def text_reply(native: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Return a ``text_completion`` for a whole reply or one event of a stream.

    ``base`` are the keys that every piece of one answer shares.
    """
    has_ended = native.get("stop") is True
    reason = ("length" if native.get("stop_type") == "limit" else "stop") if has_ended else None
    choice = {
        "text": native.get("content") or "",
        "index": 0,
        "logprobs": None,
        "finish_reason": reason,
    }
    reply: dict[str, Any] = {**base, "object": "text_completion", "choices": [choice]}
    if has_ended:
        reply["usage"] = _usage_of(native)
    return reply


def chat_reply(text: dict[str, Any]) -> dict[str, Any]:
    """Return the ``chat.completion`` that says what a whole ``text_completion`` says."""
    return {
        **text,
        "object": "chat.completion",
        "choices": [
            {
                "index": choice["index"],
                "message": {"role": "assistant", "content": choice["text"], "tool_calls": None},
                "finish_reason": choice["finish_reason"],
            }
            for choice in text["choices"]
        ],
    }


def chat_chunk(text: dict[str, Any]) -> dict[str, Any]:
    """Return the ``chat.completion.chunk`` that says what a piece of a ``text_completion`` says."""
    return {
        **text,
        "object": "chat.completion.chunk",
        "choices": [
            {
                "index": choice["index"],
                "delta": {"content": choice["text"]} if choice["text"] else {},
                "finish_reason": choice["finish_reason"],
            }
            for choice in text["choices"]
        ],
    }


def first_chunk(chunk: dict[str, Any]) -> dict[str, Any]:
    """Return the chunk that comes before ``chunk``, the first with text (wire reference, S10)."""
    delta = {"role": "assistant", "content": ""}
    return {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def _usage_of(native: dict[str, Any]) -> dict[str, Any]:
    prompt, completion = native.get("tokens_evaluated") or 0, native.get("tokens_predicted") or 0
    timings = native.get("timings")
    cached = timings.get("cache_n") if isinstance(timings, dict) else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached or 0},
    }
