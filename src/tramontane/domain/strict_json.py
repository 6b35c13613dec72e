"""JSON from strangers: RFC 8259 to the letter, or a sentence that says what is wrong.

The standard parser takes `NaN`, keeps the last of two equal keys and lets half a surrogate pair
through. Each of these has been a way to make two readers of one body disagree, so here each is an
error. Depth and the length of numbers are bounded by the interpreter's own limits.
"""

import json
import math
from typing import Any, NoReturn


class StrictJsonError(ValueError):
    """The text is not JSON as RFC 8259 defines it; the message says why, without quoting it."""


def loads(data: bytes) -> Any:
    """Return the value of ``data`` (UTF-8), or raise `StrictJsonError`."""
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        if "\\u" in text:
            _refuse_lone_surrogates(value)
    except StrictJsonError:
        raise
    except UnicodeDecodeError as error:
        msg = f"byte {error.start} is not UTF-8"
        raise StrictJsonError(msg) from error
    except json.JSONDecodeError as error:
        msg = f"{error.msg} at line {error.lineno} column {error.colno}"
        raise StrictJsonError(msg) from error
    except RecursionError as error:
        msg = "it is nested too deeply"
        raise StrictJsonError(msg) from error
    except ValueError as error:
        msg = "it holds a number with too many digits"
        raise StrictJsonError(msg) from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        msg = f"the key {twice[:64]!a} stands twice in one object"
        raise StrictJsonError(msg)
    return value


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not a JSON number"
    raise StrictJsonError(msg)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        msg = "it holds a number beyond the range of a double"
        raise StrictJsonError(msg)
    return value


def _refuse_lone_surrogates(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        msg = "a string holds half a surrogate pair"
        raise StrictJsonError(msg) from error
