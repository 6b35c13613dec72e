"""One Responses request: what it asks for, as a chat for the engine and as a response back.

It is read in two steps, because the items before it may have to be fetched: `read_responses_call`
checks the body, `ResponsesCall.compose` joins it with the earlier items.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.routing import Route
from tramontane.gateway.calls import bounds
from tramontane.gateway.calls.bodies import read_call
from tramontane.gateway.calls.call import Call
from tramontane.gateway.calls.forms import CHAT, Endpoint
from tramontane.gateway.calls.responses import reply
from tramontane.gateway.calls.responses.asks import chat_body, read_tools
from tramontane.gateway.calls.responses.events import ResponseStream
from tramontane.gateway.calls.responses.form import Asked, read_asked
from tramontane.gateway.calls.responses.items import Item, messages_of, read_input
from tramontane.gateway.calls.responses.reply import Skeleton
from tramontane.gateway.calls.responses.sse import parse
from tramontane.gateway.calls.stream import UsageForm
from tramontane.gateway.calls.usage import MalformedReplyError, Tokens, tokens_of
from tramontane.gateway.calls.validation import read_object, too_deep, too_many_values

RESPONSES: Final = Endpoint("responses", "/v1/responses", Asked)
INPUT_TOKENS: Final = Endpoint("responses.input_tokens", "/v1/responses/input_tokens", Asked)


class ResponsesCall(Call):
    """A sound request. ``items`` is its own input; ``asks_to_store``: the client insists on it.

    The engine's side of it is the chat that `compose` makes: that knows the engines' words.
    """

    __slots__ = ("_chat", "asked", "asks_to_store", "items", "now_s", "skeleton")

    def __init__(
        self, asked: Asked, skeleton: Skeleton, items: list[Item], now_s: "_Clock"
    ) -> None:
        """``now_s`` tells the time in seconds since 1970."""
        self.endpoint = RESPONSES
        self.upstream_path = CHAT.path
        self.asked = asked
        self.skeleton = skeleton
        self.items = items
        self.model = asked.model
        # In the background too the engine streams: what it did is known when it is stopped.
        self.is_stream = bool(asked.stream or asked.background)
        self.asks_to_store = bool(asked.store or asked.background)
        self.answers = 1
        self.form = UsageForm.NONE
        self.now_s = now_s
        self._chat: Call | None = None

    def compose(self, history: Sequence[Item]) -> Refusal | None:
        """Make the chat of the earlier items and the own ones; return why it cannot be."""
        messages = messages_of(self.asked.instructions, [*history, *self.items])
        if isinstance(messages, Refusal):
            return messages
        body = {"model": self.model, **chat_body(self.asked, self.skeleton.tools, messages)}
        if self.is_stream:
            body["stream"] = True
        chat = read_call(CHAT, orjson.dumps(body))
        if isinstance(chat, Refusal):
            return _as_ours(chat)
        self._chat = chat
        return None

    @property
    def chat(self) -> Call:
        """Return the chat, once composed."""
        assert self._chat is not None
        return self._chat

    @property
    def prompt(self) -> object:
        """Return the messages."""
        return self.chat.prompt

    @property
    def size_bytes(self) -> int:
        """Return how many bytes the chat has."""
        return self.chat.size_bytes

    def prompt_tokens_max(self, context_length: int) -> int:
        """Return the most tokens that the prompt can have."""
        return self.chat.prompt_tokens_max(context_length)

    def completion_tokens_max(self, context_length: int) -> int:
        """Return the most tokens that the answer can have."""
        return self.chat.completion_tokens_max(context_length)

    def refused_by(self, route: Route) -> Refusal | None:
        """Return why the engine of ``route`` must not be asked this, or None."""
        refusal = self.chat.refused_by(route)
        return _as_ours(refusal) if refusal is not None else None

    def pieces_for(self, route: Route) -> tuple[bytes | memoryview, ...]:
        """Return the body for the engine of ``route``."""
        pieces = self.chat.pieces_for(route)
        self.upstream_path = self.chat.upstream_path
        return pieces

    def watch(self, event_bytes_max: int) -> ResponseStream:
        """Return what makes named events of the engine's stream."""
        return ResponseStream(self.skeleton, self.now_s, event_bytes_max=event_bytes_max)

    def read_response(self, body: bytes) -> tuple[dict[str, Any], Tokens | None]:
        """Return the response in an engine's whole reply, and its token counts.

        Raises `MalformedReplyError`.
        """
        found = parse(body)
        choices = found.get("choices") if found is not None else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        if found is None or not isinstance(choice, dict):
            raise MalformedReplyError
        ending = reply.ending_of(choice.get("finish_reason"))
        usage = found.get("usage")
        response = self.skeleton.response(
            ending.status,
            reply.output_of(self.skeleton, choice, ending),
            usage=reply.usage_of(usage),
            ending=ending,
            completed_at_s=self.now_s(),
        )
        return response, tokens_of(usage)


def _as_ours(refusal: Refusal) -> Refusal:
    """Return a refusal of the chat in the words of the request that it was made of."""
    name = _OUR_NAMES.get(refusal.param or "", refusal.param)
    message = refusal.message
    if refusal.param in _OUR_NAMES:
        message = message.replace(f"'{refusal.param}'", f"'{name}'")
    return replace(refusal, message=message, param=name)


_OUR_NAMES: Final = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}


_Clock = Callable[[], int]


def read_responses_call(
    raw: bytes, token: str, *, may_store: bool, now_s: _Clock, is_strict: bool = False
) -> ResponsesCall | Refusal:
    """Check ``raw``; ``token`` makes the ids, ``may_store`` is what the organization allows.

    ``is_strict``: the project takes no field that the API does not have.
    """
    value = too_many_values(raw) or read_object(raw)
    if isinstance(value, Refusal):
        return value
    deep = too_deep(value)
    if deep is not None:
        return deep
    asked = read_asked(value, is_strict=is_strict)
    if isinstance(asked, Refusal):
        return asked
    refusal = bounds.refused_field(value) or _may_not_store(asked, may_store=may_store)
    if refusal is not None:
        return refusal
    if asked.input is None:
        return Refusal(Code.MISSING_REQUIRED_PARAMETER, "the field 'input' is missing", "input")
    items = read_input(asked.input, token)
    if isinstance(items, Refusal):
        return items
    tools = read_tools(asked)
    if isinstance(tools, Refusal):
        return tools
    is_stored = may_store and asked.store is not False
    skeleton = Skeleton(token, now_s(), asked, tools, is_stored)
    return ResponsesCall(asked, skeleton, items, now_s)


def without_answer(raw: bytes) -> bytes:
    """Return a body without what is said of how it is answered, for a request that only counts."""
    value = parse(raw) if too_many_values(raw) is None else None
    if value is None or value.keys().isdisjoint(_OF_THE_ANSWER) or too_deep(value) is not None:
        return raw  # nothing to take out, or refused anyway
    return orjson.dumps({k: v for k, v in value.items() if k not in _OF_THE_ANSWER})


_OF_THE_ANSWER: Final = frozenset({"stream", "stream_options", "store", "background"})


def _may_not_store(asked: Asked, *, may_store: bool) -> Refusal | None:
    if may_store or not (asked.store or asked.background):
        return None
    name = "store" if asked.store else "background"
    why = "asks for it" if asked.store else "needs it"
    message = (
        f"the field {name!r} {why}, but your organization does not allow responses to be stored: "
        "an operator can allow it with may_store_responses of the organization; until then send "
        "'store': false and no 'background'"
    )
    return Refusal(Code.INVALID_VALUE, message, name)
