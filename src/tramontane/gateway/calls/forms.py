"""The fields of each inference endpoint, typed: what both dialects have and what engines add.

A body is decoded into one of these straight from its bytes (`bodies`), so every field that is
named here is checked here. The strict form of an endpoint takes no other field; the lenient one
lets others through unseen. Bounds that protect the engine are in `bounds`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from tramontane.gateway.calls import bounds

_Number = Annotated[float, Meta(ge=0, le=1_000)]
_Fraction = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]  # OpenAI's bounds
_List = Annotated[list[Any], Meta(min_length=1)]
_Text = Annotated[str, Meta(min_length=1)]
_Object = dict[str, Any]


class MessageForm(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """One message of a chat, in either dialect."""

    role: str
    content: str | list[Any] | None = None
    name: str | None = None
    tool_calls: list[_Object] | None = None
    tool_call_id: str | None = None
    prefix: bool | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    function_call: _Object | None = None
    audio: _Object | None = None


class _StrictMessage(MessageForm, kw_only=True, frozen=True, forbid_unknown_fields=True, gc=False):
    pass


class StreamOptionsForm(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """How a stream is wanted."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class _StrictOptions(
    StreamOptionsForm, kw_only=True, frozen=True, forbid_unknown_fields=True, gc=False
):
    pass


class TextForm(bounds.Bounded, kw_only=True, frozen=True):
    """What every request for text may say."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptionsForm | msgspec.UnsetType | None = msgspec.UNSET
    max_tokens: bounds.Count | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=bounds.COUNT_MAX)] | None = None
    temperature: _Number | None = None
    top_p: _Fraction | None = None
    top_k: Annotated[int, Meta(ge=-1, le=bounds.COUNT_MAX)] | None = None
    min_p: _Fraction | None = None
    n: bounds.Answers | None = None
    seed: bounds.Seed | None = None
    random_seed: bounds.Seed | None = None
    stop: str | bounds.Stops | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    repetition_penalty: _Number | None = None
    user: Any = None
    metadata: Any = None
    prompt_logprobs: Any = None
    ignore_eos: bool | None = None


class ChatForm(TextForm, kw_only=True, frozen=True):
    """``/v1/chat/completions``."""

    messages: Annotated[Sequence[MessageForm], Meta(min_length=1)]
    max_completion_tokens: bounds.Count | None = None
    tools: Annotated[list[_Object], Meta(max_length=bounds.TOOLS_MAX)] | None = None
    tool_choice: str | _Object | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Object | None = None
    safe_prompt: bool | None = None
    prompt_mode: str | None = None
    guardrails: list[Any] | None = None
    prediction: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None
    moderation: Any = None
    # Hints, and what belongs to services around a model: taken and without effect.
    store: bool | None = None
    service_tier: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None


class CompletionForm(TextForm, kw_only=True, frozen=True):
    """``/v1/completions``."""

    prompt: str | _List
    max_tokens: bounds.CountOrNone | None = None
    suffix: str | None = None
    echo: bool | None = None


class FimForm(msgspec.Struct, kw_only=True, frozen=True):
    """Mistral's ``/v1/fim/completions``: fill in the middle between ``prompt`` and ``suffix``."""

    model: str
    prompt: str
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptionsForm | msgspec.UnsetType | None = msgspec.UNSET
    max_tokens: bounds.Count | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=bounds.COUNT_MAX)] | None = None
    temperature: _Number | None = None
    top_p: _Fraction | None = None
    seed: bounds.Seed | None = None
    random_seed: bounds.Seed | None = None
    stop: str | bounds.Stops | None = None
    metadata: Any = None


class EmbeddingForm(msgspec.Struct, kw_only=True, frozen=True):
    """``/v1/embeddings``. ``output_...`` are Mistral's names."""

    model: str
    input: _Text | _List
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: bounds.Dimensions | None = None
    output_dimension: bounds.Dimensions | None = None
    output_dtype: str | None = None
    user: Any = None
    metadata: Any = None
    stream: bool | None = None
    stream_options: StreamOptionsForm | msgspec.UnsetType | None = msgspec.UNSET


class _StrictChat(ChatForm, kw_only=True, frozen=True, forbid_unknown_fields=True):
    messages: Annotated[Sequence[_StrictMessage], Meta(min_length=1)]
    stream_options: _StrictOptions | msgspec.UnsetType | None = msgspec.UNSET


class _StrictCompletion(CompletionForm, kw_only=True, frozen=True, forbid_unknown_fields=True):
    stream_options: _StrictOptions | msgspec.UnsetType | None = msgspec.UNSET


class _StrictFim(FimForm, kw_only=True, frozen=True, forbid_unknown_fields=True):
    stream_options: _StrictOptions | msgspec.UnsetType | None = msgspec.UNSET


class _StrictEmbedding(EmbeddingForm, kw_only=True, frozen=True, forbid_unknown_fields=True):
    stream_options: _StrictOptions | msgspec.UnsetType | None = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One inference path.

    ``strict`` takes the fields of ``form`` and no others; ``decoder`` reads it. ``lead`` is how
    many chunks of its streams come before any token; ``prompt`` is the field of what is read.
    """

    name: str
    path: str
    form: type[msgspec.Struct]
    strict: type[msgspec.Struct] | None = None
    decoder: msgspec.json.Decoder[Any] | None = None
    lead: int = 0
    prompt: str = "messages"


def _endpoint(
    name: str, form: type[msgspec.Struct], strict: type[msgspec.Struct], prompt: str, lead: int = 0
) -> Endpoint:
    path = "/v1/" + name.replace(".", "/")
    return Endpoint(name, path, form, strict, msgspec.json.Decoder(strict), lead, prompt)


CHAT: Final = _endpoint("chat.completions", ChatForm, _StrictChat, "messages", lead=1)
COMPLETIONS: Final = _endpoint("completions", CompletionForm, _StrictCompletion, "prompt")
FIM: Final = _endpoint("fim.completions", FimForm, _StrictFim, "prompt", lead=1)
EMBEDDINGS: Final = _endpoint("embeddings", EmbeddingForm, _StrictEmbedding, "input")
ENDPOINTS: Final = (CHAT, COMPLETIONS, FIM, EMBEDDINGS)
