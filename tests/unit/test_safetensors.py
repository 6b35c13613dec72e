"""The safetensors reader: what it finds, and each reason for which it refuses."""

import json
import struct
from typing import Any

import pytest

from tests.support.weights import CONFIG, HEADER, safetensors_bytes
from tramontane.domain.weights import safetensors
from tramontane.domain.weights.facts import MalformedWeightsError, MemorySource, WeightsFacts

CONFIG_READ = safetensors.Config("MistralForCausalLM", 2048)


def read(data: bytes) -> safetensors.Header:
    return safetensors.read_header(MemorySource(data))


def one(**changes: Any) -> dict[str, Any]:
    """Return a header of one tensor of 80 bytes, changed."""
    entry = {"dtype": "F32", "shape": [4, 5], "data_offsets": [0, 80]} | changes
    return {"a": {key: item for key, item in entry.items() if item is not None}}


def test_a_right_file() -> None:
    header = read(safetensors_bytes({"__metadata__": {"license": "mit"}, **HEADER}))
    assert header.shapes.keys() == {"model.a", "model.b"}
    assert header.elements == 36
    assert header.bytes_by_dtype == {"BF16": 64, "F32": 16}
    facts = safetensors.combine([header], CONFIG_READ, None)
    assert facts == WeightsFacts("safetensors", "MistralForCausalLM", 2048, "BF16", 36, "mit")
    assert safetensors.combine([header], CONFIG_READ, "apache-2.0").licence == "apache-2.0"


def test_types_smaller_than_a_byte() -> None:
    header = read(safetensors_bytes(one(dtype="F4", shape=[160])))
    assert header.elements == 160


def test_an_empty_tensor_takes_no_bytes() -> None:
    empty = {"b": {"dtype": "F32", "shape": [0], "data_offsets": [80, 80]}}
    assert read(safetensors_bytes(one() | empty)).elements == 20


TOO_LONG = safetensors.HEADER_BYTES_MAX + 1
OVERLAPPING = {"b": {"dtype": "U8", "shape": [40], "data_offsets": [60, 100]}}
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut short"),
    "only a length": (struct.pack("<Q", 2), "cut short"),
    "length beyond the file": (struct.pack("<Q", 1 << 63) + b"{}", "cut short"),
    "length 0": (struct.pack("<Q", 0) + b"{}", "header claims 0"),
    "header over the limit": (
        struct.pack("<Q", TOO_LONG) + bytes(TOO_LONG),
        "header claims",
    ),
    "a pickle": (b"\x80\x04\x95" + bytes(100), "cut short"),
    "not JSON": (safetensors_bytes(b"{'a': 1}"), "not JSON"),
    "not UTF-8": (safetensors_bytes(b'{"\xff": 1}'), "not JSON: byte 2 is not UTF-8"),
    "nested deeply": (safetensors_bytes(b"[" * 100_000), "nested too deeply"),
    "a list": (safetensors_bytes([]), "not a JSON object"),
    "no tensors": (safetensors_bytes({}), "holds 0 tensors"),
    "name twice": (safetensors_bytes(b'{"a": {}, "a": {}}'), "stands twice"),
    "NaN": (safetensors_bytes(b'{"a": NaN}'), "NaN"),
    "an endless number": (safetensors_bytes(b'{"a": ' + b"9" * 5000 + b"}"), "too many digits"),
    "entry not an object": (safetensors_bytes({"a": 5}), "no proper shape"),
    "no shape": (safetensors_bytes(one(shape=None)), "no proper shape"),
    "negative shape": (safetensors_bytes(one(shape=[-4, -5])), "no proper shape"),
    "shape not whole": (safetensors_bytes(one(shape=[4.0, 5])), "no proper shape"),
    "shape true": (safetensors_bytes(one(shape=[True, 20])), "no proper shape"),
    "shape too large": (safetensors_bytes(one(shape=[1 << 62] * 16)), "impossible shape"),
    "seventeen dimensions": (safetensors_bytes(one(shape=[1] * 17)), "no proper shape"),
    "no dtype": (safetensors_bytes(one(dtype=None)), "unknown dtype"),
    "unknown dtype": (safetensors_bytes(one(dtype="F128")), "unknown dtype"),
    "dtype a list": (safetensors_bytes(one(dtype=["F32"])), "unknown dtype"),
    "offsets reversed": (safetensors_bytes(one(data_offsets=[80, 0])), "does not match"),
    "three offsets": (safetensors_bytes(one(data_offsets=[0, 80, 90])), "no proper shape"),
    "shape and bytes differ": (safetensors_bytes(one(shape=[4, 6])), "does not match"),
    "cut short": (safetensors_bytes(one(), bytes(79)), "cut short: its tensors need 80"),
    "bytes left over": (safetensors_bytes(one(), bytes(81)), "bytes follow"),
    "a hole": (safetensors_bytes(one(data_offsets=[8, 88]), bytes(88)), "hole"),
    "an overlap": (
        safetensors_bytes(one() | OVERLAPPING, bytes(100)),
        "overlap",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(case: str) -> None:
    data, reason = BAD[case]
    with pytest.raises(MalformedWeightsError, match=reason):
        read(data)


def test_a_tensor_in_two_files() -> None:
    header = read(safetensors_bytes())
    with pytest.raises(MalformedWeightsError, match="two files"):
        safetensors.combine([header, header], CONFIG_READ, None)


def test_config() -> None:
    assert safetensors.read_config(json.dumps(CONFIG).encode()) == CONFIG_READ
    nested = {"architectures": ["A"], "text_config": {"max_position_embeddings": 5}}
    assert safetensors.read_config(json.dumps(nested).encode()).context_length == 5
    with_infinity = b'{"architectures": ["A"], "max_position_embeddings": 9, "x": Infinity}'
    assert safetensors.read_config(with_infinity).context_length == 9


@pytest.mark.parametrize(
    "config",
    [
        b"", b"[]", b"null", b"\xff", b"[" * 100_000, b"{}",
        b'{"architectures": [], "max_position_embeddings": 9}',
        b'{"architectures": "A", "max_position_embeddings": 9}',
        b'{"architectures": ["a b"], "max_position_embeddings": 9}',
        b'{"architectures": ["A"]}',
        b'{"architectures": ["A"], "max_position_embeddings": -1}',
        b'{"architectures": ["A"], "max_position_embeddings": true}',
        b'{"architectures": ["A"], "max_position_embeddings": 1e3}',
        b'{"architectures": ["A"], "max_position_embeddings": 99999999999}',
    ],
)  # fmt: skip
def test_configs_that_are_refused(config: bytes) -> None:
    with pytest.raises(MalformedWeightsError, match=r"config\.json"):
        safetensors.read_config(config)


def test_index() -> None:
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}
    assert safetensors.read_index(json.dumps(index).encode()) == {"1.safetensors", "2.safetensors"}
    for bad in (
        b"{}",
        b'{"weight_map": []}',
        b'{"weight_map": {"a": 5}}',
        b'{"weight_map": {"a": []}}',
    ):
        with pytest.raises(MalformedWeightsError):
            safetensors.read_index(bad)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", "apache-2.0"),
        ("---\nlanguage: en\nlicense: 'mit'  # ours\n---", "mit"),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
        ("license: mit", None),
        ("", None),
    ],
)
def test_licence_of_a_card(card: str, licence: str | None) -> None:
    assert safetensors.licence_of_card(card) == licence
