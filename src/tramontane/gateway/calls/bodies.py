"""Looks into a request body once: is it sound, which model, does anything have to be changed?

The bytes go on to the engine as they came whenever they can. What must be changed: the model's
name where the engine knows it by another; a stream's usage, which we always ask for; and
Mistral's ``random_seed`` and ``tool_choice: any``, which engines know by OpenAI's names.
Further fields are let through: what the engine does not know it ignores. Those that could hurt
others who use the same engine are bounded or refused (`bounds`).
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
import orjson
from msgspec import Meta

from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import Route
from tramontane.gateway.calls import bounds
from tramontane.gateway.calls.stream import StreamWatch, UsageForm
from tramontane.gateway.calls.usage import Tokens, read_reply
from tramontane.gateway.calls.validation import explain, read_object

_WITH_USAGE: Final = b'{"stream_options":{"include_usage":true},'

_Number = Annotated[float, Meta(ge=0)]
_List = Annotated[list[Any], Meta(min_length=1)]


class _Message(msgspec.Struct):
    role: str


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Common(bounds.Bounded, kw_only=True):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: bounds.Count | None = None
    temperature: _Number | None = None
    top_p: _Number | None = None
    n: bounds.Answers | None = None
    seed: int | None = None
    random_seed: int | None = None
    stop: str | bounds.Stops | None = None


class _Chat(_Common, kw_only=True):
    messages: Annotated[list[_Message], Meta(min_length=1)]
    max_completion_tokens: bounds.Count | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


class _Completion(_Common, kw_only=True):
    prompt: str | _List


class _Embedding(msgspec.Struct, kw_only=True):
    model: str
    input: Annotated[str, Meta(min_length=1)] | _List
    encoding_format: Literal["float", "base64"] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    random_seed: int | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One inference path. ``lead`` is how many chunks of its streams come before any token."""

    name: str
    path: str
    form: type[msgspec.Struct]
    lead: int = 0


CHAT: Final = Endpoint("chat.completions", "/v1/chat/completions", _Chat, lead=1)
COMPLETIONS: Final = Endpoint("completions", "/v1/completions", _Completion)
EMBEDDINGS: Final = Endpoint("embeddings", "/v1/embeddings", _Embedding)
ENDPOINTS: Final = (CHAT, COMPLETIONS, EMBEDDINGS)


