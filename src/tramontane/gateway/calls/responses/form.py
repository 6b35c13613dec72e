"""What POST /v1/responses may ask: the fields, their bounds, and those that are refused by name.

Three kinds of field. Served: translated for the engine. Taken without effect, because they are
hints or concern tools that are never run here: ``prompt_cache_key``, ``safety_identifier``,
``user``, ``max_tool_calls``, most of ``include``. Refused by name: what would change the answer
and cannot be had, such as ``conversation``, built-in tools or ``truncation: auto``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from tramontane.domain.refusal import Code, Refusal
from tramontane.gateway.calls import bounds
from tramontane.gateway.calls.validation import explain

METADATA_MAX: Final = 16  # pairs; this and the two lengths are OpenAI's bounds
METADATA_KEY_MAX: Final = 64
METADATA_VALUE_MAX: Final = 512
TOOLS_MAX: Final = 128
NAME_MAX: Final = 128  # of a tool or a format
LOG_PROBS: Final = "message.output_text.logprobs"
# What may be included besides; none of it ever occurs in our output, so nothing is left out.
INCLUDABLE: Final = frozenset(
    {
        LOG_PROBS,
        "web_search_call.results",
        "web_search_call.action.sources",
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "reasoning.encrypted_content",  # our reasoning comes as plain text
    }
)
_NOT_SERVED: Final = {
    "conversation": "send the earlier items in 'input', or name the response before this one in "
    "'previous_response_id'",
    "prompt": "send its text in 'instructions' and 'input'",
    "context_management": "leave it out",
    "moderation": "leave it out",
    "personality": "say it in 'instructions'",
}

_Fraction = Annotated[float, Meta(ge=0, le=1)]
_Temperature = Annotated[float, Meta(ge=0, le=2)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Name = Annotated[str, Meta(min_length=1, max_length=NAME_MAX)]


# As ours are; it becomes part of a path to the control plane.
_ResponseId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+$", max_length=128)]


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: _Name | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: str | None = None
    generate_summary: str | None = None


class Tool(msgspec.Struct):
    """A function that the client runs; other tools are refused before this is read."""

    type: str
    name: _Name
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class Asked(msgspec.Struct, kw_only=True):
    """One request's fields. ``input`` is looked at item by item in `items`."""

    model: str
    input: str | list[Any] | None = None
    instructions: str | None = None
    tools: Annotated[list[Any], Meta(max_length=TOOLS_MAX)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    temperature: _Temperature | None = None
    top_p: _Fraction | None = None
    max_output_tokens: bounds.Count | None = None
    max_tool_calls: Annotated[int, Meta(ge=1, le=bounds.COUNT_MAX)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=bounds.LOG_PROBS_MAX)] | None = None
    include: Annotated[list[str], Meta(max_length=32)] | None = None
    metadata: dict[str, str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    previous_response_id: _ResponseId | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    background: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: Annotated[str, Meta(max_length=1_024)] | None = None
    safety_identifier: Annotated[str, Meta(max_length=1_024)] | None = None
    user: Annotated[str, Meta(max_length=1_024)] | None = None
    stop: str | bounds.Stops | None = None
    seed: int | None = None
    random_seed: int | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    top_k: Annotated[int, Meta(ge=-1, le=bounds.COUNT_MAX)] | None = None
    min_p: _Fraction | None = None

    @property
    def wants_log_probs(self) -> bool:
        """Tell whether log-probabilities belong into the answer."""
        return bool(self.top_logprobs) or LOG_PROBS in (self.include or ())


# Of the API, and hints like those above; a strict project may send them too.
_HINTS: Final = frozenset({"prompt_cache_retention", "prompt_cache_options", "background_options"})
_KNOWN: Final = frozenset(Asked.__struct_fields__) | _NOT_SERVED.keys() | _HINTS


def read_asked(value: dict[str, Any], *, is_strict: bool = False) -> Asked | Refusal:
    """Return the fields of the body ``value``, or why it is not served.

    ``is_strict``: a field that the API does not have is refused, not ignored.
    """
    refusal = _not_served(value) or (_unknown(value) if is_strict else None)
    if refusal is not None:
        return refusal
    try:
        asked = msgspec.convert(value, Asked)
    except msgspec.ValidationError as error:
        return explain(str(error))
    return _look(asked) or asked


def _not_served(value: Mapping[str, Any]) -> Refusal | None:
    for name, instead in _NOT_SERVED.items():
        if value.get(name) is not None:
            message = f"the field {name!r} is not served here: {instead}"
            return Refusal(Code.INVALID_VALUE, message, name)
    return None


def _unknown(value: Mapping[str, Any]) -> Refusal | None:
    for name in value:
        if name not in _KNOWN:
            message = (
                f"the field {name[:64]!r} is unknown, and your project refuses unknown fields; "
                "leave it out, or check its spelling"
            )
            return Refusal(Code.INVALID_VALUE, message, name[:64])
    return None


def _look(asked: Asked) -> Refusal | None:
    return _look_at_metadata(asked.metadata or {}) or _look_at_fields(asked) or _look_at_how(asked)


def _look_at_fields(asked: Asked) -> Refusal | None:
    unknown = [name for name in asked.include or () if name not in INCLUDABLE]
    if unknown:
        known = ", ".join(sorted(INCLUDABLE))
        return _wrong("include", f"{unknown[0][:64]!r} cannot be included: expected one of {known}")
    if asked.truncation == "auto":
        return _wrong("truncation", "'auto' is not served: shorten the input, and send 'disabled'")
    if asked.service_tier not in {None, "auto", "default"}:
        return _wrong("service_tier", "there is one tier only: expected auto or default")
    text, reasoning = asked.text, asked.reasoning
    if text is not None and text.verbosity not in {None, "medium"}:
        return _wrong("text.verbosity", "only 'medium' is served: say it in 'instructions'")
    if reasoning is not None:
        for name, given in (
            ("summary", reasoning.summary),
            ("generate_summary", reasoning.generate_summary),
        ):
            if given not in {None, "auto"}:
                message = "reasoning is not summarized, it comes as it is: leave it out"
                return _wrong(f"reasoning.{name}", message)
    if text is not None and text.format is not None and text.format.type == "json_schema":
        if text.format.name is None:
            return _missing("text.format.name")
        if text.format.schema is None:
            return _missing("text.format.schema")
    return None


def _look_at_how(asked: Asked) -> Refusal | None:
    if asked.background and asked.stream:
        message = (
            "a background response is not streamed: leave 'stream' out and ask for the response "
            "by its id until it is completed"
        )
        return _wrong("stream", message)
    if asked.background and asked.store is False:
        message = "a background response must be stored: leave 'store' out or send true"
        return _wrong("store", message)
    return None


def _look_at_metadata(metadata: Mapping[str, str]) -> Refusal | None:
    is_long = any(
        len(key) > METADATA_KEY_MAX or len(value) > METADATA_VALUE_MAX
        for key, value in metadata.items()
    )
    if len(metadata) <= METADATA_MAX and not is_long:
        return None
    expected = (
        f"expected at most {METADATA_MAX} pairs, keys of at most {METADATA_KEY_MAX} and values of "
        f"at most {METADATA_VALUE_MAX} characters"
    )
    return _wrong("metadata", f"there is too much of it: {expected}")


def _wrong(name: str, what: str) -> Refusal:
    return Refusal(Code.INVALID_VALUE, f"the field {name!r} is wrong: {what}", name)


def _missing(name: str) -> Refusal:
    return Refusal(Code.MISSING_REQUIRED_PARAMETER, f"the field {name!r} is missing", name)
