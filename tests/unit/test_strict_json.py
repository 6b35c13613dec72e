"""Strict JSON: equal to the standard parser where that is right, an error where it is lenient."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.domain.strict_json import StrictJsonError, loads

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_what_json_writes_is_read_back(value: object) -> None:
    assert loads(json.dumps(value).encode()) == value
    assert loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")) == value


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_one_error(data: bytes) -> None:
    with contextlib.suppress(StrictJsonError):
        json.dumps(loads(data))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "line 1 column 2"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b"1e999", "range"),
        (b'{"a": 1, "a": 1}', "'a' stands twice"),
        (b'{"x": [{"\\u00e9": 1, "\xc3\xa9": 2}]}', "twice"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        (b"[" * 100_000, "deeply"),
        (b'{"a":' * 100_000, "deeply"),
        (b"9" * 5000, "digits"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"{} {}", "Extra data"),
    ],
)
def test_what_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(StrictJsonError, match=reason):
        loads(text)