class Call:
    """A sound request body: what it asks for, how it goes to the engine, and how it comes back.

    ``upstream_path`` is where it goes. ``prompt_tokens_max`` and ``completion_tokens_max`` are
    the most that it can take of a model with the context length of the route.
    """

    __slots__ = (
        "_asked",
        "_raw",
        "_value",
        "answers",
        "endpoint",
        "form",
        "is_stream",
        "model",
        "upstream_path",
    )

    def __init__(self, endpoint: Endpoint, raw: bytes, value: dict[str, Any], asked: Any) -> None:
        self.endpoint = endpoint
        self.upstream_path = endpoint.path
        self._raw = raw
        self._value = value
        self._asked = asked
        self.model: str = asked.model
        self.is_stream = bool(asked.stream)
        self.answers = _answers(asked)
        options = asked.stream_options
        if options is None:
            self.form = UsageForm.ON_FINISH
        else:
            self.form = UsageForm.OWN_CHUNK if options.include_usage else UsageForm.NONE

    @property
    def prompt(self) -> object:
        """Return the messages or the text that is continued, or None: nothing of it is kept."""
        return self._value.get("messages") or self._value.get("prompt")

    @property
    def size_bytes(self) -> int:
        """Return how many bytes the body has as it came."""
        return len(self._raw)

    def prompt_tokens_max(self, context_length: int) -> int:
        """Return the most tokens that the prompt can have: one a byte, and the template's."""
        return min(context_length, len(self._raw))

    def completion_tokens_max(self, context_length: int) -> int:
        """Return the most tokens that all answers together can have."""
        asked = self._asked
        if not isinstance(asked, _Common):
            return 0
        most = getattr(asked, "max_completion_tokens", None) or asked.max_tokens or context_length
        return self.answers * min(context_length, most)

    def pieces_for(self, route: Route) -> tuple[bytes | memoryview, ...]:
        """Return the body for the engine of ``route``."""
        asked, upstream_model = self._asked, route.upstream_model
        wants_usage = self.is_stream and self.form is not UsageForm.OWN_CHUNK
        is_unchanged = (
            self.model == upstream_model
            and asked.random_seed is None
            and self._value.get("tool_choice") != "any"
        )
        if is_unchanged and not wants_usage:
            return (self._raw,)
        if is_unchanged and "stream_options" not in self._value:
            start = self._raw.index(b"{") + 1
            return (_WITH_USAGE, memoryview(self._raw)[start:])
        return (orjson.dumps(self._changed(upstream_model, wants_usage=wants_usage)),)

    def watch(self, event_bytes_max: int) -> StreamWatch:
        """Return what looks at the engine's stream and turns it into the caller's."""
        return StreamWatch(self.form, lead=self.endpoint.lead, event_bytes_max=event_bytes_max)

    def read_whole(self, body: bytes, request_id: str) -> tuple[bytes, Tokens | None]:
        """Return an engine's whole reply as the caller gets it, and its token counts.

        Raises `MalformedReplyError`.
        """
        tokens, has_id = read_reply(body)
        if self.endpoint is EMBEDDINGS and not has_id:  # Mistral's client insists on one
            start = body.index(b"{") + 1
            is_empty = body[start : start + 16].lstrip().startswith(b"}")
            name = b'"id":"embd-%b"' % request_id[4:].encode()
            body = b"%b%b%b%b" % (body[:start], name, b"" if is_empty else b",", body[start:])
        return body, tokens

    def refused_by(self, route: Route) -> Refusal | None:
        """Return why the engine of ``route`` must not be asked this, or None."""
        engine = route.engine
        is_one_prompt = isinstance(self._asked, _Common)  # embeddings bring many inputs
        return (
            bounds.uncounted(engine, self.answers)
            or bounds.ambiguous_pattern(self._value, engine)
            or (
                bounds.prompt_too_long(len(self._raw), engine, route.context_length)
                if is_one_prompt
                else None
            )
        )

    def _changed(self, upstream_model: str, *, wants_usage: bool) -> dict[str, Any]:
        value = {**self._value, "model": upstream_model}
        if wants_usage:
            value["stream_options"] = {**(value.get("stream_options") or {}), "include_usage": True}
        seed = value.pop("random_seed", None)
        if seed is not None and value.get("seed") is None:
            value["seed"] = seed
        if value.get("tool_choice") == "any":
            value["tool_choice"] = "required"
        return value


def _answers(asked: Any) -> int:
    """Return how many texts the engine makes; an embedding counts as one however many inputs."""
    if not isinstance(asked, _Common):
        return 1
    each = max(asked.n or 1, asked.n_cmpl or 1, asked.best_of or 1)
    return each * bounds.texts_in(getattr(asked, "prompt", None))


def read_call(endpoint: Endpoint, raw: bytes) -> Call | Refusal:
    """Check ``raw`` as a body for ``endpoint``: strict JSON, then the fields that we rely on."""
    value = read_object(raw)
    if isinstance(value, Refusal):
        return value
    try:
        asked = msgspec.convert(value, endpoint.form)
    except msgspec.ValidationError as error:
        return explain(str(error))
    refusal = (
        bounds.refused_field(value)
        or bounds.too_many("prompt", getattr(asked, "prompt", None), bounds.PROMPTS_MAX)
        or bounds.too_many("input", getattr(asked, "input", None), bounds.INPUTS_MAX)
    )
    return refusal or Call(endpoint, raw, value, asked)
