"""Reads a request body once: strict JSON, the fields that are known, nothing that hurts others.

The usual body holds known fields only and is decoded straight from its bytes into a typed form,
which looks at every byte of it. Whatever that decoder does not take is read again by a JSON
parser, which knows what is wrong with it, or finds nothing but fields that nobody here knows:
those are let through, since engines ignore them, unless the project wants them refused.
"""

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tramontane.domain.refusal import Code, Refusal
from tramontane.gateway.calls import bounds, engines, infill
from tramontane.gateway.calls.call import Call, ChatCall, EmbeddingCall
from tramontane.gateway.calls.completions import CompletionCall, FimCall
from tramontane.gateway.calls.forms import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    ENDPOINTS,
    FIM,
    CompletionForm,
    EmbeddingForm,
    Endpoint,
    FimForm,
)
from tramontane.gateway.calls.validation import (
    explain,
    may_be_deep,
    read_object,
    too_deep,
    too_many_values,
)

COUNT_PATHS: Final = tuple(path for path, _ in engines.COUNTING.values())
UPSTREAM_PATHS: Final = (CHAT.path, COMPLETIONS.path, EMBEDDINGS.path, infill.PATH, *COUNT_PATHS)
__all__ = [
    "CHAT",
    "COMPLETIONS",
    "EMBEDDINGS",
    "ENDPOINTS",
    "FIM",
    "UPSTREAM_PATHS",
    "Call",
    "Endpoint",
    "read_call",
]

_UNKNOWN: Final = re.compile(r"unknown field `(?P<name>.*?)`(?: - at `\$\.?(?P<where>.*)`)?$")
_NAME_MAX: Final = 64  # of an unknown field's, in the refusal of it
_UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_call(endpoint: Endpoint, raw: bytes, *, is_strict: bool = False) -> Call | Refusal:
    """Check ``raw`` as a body for ``endpoint``. ``is_strict``: unknown fields are refused."""
    assert endpoint.decoder is not None  # of the endpoints that are read here
    excess = too_many_values(raw)
    if excess is not None:
        return excess
    try:
        asked = endpoint.decoder.decode(raw)
    except _UNDECODABLE:
        return _read_closely(endpoint, raw, is_strict=is_strict)
    kind, unfit = _KINDS[endpoint.name]
    deep = too_deep(asked) if may_be_deep(raw) else None
    return deep or unfit(asked) or kind(endpoint, raw, asked)


def _read_closely(endpoint: Endpoint, raw: bytes, *, is_strict: bool) -> Call | Refusal:
    value = read_object(raw)
    if isinstance(value, Refusal):
        return value
    deep = too_deep(value) if may_be_deep(raw) else None
    if deep is not None:
        return deep
    try:
        asked = msgspec.convert(value, endpoint.form)
    except msgspec.ValidationError as error:
        return explain(str(error))
    refusal = bounds.refused_field(value) or (
        _unknown_field(endpoint, value) if is_strict else None
    )
    kind, unfit = _KINDS[endpoint.name]
    return refusal or unfit(asked) or kind(endpoint, raw, asked, value)


def _unknown_field(endpoint: Endpoint, value: dict[str, Any]) -> Refusal | None:
    """Return the refusal of a field that neither API nor any engine has."""
    known = {name: held for name, held in value.items() if name not in engines.EXTENSIONS}
    try:
        msgspec.convert(known, endpoint.strict or endpoint.form)
    except msgspec.ValidationError as error:
        match = _UNKNOWN.search(str(error))
        if match:
            name = match["name"][:_NAME_MAX]
            name = f"{match['where']}.{name}" if match["where"] else name
            message = (
                f"the field {name!r} is unknown, and your project refuses unknown fields; leave it "
                "out, or check its spelling"
            )
            return Refusal(Code.INVALID_VALUE, message, name)
    return None


def _unfit_completion(asked: CompletionForm) -> Refusal | None:
    return bounds.bad_prompts("prompt", asked.prompt, bounds.PROMPTS_MAX)


def _unfit_gap(asked: FimForm) -> Refusal | None:  # noqa: ARG001 - each field says it all
    return None


def _unfit_embedding(asked: EmbeddingForm) -> Refusal | None:
    if asked.output_dtype not in {None, "float"}:
        message = "the field 'output_dtype' may only be float here: the engines give no others"
        return Refusal(Code.UNSUPPORTED_BY_ENGINE, message, "output_dtype")
    return bounds.bad_prompts("input", asked.input, bounds.INPUTS_MAX)


# Each endpoint's call, and what tells what is wrong with fields that are each of the right type.
_KINDS: Final[dict[str, tuple[type[Call], Callable[[Any], Refusal | None]]]] = {
    CHAT.name: (ChatCall, engines.refused_chat),
    COMPLETIONS.name: (CompletionCall, _unfit_completion),
    FIM.name: (FimCall, _unfit_gap),
    EMBEDDINGS.name: (EmbeddingCall, _unfit_embedding),
}
