"""Is a request body a JSON object, and what is wrong with a field of it: in sentences."""

import re
from typing import Any, Final

import orjson

from tramontane.domain.refusal import Code, Refusal

DEPTH_MAX: Final = 200  # orjson reads 1,024 levels and writes 255; replies add a few
_NEXT_STEP: Final = "; see the API reference for the request's form"
_VALIDATION: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?$", re.DOTALL)
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


def too_deep(value: object) -> Refusal | None:
    """Return the refusal of a value that is nested deeper than it could be written again."""
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return None
    message = f"the request body is nested more than {DEPTH_MAX} levels deep; send it flatter"
    return Refusal(Code.INVALID_JSON, message)


def explain(told: str) -> Refusal:
    """Turn msgspec's "Expected `str`, got `int` - at `$.model`" into our refusal."""
    match = _VALIDATION.match(told)
    what, where = (match["what"], match["where"]) if match else (told, None)
    missing = _MISSING.match(what)
    if missing:
        param = f"{where}.{missing['name']}" if where else missing["name"]
        message = f"the field {param!r} is missing{_NEXT_STEP}"
        return Refusal(Code.MISSING_REQUIRED_PARAMETER, message, param)
    said = what.replace("`", "").replace("Expected", "expected", 1).replace("| null", "or null")
    message = f"the field {where!r} is wrong: {said}{_NEXT_STEP}"
    return Refusal(Code.INVALID_VALUE, message, where)
