"""What a request may not ask of an engine that others share.

Engines trust their caller. Measured on llama.cpp (xllamacpp 2026.10), each with one request of
200 bytes: ``dry_penalty_last_n`` of 2,000,000,000 takes 16 GB of memory and stops every other
request of the replica for two minutes; an ambiguous ``grammar`` stops them for ever, because
cancelling waits for the same loop; ``samplers`` may name a sampler three million times. So amounts
that an engine reserves memory for, or repeats for each token, have a bound here, and fields whose
cost no bound can tell are refused. Fields of OpenAI's and Mistral's API are never refused.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from tramontane.domain.refusal import Code, Refusal

COUNT_MAX: Final = 2**31 - 1  # engines count in 32 bits and take the rest for another number
ANSWERS_MAX: Final = 128  # OpenAI's bound of `n`; an engine's is its number of slots
LOOK_BACK_MAX: Final = 1 << 17  # tokens that penalties look back on; 4 bytes each, per sampler
LOG_PROBS_MAX: Final = 20  # alternatives per token; OpenAI's bound, and vLLM's
BIASES_MAX: Final = 1_024
STOPS_MAX: Final = 64  # each is searched for after every token
SAMPLERS_MAX: Final = 32  # llama.cpp has a dozen kinds
PROMPTS_MAX: Final = 128  # of one completion request, which runs each like a request of its own
INPUTS_MAX: Final = 2_048  # of one embedding request; OpenAI's bound

# A schema becomes a grammar, and an ambiguous pattern in it hangs llama.cpp like an ambiguous
# grammar (measured: three levels of nested stars). Repeated groups are what makes patterns
# ambiguous without bound; a few repeated characters or classes are harmless.
SCHEMA_FIELDS: Final = ("response_format", "json_schema", "tools")
REPEATS_MAX: Final = 4
_REPEATED_GROUP: Final = re.compile(r"\)\s*[*+{]")
_REPEAT: Final = re.compile(r"[*+]|\{\d*,\d*\}")

DIMENSIONS_MAX: Final = 65_536  # of an embedding; known models have up to 8,192
TOOLS_MAX: Final = 1_024  # each becomes a rule of the grammar that holds the answer

ENGINES_THAT_BACKTRACK: Final = frozenset({"llamacpp"})
ENGINES_OF_TEXT: Final = frozenset({"llamacpp"})  # others may be sent images

# llama.cpp tokenizes the whole prompt before it finds it too long: 15 s of its time for 10 MB,
# unpaid. A token is 3 to 5 bytes of text and rarely more than 16; JSON may escape each byte.
BYTES_PER_TOKEN_MAX: Final = 64
BODY_BYTES_FREE: Final = 256 * 1024  # tools and schemas stand in the body too

Count = Annotated[int, Meta(ge=1, le=COUNT_MAX)]
CountOrNone = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Answers = Annotated[int, Meta(ge=1, le=ANSWERS_MAX)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Dimensions = Annotated[int, Meta(ge=1, le=DIMENSIONS_MAX)]
Stops = Annotated[list[str], Meta(max_length=STOPS_MAX)]
_LookBack = Annotated[int, Meta(ge=-1, le=LOOK_BACK_MAX)]
_LogProbs = Annotated[int, Meta(le=LOG_PROBS_MAX)]
_Biases = (
    Annotated[dict[str, Any], Meta(max_length=BIASES_MAX)]
    | Annotated[list[Any], Meta(max_length=BIASES_MAX)]
)
_Tokens = list[Annotated[int, Meta(ge=0, le=COUNT_MAX)]]
_Samplers = (
    Annotated[str, Meta(max_length=SAMPLERS_MAX)]
    | Annotated[list[str], Meta(max_length=SAMPLERS_MAX)]
)

# Each with what to do instead.
REFUSED: Final = {
    "grammar": "use response_format with a JSON schema",
    "grammar_lazy": "use response_format with a JSON schema",
    "grammar_triggers": "use response_format with a JSON schema",
    "id_slot": "leave it out: the engine finds the slot that knows the prompt",
    "lora": "leave it out: a deployment serves one model as it is",
    "kv_transfer_params": "leave it out: it names other hosts for the engine to call",
    "logits_processors": "use logit_bias",
    "priority": "leave it out: requests take turns by project",
}


class Bounded(msgspec.Struct, kw_only=True, frozen=True):
    """The bounded fields that every text request may carry."""

    n_predict: Annotated[int, Meta(ge=-1, le=COUNT_MAX)] | None = None
    n_cmpl: Answers | None = None
    best_of: Answers | None = None
    repeat_last_n: _LookBack | None = None
    dry_penalty_last_n: _LookBack | None = None
    n_prev: _LookBack | None = None
    logprobs: bool | _LogProbs | None = None
    top_logprobs: _LogProbs | None = None
    n_probs: _LogProbs | None = None
    logit_bias: _Biases | None = None
    samplers: _Samplers | None = None
    dry_sequence_breakers: Stops | None = None


def refused_field(value: dict[str, Any]) -> Refusal | None:
    """Return the refusal of a body that holds a field which may hurt others."""
    if REFUSED.keys().isdisjoint(value):
        return None
    for name, instead in REFUSED.items():
        if value.get(name) is not None:
            message = (
                f"the field {name!r} is not taken: it could hold up other requests of the same "
                f"engine; {instead}"
            )
            return Refusal(Code.INVALID_VALUE, message, name)
    return None


def ambiguous_pattern(value: dict[str, Any], engine: str) -> Refusal | None:
    """Return the refusal of a schema whose pattern could hang an engine that backtracks."""
    if engine not in ENGINES_THAT_BACKTRACK or value.keys().isdisjoint(SCHEMA_FIELDS):
        return None
    for name in SCHEMA_FIELDS:
        for pattern in _patterns(value.get(name)):
            if _REPEATED_GROUP.search(pattern) or len(_REPEAT.findall(pattern)) > REPEATS_MAX:
                message = (
                    f"a pattern in {name!r} repeats a group or has more than {REPEATS_MAX} "
                    f"repetitions, which could hold up {engine} for every other request: use a "
                    "simpler pattern, or check the value when you have it"
                )
                return Refusal(Code.UNSUPPORTED_BY_ENGINE, message, name)
    return None


def _patterns(schema: object) -> Iterator[str]:
    """Return every text under a key ``pattern`` or ``patternProperties``, however deep."""
    waiting = [schema]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            pattern = item.get("pattern")
            if isinstance(pattern, str):
                yield pattern
            named = item.get("patternProperties")
            if isinstance(named, dict):
                yield from named
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def prompt_too_long(size_bytes: int, engine: str, context_length: int) -> Refusal | None:
    """Refuse a body that cannot fit the context before the engine spends its time on it."""
    most = max(BODY_BYTES_FREE, BYTES_PER_TOKEN_MAX * context_length)
    if engine not in ENGINES_OF_TEXT or size_bytes <= most:
        return None
    message = (
        f"the request has {size_bytes} bytes, far more than the {context_length} tokens that the "
        f"model reads: expected at most {most} bytes; send a shorter prompt"
    )
    return Refusal(Code.CONTEXT_LENGTH_EXCEEDED, message)


def bad_prompts(name: str, given: str | list[Any], texts_max: int) -> Refusal | None:
    """Return what is wrong with a text, a list of token ids, or a list of such."""
    if isinstance(given, str):
        return None
    if type(given[0]) is int:
        return None if _are_tokens(given) else _mixed(name)
    if len(given) > texts_max:
        message = (
            f"the field {name!r} holds {len(given)} texts: expected at most {texts_max}; "
            "send them in parts"
        )
        return Refusal(Code.INVALID_VALUE, message, name)
    if not all(isinstance(item, str) for item in given) and not all(
        isinstance(item, list) and item and _are_tokens(item) for item in given
    ):
        return _mixed(name)
    return None


def _are_tokens(items: list[Any]) -> bool:
    try:
        msgspec.convert(items, _Tokens)  # a few times faster than looking at each here
    except msgspec.ValidationError:
        return False
    return True


def _mixed(name: str) -> Refusal:
    message = (
        f"the field {name!r} is wrong: expected a text, a list of texts, a list of token ids, or "
        "a list of such lists"
    )
    return Refusal(Code.INVALID_VALUE, message, name)


def too_many_answers(answers: int) -> Refusal | None:
    """Refuse a request whose prompts times ``n`` are too many, on any engine."""
    if answers <= ANSWERS_MAX:
        return None
    message = (
        f"the request asks for {answers} answers, prompts times n: expected at most {ANSWERS_MAX}; "
        "send it in parts"
    )
    return Refusal(Code.INVALID_VALUE, message, "n")


def texts_in(prompt: object) -> int:
    """Return how many prompts ``prompt`` holds; a list with numbers in it holds one, as tokens."""
    if not isinstance(prompt, list):
        return 1
    return max(1, sum(not isinstance(item, int) for item in prompt))
