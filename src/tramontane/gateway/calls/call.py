"""A sound request body: what it asks for, how it goes to the engine, and how it comes back.

The bytes go on to the engine as they came whenever they can, with our own wishes put in front of
them: the usage of a stream, and what tells the prompt's tokens early. `engines` says which bodies
have to be rewritten. Replies go back as they came too, unless the caller's form differs.
"""

from typing import Any, Final

import msgspec
import orjson

from tramontane.domain.catalog import UNKNOWN
from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import Route
from tramontane.gateway.calls import bounds, engines, logprobs, tool_calls, vectors
from tramontane.gateway.calls.engines import LLAMACPP, VLLM
from tramontane.gateway.calls.forms import ChatForm, EmbeddingForm, Endpoint, TextForm
from tramontane.gateway.calls.stream import Edit, StreamWatch, UsageForm
from tramontane.gateway.calls.tool_calls import GatheredCalls
from tramontane.gateway.calls.usage import MalformedReplyError, Tokens, read_reply

# What stands in front of a stream's body, by engine: where the caller did not ask for usage, and
# where he did. Of an engine that we do not know we ask for no more than usage.
_USAGE: Final = b'{"stream_options":{"include_usage":true},'
_PROGRESS: Final = b'{"return_progress":true,'
_LEADS: Final = {
    LLAMACPP: _PROGRESS + _USAGE[1:],
    VLLM: b'{"stream_options":{"include_usage":true,"continuous_usage_stats":true},',
}
_LEADS_WITH_USAGE: Final = {LLAMACPP: _PROGRESS}
_COUNTS: Final = frozenset({"n", "n_cmpl", "best_of"})


class Call:
    """What every endpoint's requests have in common.

    ``upstream_path`` is where it goes; it stands once `pieces_for` was called. ``answers`` is how
    many texts the engine makes; a batch to embed counts as one. ``is_split``: every answer has
    an attempt of its own.
    """

    __slots__ = (
        "_asked",
        "_engine",
        "_raw",
        "_value",
        "answers",
        "endpoint",
        "form",
        "is_split",
        "is_stream",
        "model",
        "upstream_path",
    )

    def __init__(
        self, endpoint: Endpoint, raw: bytes, asked: Any, value: dict[str, Any] | None = None
    ) -> None:
        """``asked`` is ``raw`` decoded into a form of ``endpoint``; ``value`` is it as a dict."""
        self.endpoint = endpoint
        self.upstream_path = endpoint.path
        self._raw = raw
        self._asked = asked
        self._value = value
        self._engine = ""
        self.model: str = asked.model
        self.is_stream = asked.stream is True
        self.answers = 1
        self.is_split = False
        options = asked.stream_options
        if not options:
            self.form = UsageForm.ON_FINISH
        else:
            self.form = UsageForm.OWN_CHUNK if options.include_usage else UsageForm.NONE

    @property
    def prompts(self) -> int:
        """Return how many prompts it holds."""
        return 1

    @property
    def prompt(self) -> object:
        """Return the messages or the text that is continued, or None: nothing of it is kept."""
        return None

    @property
    def size_bytes(self) -> int:
        """Return how many bytes the body has as it came."""
        return len(self._raw)

    def prompt_tokens_max(self, context_length: int) -> int:
        """Return the most tokens that the prompts can have: one a byte, and the template's."""
        return min(context_length * self.prompts, len(self._raw))

    def completion_tokens_max(self, context_length: int) -> int:  # noqa: ARG002 - see texts
        """Return the most tokens that all answers together can have."""
        return 0

    def refused_by(self, route: Route) -> Refusal | None:  # noqa: ARG002 - see texts
        """Return why the engine of ``route`` must not be asked this, or None."""
        return None

    def pieces_for(self, route: Route) -> tuple[bytes | memoryview, ...]:
        """Return the body for the engine of ``route``."""
        self._engine = route.engine
        if self.model == route.upstream_model:
            return (self._raw,)
        return (orjson.dumps({**self.value(), "model": route.upstream_model}),)

    def watch(self, event_bytes_max: int) -> StreamWatch:
        """Return what looks at the engine's stream and turns it into the caller's."""
        return StreamWatch(self.form, lead=self.endpoint.lead, event_bytes_max=event_bytes_max)

    def read_whole(self, body: bytes, request_id: str) -> tuple[bytes, Tokens | None] | Refusal:  # noqa: ARG002 - see texts
        """Return an engine's whole reply as the caller gets it, and its token counts.

        Or why the reply is not what was asked for. Raises `MalformedReplyError`.
        """
        return body, read_reply(body)[0]

    def value(self) -> dict[str, Any]:
        """Return the body as a dict, which is made only when it is needed."""
        if self._value is None:
            self._value = orjson.loads(self._raw)
        return self._value


