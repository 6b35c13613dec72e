"""Watches a stream of server-sent events pass, and touches only its first and last events.

Whole events go on as the engine sent them, byte for byte. What is looked for in them is found by
plain substring: inside a JSON string a quotation mark is escaped, so ``"usage":`` with both its
marks can only be a key. Rules of the wire reference, 2.1:

* S4, usage: a client that sent no ``stream_options`` gets the usage on the chunk with the finish
  reason, and no extra chunk; one that asked gets the engine's extra chunk; one that sent
  ``stream_options`` without asking gets neither. The engine was asked in every case.
* S6, an engine that fails midway: a valid chunk with ``finish_reason`` "error" and a top-level
  ``error``, no ``[DONE]``; the caller then drops the connection.
* S5, tool calls: one whole call per delta, whatever pieces the engine sends (`tool_calls`).
* S10: the first chunk's content is "", never null.

What an engine tells of the prompt before its first token (llama.cpp's ``prompt_progress``, vLLM's
``usage`` on every chunk, both asked for by us) is noted for a request that gets cut, and taken out.
"""

import re
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import orjson

from tramontane.gateway.calls.tool_calls import GatheredCalls
from tramontane.gateway.calls.usage import Tokens, tokens_of

# Turns one chunk of an engine into the chunks that the client gets for it.
Edit = Callable[[dict[str, Any]], list[dict[str, Any]]]

EVENT_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_NULL_CONTENT: Final = b'"role":"assistant","content":null'
_EMPTY_CONTENT: Final = b'"role":"assistant","content":""'
_RUNNING_USAGE: Final = b',"usage":{'


class UsageForm(Enum):
    """Where the client expects the usage of a stream."""

    ON_FINISH = "on the chunk with the finish reason"
    OWN_CHUNK = "in a chunk of its own"
    NONE = "nowhere"


class EventTooLargeError(Exception):
    """One event exceeds the limit."""


