"""Hostile weights: whatever the bytes, a reader answers or refuses, in little time and memory."""

import contextlib
import struct
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.weights import F32, HEADER, METADATA, gguf_bytes, safetensors_bytes, tensor
from tramontane.domain.weights import gguf, safetensors
from tramontane.domain.weights.facts import MalformedWeightsError, MemorySource

GOOD_GGUF = gguf_bytes()
GOOD_SAFETENSORS = safetensors_bytes()
SECONDS_MAX = 5.0  # generous: the machine is shared

edits = st.lists(
    st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4
)
numbers = st.sampled_from([0, 1, 7, 255, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1, (1 << 64) - 1])


def overwritten(data: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    changed = bytearray(data)
    for place, new in changes:
        at = place % len(changed)
        changed[at : at + len(new)] = new
    return bytes(changed)


def check_gguf(data: bytes) -> None:
    started_s = time.monotonic()
    with contextlib.suppress(MalformedWeightsError):
        facts = gguf.read_facts(MemorySource(data))
        assert facts.context_length > 0
        assert facts.parameters > 0
    assert time.monotonic() - started_s < SECONDS_MAX


def check_safetensors(data: bytes) -> None:
    with contextlib.suppress(MalformedWeightsError):
        header = safetensors.read_header(MemorySource(data))
        assert sum(header.bytes_by_dtype.values()) < len(data)
        assert header.shapes


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    check_gguf(data)
    check_gguf(b"GGUF\x03\x00\x00\x00" + data)
    check_safetensors(data)
    check_safetensors(struct.pack("<Q", len(data)) + data)


@given(edits)
def test_overwritten_gguf(changes: list[tuple[int, bytes]]) -> None:
    check_gguf(overwritten(GOOD_GGUF, changes))


@given(edits)
def test_overwritten_safetensors(changes: list[tuple[int, bytes]]) -> None:
    check_safetensors(overwritten(GOOD_SAFETENSORS, changes))


@given(st.integers(0, len(GOOD_GGUF)), st.integers(0, len(GOOD_SAFETENSORS)))
def test_every_cut_is_seen(gguf_end: int, safetensors_end: int) -> None:
    for data, end, check in (
        (GOOD_GGUF, gguf_end, lambda it: gguf.read_facts(MemorySource(it))),
        (GOOD_SAFETENSORS, safetensors_end, lambda it: safetensors.read_header(MemorySource(it))),
    ):
        if end == len(data):
            check(data)
            continue
        with pytest.raises(MalformedWeightsError):
            check(data[:end])


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=4), numbers)
def test_hostile_numbers_in_gguf(rows: list[tuple[int, int, int, int]], context: int) -> None:
    tensors = [
        tensor(f"t{index}", (a, b), c & 0xFFFFFFFF if c > 50 else F32, d)
        for index, (a, b, c, d) in enumerate(rows)
    ]
    length = struct.pack("<IQ", 10, context)
    check_gguf(gguf_bytes(METADATA | {"llama.context_length": length}, tensors))


@given(
    st.dictionaries(
        st.sampled_from(["model.a", "model.b", "x"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "F4", "", "X"]),
                "shape": st.lists(st.integers(-2, 10) | numbers, max_size=4),
                "data_offsets": st.lists(st.integers(-1, 90) | numbers, min_size=2, max_size=2),
            }
        ),
    )
)
def test_hostile_numbers_in_safetensors(header: dict[str, Any]) -> None:
    check_safetensors(safetensors_bytes(header))
    check_safetensors(safetensors_bytes(HEADER | header))


@pytest.mark.slow
def test_the_largest_vocabulary_of_hostile_strings_is_read_in_time() -> None:
    count = gguf.ARRAY_ELEMENTS_MAX
    tokens = struct.pack("<IIQ", 9, 8, count) + bytes(8 * count)
    started_s = time.monotonic()
    check_gguf(gguf_bytes(METADATA | {"tokenizer.ggml.tokens": tokens}))
    assert time.monotonic() - started_s < SECONDS_MAX
