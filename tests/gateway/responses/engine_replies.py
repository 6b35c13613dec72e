"""What engines send back, as chunks and as whole replies of chat completions."""

import json
from collections.abc import Iterable
from typing import Any

USAGE: dict[str, Any] = {
    "prompt_tokens": 11,
    "completion_tokens": 5,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 3},
}
DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any], reason: str | None = None, **choice: Any) -> bytes:
    """Return one chunk of a stream."""
    choices = [{"index": 0, "delta": delta, "finish_reason": reason, **choice}]
    return event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": choices})


def usage_chunk() -> bytes:
    return event({"id": "chatcmpl-1", "choices": [], "usage": USAGE})


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def call_piece(
    index: int, arguments: str, name: str | None = None, call_id: str | None = None
) -> dict[str, Any]:
    """Return a delta with a piece of a function call."""
    function: dict[str, Any] = {"arguments": arguments}
    piece: dict[str, Any] = {"index": index, "function": function}
    if name is not None:
        function["name"] = name
        piece |= {"id": call_id, "type": "function"}
    return {"tool_calls": [piece]}


def text_stream(words: Iterable[str], reason: str = "stop") -> bytes:
    chunks = [chunk({"role": "assistant", "content": None})]
    chunks += [chunk({"content": word}) for word in words]
    return b"".join([*chunks, chunk({}, reason), usage_chunk(), DONE])


def whole(message: dict[str, Any], reason: str = "stop", **choice: Any) -> bytes:
    choices = [{"index": 0, "message": message, "finish_reason": reason, **choice}]
    body = {"id": "chatcmpl-1", "object": "chat.completion", "choices": choices, "usage": USAGE}
    return json.dumps(body).encode()
