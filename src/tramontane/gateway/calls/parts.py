"""Joins the replies of a call's parts, one for each answer, into the reply to the whole of it.

Every choice gets its place among all; the answer has one id; a prompt's tokens count once,
however many answers it had, and the answers' tokens are summed.
"""

from typing import Any, Final

import orjson

from tramontane.gateway.calls.call import choices_of
from tramontane.gateway.calls.stream import EVENT_END, parse, payload_of
from tramontane.gateway.calls.usage import Tokens

_SHARED: Final = ("id", "object", "created", "model", "system_fingerprint")
_LEFT_OUT: Final = frozenset({"usage", "timings"})
DONE: Final = b"data: [DONE]\n\n"


class JoinedReply:
    """What has come of ``count`` answers, ``each`` of them to every prompt."""

    def __init__(self, count: int, each: int) -> None:
        self._each = each
        self._wholes: list[dict[str, Any]] = [{}] * count
        self._tokens: dict[int, Tokens] = {}
        self._prompts: dict[int, tuple[int, int]] = {}
        self._base: dict[str, Any] = {}

    def events(self, number: int, data: bytes) -> bytes:
        """Return the events of a part's stream as those of the whole; its last ones are dropped."""
        out: list[bytes] = []
        start = 0
        for match in EVENT_END.finditer(data):
            event = data[start : match.end()]
            start = match.end()
            chunk = parse(payload_of(event))
            if chunk is not None and chunk.get("choices"):
                out.append(_event_of(self._placed(number, chunk)))
        return b"".join(out)

    def note_prompt(self, number: int, prompt: tuple[int, int]) -> tuple[int, int]:
        """Note the tokens of a part's prompt, and those cached; return the sums of all prompts."""
        self._prompts.setdefault(number // self._each, prompt)
        return self.prompt

    @property
    def prompt(self) -> tuple[int, int]:
        """Return the tokens of all prompts that are known, and those cached."""
        known = self._prompts.values()
        return sum(item[0] for item in known), sum(item[1] for item in known)

    def note_tokens(self, number: int, tokens: Tokens | None) -> None:
        """Note what a part took, once it has ended."""
        if tokens is not None:
            self._tokens[number] = tokens
            self.note_prompt(number, (tokens[0], tokens[2]))

    @property
    def tokens(self) -> Tokens:
        """Return what the parts that have ended took."""
        prompts: dict[int, Tokens] = {}
        for number in sorted(self._tokens):
            prompts.setdefault(number // self._each, self._tokens[number])
        prompt = sum(tokens[0] for tokens in prompts.values())
        cached = sum(tokens[2] for tokens in prompts.values())
        return prompt, sum(tokens[1] for tokens in self._tokens.values()), cached

    def put(self, number: int, reply: dict[str, Any]) -> None:
        """Keep a part's whole reply."""
        self._wholes[number] = self._placed(number, reply)

    def whole(self) -> bytes:
        """Return the whole reply once every part has one."""
        choices = [choice for reply in self._wholes for choice in reply["choices"]]
        return orjson.dumps({**self._wholes[0], "choices": choices, "usage": self._usage()})

    def last_events(self) -> bytes:
        """Return the events that end the stream."""
        return _event_of({**self._base, "choices": [], "usage": self._usage()}) + DONE

    def _placed(self, number: int, reply: dict[str, Any]) -> dict[str, Any]:
        if not self._base:
            self._base = {name: reply[name] for name in _SHARED if name in reply}
        for choice in choices_of(reply):
            choice["index"] = number
        kept = {name: held for name, held in reply.items() if name not in _LEFT_OUT}
        return {**kept, **self._base}

    def _usage(self) -> dict[str, Any]:
        prompt, completion, cached = self.tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


def _event_of(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
