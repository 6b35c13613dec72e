"""Is a request body a JSON object, and what is wrong with a field of it: in sentences."""

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import orjson

from tramontane.domain.refusal import Code, Refusal

DEPTH_MAX: Final = 200  # orjson reads 1,024 levels and writes 255; replies add a few
# Reading costs by the value, not by the byte: 10 MB of empty lists take 0.6 s and 300 MB, 10 MB of
# text 3 ms. A text that has as many commas, brackets or keys has more tokens than any model reads.
COMMAS_MAX: Final = 1 << 19
OPENED_MAX: Final = 1 << 17
KEYS_MAX: Final = 1 << 17
_FREE_BYTES: Final = 1024 * 1024  # which take some tens of milliseconds whatever they hold
_OPENERS: Final = (b"[", b"{")
_SAID_MAX: Final = 200  # characters of the decoder's words, which repeat a wrong value whole
_NEXT_STEP: Final = "; see the API reference for the request's form"
_MISSING: Final = re.compile(r"^Object missing required field `(?P<name>.*)`$")


def read_object(raw: bytes) -> dict[str, Any] | Refusal:
    """Return the JSON object in ``raw``, or why there is none."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        why = error.msg if raw else "it is empty"
        message = f"the request body is not valid JSON: {why}; send a JSON object in UTF-8"
        return Refusal(Code.INVALID_JSON, message)
    if not isinstance(value, dict):
        kind = "array" if isinstance(value, list) else "plain value"
        message = f"the request body must be a JSON object, not a JSON {kind}"
        return Refusal(Code.INVALID_JSON, message)
    return value


def too_many_values(raw: bytes) -> Refusal | None:
    """Return the refusal of a body whose reading alone would hold everybody up."""
    if len(raw) <= _FREE_BYTES or (
        raw.count(b",") <= COMMAS_MAX
        and raw.count(b"[") + raw.count(b"{") <= OPENED_MAX
        and raw.count(b'":') <= KEYS_MAX
    ):
        return None
    message = (
        f"the request body holds too many values: expected at most {COMMAS_MAX} commas, "
        f"{OPENED_MAX} lists and objects and {KEYS_MAX} keys; send it in parts"
    )
    return Refusal(Code.BODY_TOO_LARGE, message)


def may_be_deep(raw: bytes) -> bool:
    """Tell whether it is worth looking at how deep ``raw`` is nested: few bodies are."""
    if len(raw) <= 2 * DEPTH_MAX:
        return False
    left = DEPTH_MAX
    for opener in _OPENERS:  # hopping from one to the next beats counting: most text has few
        at = raw.find(opener)
        while at >= 0:
            left -= 1
            if left < 0:
                return True
            at = raw.find(opener, at + 1)
    return False


def too_deep(value: object) -> Refusal | None:
    """Return the refusal of a value that is nested deeper than it could be written again.

    ``value`` is as decoded from JSON, or a typed form.
    """
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            inner
            for outer in level
            for inner in _held_in(outer)
            if isinstance(inner, dict | list | msgspec.Struct)
        ]
        if not level:
            return None
    message = f"the request body is nested more than {DEPTH_MAX} levels deep; send it flatter"
    return Refusal(Code.INVALID_JSON, message)


def explain(told: str) -> Refusal:
    """Turn msgspec's "Expected `str`, got `int` - at `$.model`" into our refusal."""
    what, mark, place = told.rpartition(" - at `$")
    what, where = (what, place[:-1].removeprefix(".")) if mark else (told, None)
    missing = _MISSING.match(what) if len(what) <= _SAID_MAX else None
    if missing:
        param = f"{where}.{missing['name']}" if where else missing["name"]
        message = f"the field {param!r} is missing{_NEXT_STEP}"
        return Refusal(Code.MISSING_REQUIRED_PARAMETER, message, param)
    said = what if len(what) <= _SAID_MAX else f"{what[:_SAID_MAX]}..."
    said = said.replace("`", "").replace("Expected", "expected", 1).replace("| null", "or null")
    message = f"the field {where!r} is wrong: {said}{_NEXT_STEP}"
    return Refusal(Code.INVALID_VALUE, message, where)


def _held_in(outer: object) -> Iterable[Any]:
    if isinstance(outer, dict):
        return outer.values()
    if isinstance(outer, msgspec.Struct):
        return (getattr(outer, name) for name in outer.__struct_fields__)
    return outer if isinstance(outer, list) else ()
