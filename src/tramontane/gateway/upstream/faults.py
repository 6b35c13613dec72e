"""Turns what an engine answers instead of a result into our refusals.

Known forms: llama.cpp ``{"error": {"message", "type", "code"}}``, vLLM the same or the flat
``{"object": "error", "message"}``. The engine's message goes on to the client: it names what the
caller can change. What is between the gateway and the engine (its secret, its paths) does not.
"""

from typing import Any, Final

import orjson

from tramontane.domain.refusal import Code, Refusal

_MESSAGE_MAX: Final = 2_000
_RETRY_AFTER_S: Final = 1
_TOO_LONG_TYPES: Final = frozenset({"exceed_context_size_error", "context_length_exceeded"})
_TOO_LONG_WORDS: Final = (
    "maximum context length",  # vLLM
    "exceeds the available context size",  # llama.cpp
    "too large to process",  # llama.cpp, an embedding's input beyond the batch
    "longer than the maximum model length",  # vLLM, embeddings
)
# llama.cpp answers 500 to these; what is wrong stands in the request, so trying again is no use.
_CALLER_WORDS: Final = (
    "failed to parse messages",
    "failed to parse tools",
    "input is not supported",  # an image or a sound for a model of text
    "unknown reasoning format",
)


def read_fault(status: int, body: bytes) -> Refusal:
    """Return the refusal for an engine's reply with an error ``status``."""
    message, kind = _message_of(body)
    if kind in _TOO_LONG_TYPES or any(words in message for words in _TOO_LONG_WORDS):
        return Refusal(Code.CONTEXT_LENGTH_EXCEEDED, message, "messages")
    is_callers = any(words in message.lower() for words in _CALLER_WORDS)
    if status in {400, 422} or (status == 500 and is_callers):
        return Refusal(Code.INVALID_VALUE, message or "the engine refused the request")
    if status in {404, 405, 501}:
        told = message or f"it answered {status}"
        return Refusal(Code.UNSUPPORTED_BY_ENGINE, f"the model's engine cannot do this: {told}")
    if status == 413:
        return Refusal(Code.BODY_TOO_LARGE, message or "the request is too large for the engine")
    if status in {429, 503}:
        told = message or "no reason was given"
        refusal = f"the model's engine takes no requests now: {told}; try again"
        return Refusal(Code.UNAVAILABLE, refusal, retry_after_s=_RETRY_AFTER_S)
    if status in {401, 403}:  # between us and the engine: nothing that the caller could change
        return Refusal(Code.UPSTREAM_ERROR, "the model's engine refused the gateway; tell support")
    told = message or f"it answered {status}"
    return Refusal(Code.UPSTREAM_ERROR, f"the model's engine failed: {told}")


def _message_of(body: bytes) -> tuple[str, str]:
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", ""
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        found = found["error"]
    if not isinstance(found, dict):
        return "", ""
    message, kind = found.get("message"), found.get("type")
    text = message[:_MESSAGE_MAX] if isinstance(message, str) else ""
    return text, kind if isinstance(kind, str) else ""