class StreamWatch:
    """One stream's state.

    ``tokens`` is the engine's count once seen; ``prompt`` are the prompt's tokens, and how many
    of them were cached, when the engine told them early; ``events`` counts the pieces that
    passed, less the ``lead`` ones that carry no token; ``error`` is what the engine said when it
    failed midway; ``tail`` is what a stream ends with that the engine left without an end.
    """

    __slots__ = (
        "_edit",
        "_event_bytes_max",
        "_form",
        "_gathered",
        "_has_running_usage",
        "_held",
        "_is_close",
        "_last",
        "_partial",
        "_searched",
        "error",
        "events",
        "has_finish",
        "is_done",
        "prompt",
        "tokens",
    )

    tail = b"data: [DONE]\n\n"

    def __init__(
        self,
        form: UsageForm,
        *,
        lead: int,
        event_bytes_max: int,
        edit: Edit | None = None,
        calls: GatheredCalls | None = None,
        has_running_usage: bool = False,
    ) -> None:
        """``calls``: tools were offered. ``has_running_usage``: each chunk carries a usage."""
        self._form = form
        self._event_bytes_max = event_bytes_max
        self._edit = edit
        self._gathered = calls
        self._has_running_usage = has_running_usage
        self._is_close = edit is not None or calls is not None  # every event is looked into
        self._partial = bytearray()
        self._searched = 0
        self._held = b""  # the finish chunk, until the usage is known
        self._last = b""
        self.events = -lead
        self.prompt: tuple[int, int] | None = None
        self.tokens: Tokens | None = None
        self.has_finish = False
        self.is_done = False
        self.error: str | None = None

    @property
    def counted(self) -> int:
        """Return how many pieces with a token in them have passed."""
        return max(0, self.events)

    def feed(self, data: bytes) -> bytes:
        """Take what the engine sent and return what the client may have now.

        Sets ``is_done`` at ``[DONE]``, which ends what is returned, and ``error`` when the engine
        reports one. Raises `EventTooLargeError`.
        """
        if self._partial or not data.endswith(b"\n\n"):
            data = self._whole_events(data)
            if not data:
                return b""
        if self._has_running_usage:
            data = self._without_usage(data)
        if (
            self._is_close
            or self._held
            or not self._last
            or b'"usage"' in data
            or b'"finish_reason":"' in data
            or b"[DONE]" in data
            or b'"error"' in data
            or b'"finish_reason": "' in data
        ):
            return self._inspect(data)
        self._last = data
        # A comment (an engine's sign of life) stands alone; anything else is a piece of the answer.
        passed = data.count(b"\n\n") or len(EVENT_END.findall(data))
        self.events += passed - data.startswith(b":")
        return data

    def end(self) -> bytes:
        """Return what is left when the engine has ended its reply."""
        rest = b""
        if self._partial:
            rest = self._inspect(bytes(self._partial) + b"\n\n")
            self._partial.clear()
        return rest + self._release()

    def failure(self, error: dict[str, Any], model: str) -> bytes:
        """Return the event that tells every known client of a failure midway (rule S6)."""
        before = parse(payload_of(self._last[: _first_end(self._last)])) or {}
        is_text = before.get("object") == "text_completion"
        choice: dict[str, Any] = {"text": "", "logprobs": None} if is_text else {"delta": {}}
        chunk = {
            "id": before.get("id", ""),
            "object": before.get("object", "chat.completion.chunk"),
            "created": before.get("created", 0),
            "model": before.get("model", model),
            "choices": [{"index": 0, **choice, "finish_reason": "error"}],
            "error": error,
        }
        return _event_of(chunk)

    def _whole_events(self, data: bytes) -> bytes:
        """Return the whole events so far and keep the rest."""
        partial = self._partial
        partial += data
        cut = 0
        for match in EVENT_END.finditer(partial, max(0, self._searched - 3)):
            cut = match.end()
        whole = bytes(partial[:cut])
        del partial[:cut]
        self._searched = len(partial)
        if len(partial) > self._event_bytes_max:
            raise EventTooLargeError
        return whole

    def _inspect(self, data: bytes) -> bytes:
        out: list[bytes] = []
        start = 0
        for match in EVENT_END.finditer(data):
            out.append(self._pass_on(data[start : match.end()]))
            start = match.end()
            if self.is_done or self.error is not None:
                break
        return b"".join(out)

    def _without_usage(self, data: bytes) -> bytes:
        """Take the usage from the end of a chunk; only the last chunk's own one is the client's."""
        at = data.rfind(_RUNNING_USAGE)
        if at < 0 or not data.endswith(b"}}\n\n") or data.count(b"\n\n") > 1:
            return data  # `_pass_chunk` does it
        if b'"choices":[]' in data:
            return data
        if self.prompt is None:
            self._note_prompt(tokens_of(parse(data[at + 9 : -3])))
        return data[:at] + b"}\n\n"

    def _note_prompt(self, tokens: Tokens | None) -> None:
        if tokens is not None:
            self.prompt = (tokens[0], tokens[2])

    def _note_progress(self, progress: object) -> bool:
        """Note what llama.cpp tells of a prompt while it reads it; False when it is none."""
        if not isinstance(progress, dict):
            return False
        told = {"prompt_tokens": progress.get("total"), "completion_tokens": 0}
        details = {"prompt_tokens_details": {"cached_tokens": progress.get("cache")}}
        self._note_prompt(tokens_of(told | details))
        return True

    def _pass_on(self, event: bytes) -> bytes:
        payload = payload_of(event)
        if payload == b"":
            return event  # a comment: it may overtake a chunk that is held
        if payload == b"[DONE]":
            self.is_done = True
            return self._release() + event
        chunk = parse(payload)
        if chunk is None:
            self._last = event
            self.events += 1
            return self._release() + event
        if chunk.get("error"):
            self.error = _message_of(chunk["error"])
            return self._release()
        if self._note_progress(chunk.get("prompt_progress")):
            return b""
        if self._edit is not None:
            return b"".join([self._pass_chunk(_event_of(item), item) for item in self._edit(chunk)])
        if not self._last:
            event = event.replace(_NULL_CONTENT, _EMPTY_CONTENT, 1)
        return self._pass_chunk(event, chunk)

    def _pass_chunk(self, event: bytes, chunk: dict[str, Any]) -> bytes:
        self._last = event
        self.events += 1
        tokens = tokens_of(chunk.get("usage"))
        choices = chunk.get("choices")
        is_finish = _has_finish(choices)
        if self._has_running_usage and tokens is not None and choices:
            self._note_prompt(tokens)
            del chunk["usage"]
            event, tokens = _event_of(chunk), None
        self.tokens = tokens or self.tokens
        if tokens is not None and not choices:
            self.events -= 1
            return self._place_usage(event, chunk["usage"])
        before = self._release()
        if self._gathered is not None and self._gathered.take(chunk):
            before += b"".join([_event_of(item) for item in self._gathered.whole])
            event = b"" if self._gathered.is_rest_empty else _event_of(chunk)
        if is_finish:
            self.has_finish = True
            self.events -= 1
            if tokens is None and self._form is UsageForm.ON_FINISH:
                self._held = event
                return before
        return before + event

    def _place_usage(self, event: bytes, usage: object) -> bytes:
        if self._form is UsageForm.OWN_CHUNK:
            return event
        if self._form is UsageForm.NONE:
            return b""
        held, self._held = self._held, b""
        chunk = parse(payload_of(held))
        if chunk is None:  # no finish chunk came before it: better an extra chunk than no usage
            return event
        return _event_of({**chunk, "usage": usage})

    def _release(self) -> bytes:
        held, self._held = self._held, b""
        return held


def _event_of(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _first_end(data: bytes) -> int:
    match = EVENT_END.search(data)
    return match.end() if match else len(data)


def payload_of(event: bytes) -> bytes:
    """Return the data of an event: its ``data:`` lines joined (HTML standard, 9.2.6)."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line[:5] == b"data:"]
    return b"\n".join(lines)


def parse(payload: bytes) -> dict[str, Any] | None:
    """Return the chunk in an event's data, or None when it is no JSON object."""
    try:
        chunk = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return chunk if isinstance(chunk, dict) else None


def _has_finish(choices: object) -> bool:
    if not isinstance(choices, list):
        return False
    return any(isinstance(choice, dict) and choice.get("finish_reason") for choice in choices)


def _message_of(error: object) -> str:
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) and error else "the engine failed"