class TextCall(Call):
    """A request for text, as a chat or as a completion."""

    __slots__ = ()

    def __init__(
        self, endpoint: Endpoint, raw: bytes, asked: Any, value: dict[str, Any] | None = None
    ) -> None:
        super().__init__(endpoint, raw, asked, value)
        if asked.n or asked.n_cmpl or asked.best_of:
            self.answers = max(asked.n or 1, asked.n_cmpl or 1, asked.best_of or 1)

    def completion_tokens_max(self, context_length: int) -> int:
        """Return the most tokens that all answers together can have."""
        asked: TextForm = self._asked
        most = asked.max_tokens or 0
        further = getattr(asked, "max_completion_tokens", None)
        if further is not None and further > most:  # which of them counts is the engine's choice
            most = further
        if asked.n_predict is not None:  # llama.cpp's own name; below zero is without end
            most = max(most, asked.n_predict) if asked.n_predict >= 0 else 0
        return self.answers * (min(context_length, most) if most else context_length)

    def refused_by(self, route: Route) -> Refusal | None:
        """Return why the engine of ``route`` must not be asked this, or None.

        Settles whether each answer needs an attempt of its own (``is_split``).
        """
        engine = route.engine
        refusal = engines.refused_by_engine(engine, self._asked)
        if refusal is None and route.capabilities is not UNKNOWN:
            refusal = engines.refused_by_model(route, self._asked)
        if refusal is None and len(self._raw) > bounds.BODY_BYTES_FREE:
            context_length = route.context_length * self.prompts
            refusal = bounds.prompt_too_long(len(self._raw), engine, context_length)
        if self.answers > 1:
            self.is_split = engine in engines.COUNTS_ONE
            refusal = refusal or bounds.too_many_answers(self.answers)
        if refusal is None and (self._value is not None or self._has_schema()):
            refusal = bounds.ambiguous_pattern(self.value(), engine)
        return refusal

    def _has_schema(self) -> bool:
        """Tell whether a known field may hold one; unknown ones had the body read closely."""
        return False

    def part(self, number: int) -> "TextCall":
        """Return the call for one of the answers: those of the first prompt come first."""
        each = self.answers // self.prompts
        value = {name: held for name, held in self.value().items() if name not in _COUNTS}
        prompt = value.get("prompt")
        if isinstance(prompt, list) and not isinstance(prompt[0], int):
            value["prompt"] = prompt[number // each]
        seed = value.get("seed") if value.get("seed") is not None else value.get("random_seed")
        if seed is not None:  # with the same one the answers to a prompt would all be the same
            value["seed"] = (seed + number % each) % 2**32
        if self.is_stream:
            value["stream_options"] = {"include_usage": True}
        asked = msgspec.convert(value, self.endpoint.form)
        return type(self)(self.endpoint, orjson.dumps(value), asked, value)

    def pieces_for(self, route: Route) -> tuple[bytes | memoryview, ...]:
        """Return the body for the engine of ``route``."""
        engine = route.engine
        asked: TextForm = self._asked
        self._engine = engine
        if self.model == route.upstream_model and not engines.needs_change(engine, asked):
            if not self.is_stream:
                return (self._raw,)
            is_asked = self.form is UsageForm.OWN_CHUNK
            is_silent = asked.stream_options is msgspec.UNSET
            if is_silent or (is_asked and engine != VLLM):
                lead = _LEADS_WITH_USAGE.get(engine) if is_asked else _LEADS.get(engine, _USAGE)
                if lead is None:
                    return (self._raw,)
                start = self._raw.index(b"{") + 1
                return (lead, memoryview(self._raw)[start:])
        value = {**self.value(), "model": route.upstream_model}
        engines.change(engine, asked, value)
        if self.is_stream:
            self._ask_for_counts(value)
        return (orjson.dumps(self._reshaped(value)),)

    def _ask_for_counts(self, value: dict[str, Any]) -> None:
        options = {**(value.get("stream_options") or {}), "include_usage": True}
        if self._engine == VLLM:
            options["continuous_usage_stats"] = True
        elif self._engine == LLAMACPP:
            value["return_progress"] = True
        value["stream_options"] = options

    def _reshaped(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return the body in the form of the path that it goes to."""
        return value

    def _has_running_usage(self) -> bool:
        options = self._asked.stream_options
        return self._engine == VLLM and not (options and options.continuous_usage_stats)


class ChatCall(TextCall):
    """A chat."""

    __slots__ = ()

    @property
    def prompt(self) -> object:
        """Return the messages."""
        return self._asked.messages

    def _has_schema(self) -> bool:
        return bool(self._asked.tools or self._asked.response_format)

    def watch(self, event_bytes_max: int) -> StreamWatch:
        """Return what looks at the engine's stream and turns it into the caller's."""
        asked: ChatForm = self._asked
        if self.is_split:
            lead = self.endpoint.lead * self.answers
            return StreamWatch(self.form, lead=lead, event_bytes_max=event_bytes_max)
        return StreamWatch(
            self.form,
            lead=self.endpoint.lead,
            event_bytes_max=event_bytes_max,
            edit=self._edit(),
            calls=GatheredCalls() if asked.tools else None,
            has_running_usage=self._has_running_usage(),
        )

    def _edit(self) -> Edit | None:
        """Return what every chunk of a stream has to go through, if anything."""
        asked: ChatForm = self._asked
        last = asked.messages[-1]
        if last.prefix and self._engine == LLAMACPP and isinstance(last.content, str):
            return _Prefixed(last.content)  # of its whole replies it is the beginning anyway
        return _with_complete_logprobs if asked.logprobs else None

    def read_whole(self, body: bytes, request_id: str) -> tuple[bytes, Tokens | None]:  # noqa: ARG002 - see embeddings
        """Return an engine's whole reply as the caller gets it, and its token counts."""
        tokens, _ = read_reply(body)
        asked: ChatForm = self._asked
        if self.is_split or not (asked.tools or asked.logprobs):
            return body, tokens
        reply = as_object(body)
        has_changed = tool_calls.complete_whole(reply)
        if asked.logprobs:
            _with_complete_logprobs(reply)
        return orjson.dumps(reply) if has_changed or asked.logprobs else body, tokens


class EmbeddingCall(Call):
    """A batch of inputs to embed."""

    __slots__ = ()

    @property
    def prompts(self) -> int:
        """Return how many inputs it holds."""
        return bounds.texts_in(self._asked.input)

    def refused_by(self, route: Route) -> Refusal | None:
        """Return why the engine of ``route`` must not be asked this, or None."""
        return engines.refused_embedding(route)

    def pieces_for(self, route: Route) -> tuple[bytes | memoryview, ...]:
        """Return the body for the engine of ``route``."""
        self._engine = route.engine
        asked: EmbeddingForm = self._asked
        if asked.output_dimension is None and asked.output_dtype is None:
            return super().pieces_for(route)
        value = {**self.value(), "model": route.upstream_model}
        value.pop("output_dtype", None)
        wanted = value.pop("output_dimension", None)
        if wanted is not None:
            value["dimensions"] = wanted
        return (orjson.dumps(value),)

    def read_whole(self, body: bytes, request_id: str) -> tuple[bytes, Tokens | None] | Refusal:
        """Return the reply with an id, which Mistral's client insists on, cut to size."""
        tokens, has_id = read_reply(body)
        asked: EmbeddingForm = self._asked
        wanted = asked.dimensions or asked.output_dimension
        if wanted is not None and self._engine == LLAMACPP:
            reply = as_object(body)
            refusal = vectors.cut(reply, wanted, self.model)
            if refusal is not None:
                return refusal
            body = orjson.dumps(reply)
        if not has_id:
            start = body.index(b"{") + 1
            is_empty = body[start : start + 16].lstrip().startswith(b"}")
            name = b'"id":"embd-%b"' % request_id[4:].encode()
            body = b"%b%b%b%b" % (body[:start], name, b"" if is_empty else b",", body[start:])
        return body, tokens


def as_object(body: bytes) -> dict[str, Any]:
    """Return a reply as a dict. Raises `MalformedReplyError`."""
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedReplyError from error
    if not isinstance(reply, dict):
        raise MalformedReplyError
    return reply


def choices_of(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the choices of a reply or of a chunk, as far as they are objects."""
    choices = reply.get("choices")
    if not isinstance(choices, list):
        return []
    return [choice for choice in choices if isinstance(choice, dict)]


class _Prefixed:
    """Puts the prefix that the caller sent into the first chunk with text."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __call__(self, chunk: dict[str, Any]) -> list[dict[str, Any]]:
        _with_complete_logprobs(chunk)
        for choice in choices_of(chunk):
            delta = choice.get("delta")
            if self._prefix and isinstance(delta, dict) and "role" not in delta:
                delta["content"] = self._prefix + (delta.get("content") or "")
                self._prefix = ""
        return [chunk]


def _with_complete_logprobs(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    for choice in choices_of(chunk):
        logprobs.complete(choice)
        delta = choice.get("delta")
        if isinstance(delta, dict) and "role" in delta and delta.get("content") is None:
            delta["content"] = ""
    return [chunk]
