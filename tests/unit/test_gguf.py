"""The GGUF reader: what it finds, and each reason for which it refuses."""

import struct

import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from tests.support.weights import ARRAY, F32, METADATA, STRING, U64, gguf_bytes, tensor, text
from tramontane.domain.catalog import Capabilities
from tramontane.domain.weights import gguf
from tramontane.domain.weights.facts import (
    CONTEXT_LENGTH_MAX,
    MalformedWeightsError,
    MemorySource,
    WeightsFacts,
)
from tramontane.domain.weights.gguf_types import FILE_TYPES, TENSOR_TYPES


def read(data: bytes) -> WeightsFacts:
    return gguf.read_facts(MemorySource(data))


def changed(**changes: object) -> dict[str, object]:
    metadata = METADATA | {key.replace("__", "."): item for key, item in changes.items()}
    return {key: item for key, item in metadata.items() if item is not None}


def test_the_tables_are_those_of_the_gguf_package() -> None:
    ours = {
        kind: (row.name, row.block_elements, row.block_bytes) for kind, row in TENSOR_TYPES.items()
    }
    theirs = {it.value: (it.name, *GGML_QUANT_SIZES[it]) for it in GGMLQuantizationType}
    assert ours == theirs
    stated = [it for it in LlamaFileType if it is not LlamaFileType.GUESSED]
    named = {it.value: it.name.split("_", 1)[1] for it in stated}
    assert named == FILE_TYPES


def test_a_right_file() -> None:
    facts = read(gguf_bytes())
    told = Capabilities(generates=True, chats=False, fills_in=False)
    assert facts == WeightsFacts("gguf", "llama", 512, "Q8_0", 64, "apache-2.0", told)


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions(version: int) -> None:
    assert read(gguf_bytes(version=version)).architecture == "llama"


def test_precision_is_the_type_of_most_bytes_when_not_stated() -> None:
    tensors = [
        tensor("small", (8,), F32, 0),
        tensor("large", (256, 4), 8, 32),  # Q8_0: 1088 bytes
    ]
    facts = read(gguf_bytes(changed(general__file_type=None), tensors, bytes(32 + 1088)))
    assert facts.precision == "Q8_0"
    assert facts.parameters == 8 + 1024


def test_a_licence_that_is_no_name_is_left_out() -> None:
    for licence in ("", "two\nlines", "x" * 200, "y" * 5000):
        assert read(gguf_bytes(changed(general__license=licence))).licence is None


HEAD = gguf_bytes()[:8]
ONE_KEY = text("a") + struct.pack("<II", 4, 0)
HUGE = (1 << 64) - 1
LONG_TOKENS = struct.pack("<IIQ", ARRAY, STRING, gguf.ARRAY_ELEMENTS_MAX + 1)
FLOAT = struct.pack("<If", 6, 1.5)
NESTED = struct.pack("<IIQ", ARRAY, ARRAY, 1)
ENDLESS_STRING = struct.pack("<IQ", STRING, HUGE)
ENDLESS_ARRAY = struct.pack("<IIQ", ARRAY, U64, HUGE)

BAD = {
    "empty": (b"", "cut short"),
    "other magic": (b"GGML" + gguf_bytes()[4:], "magic"),
    "version 1": (gguf_bytes(version=1), "version 1"),
    "version 99": (gguf_bytes(version=99), "version 99"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + gguf_bytes()[8:], "big-endian"),
    "header cut": (gguf_bytes()[:40], "cut short"),
    "tensors cut": (gguf_bytes()[:-1], "cut short: its tensors need"),
    "huge tensor count": (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), "tensors; at most"),
    "huge key count": (b"GGUF" + struct.pack("<IQQ", 3, 1, HUGE), "metadata keys; at most"),
    "no tensors": (gguf_bytes(tensors=[]), "no tensors"),
    "key twice": (HEAD + struct.pack("<QQ", 1, 2) + ONE_KEY * 2, "twice"),
    "key not text": (
        HEAD + struct.pack("<QQQ", 1, 1, 2) + b"\xff\xfe" + bytes(9),
        "not UTF-8",
    ),
    "array of arrays": (gguf_bytes(changed(x=NESTED)), "array of type 9"),
    "endless string": (gguf_bytes(changed(x=ENDLESS_STRING)), "cut short"),
    "endless array": (gguf_bytes(changed(x=ENDLESS_ARRAY)), "cut short"),
    "too many strings": (gguf_bytes(changed(x=LONG_TOKENS)), "strings"),
    "unknown value type": (gguf_bytes(changed(x=struct.pack("<I", 99))), "unknown type 99"),
    "one of several parts": (gguf_bytes(changed(split__count=3)), "join them"),
    "no architecture": (gguf_bytes(changed(general__architecture=None)), "architecture"),
    "architecture not text": (gguf_bytes(changed(general__architecture=7)), "architecture"),
    "architecture with a NUL": (gguf_bytes(changed(general__architecture="a\0")), "architecture"),
    "no context length": (gguf_bytes(changed(llama__context_length=None)), "llama.context_length"),
    "context length 0": (gguf_bytes(changed(llama__context_length=0)), "llama.context_length"),
    "absurd context length": (
        gguf_bytes(changed(llama__context_length=CONTEXT_LENGTH_MAX + 1)),
        "llama.context_length",
    ),
    "file type not whole": (gguf_bytes(changed(general__file_type=FLOAT)), "integer"),
    "odd alignment": (gguf_bytes(changed(general__alignment=7)), "alignment"),
    "alignment 0": (gguf_bytes(changed(general__alignment=0)), "alignment"),
    "unknown tensor type": (gguf_bytes(tensors=[tensor("a", (32,), 99, 0)]), "unknown type 99"),
    "five dimensions": (gguf_bytes(tensors=[tensor("a", (1,) * 5, F32, 0)]), "5 dimensions"),
    "no elements": (gguf_bytes(tensors=[tensor("a", (0, 4), F32, 0)]), "impossible shape"),
    "too many elements": (gguf_bytes(tensors=[tensor("a", (HUGE,) * 4, F32, 0)]), "impossible"),
    "half a block": (gguf_bytes(tensors=[tensor("a", (33,), 8, 0)]), "impossible shape"),
    "offset beyond the file": (gguf_bytes(tensors=[tensor("a", (32,), F32, HUGE)]), "cut short"),
    "offset not aligned": (gguf_bytes(tensors=[tensor("a", (8,), F32, 1)]), "multiple of 32"),
    "name twice": (gguf_bytes(tensors=[tensor("a", (8,), F32, 0)] * 2), "same name"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(case: str) -> None:
    data, reason = BAD[case]
    with pytest.raises(MalformedWeightsError, match=reason):
        read(data)


class Liar(MemorySource):
    """A file that is shorter than it says: it was cut while it was read."""

    @property
    def size_bytes(self) -> int:
        return super().size_bytes + 1_000_000


def test_a_file_that_shrinks_while_it_is_read() -> None:
    with pytest.raises(MalformedWeightsError, match="became shorter"):
        gguf.read_facts(Liar(gguf_bytes()[:100]))


def test_a_header_longer_than_the_limit() -> None:
    class Sparse(MemorySource):
        @property
        def size_bytes(self) -> int:
            return 1 << 40

        def read(self, offset: int, length: int) -> bytes:
            return super().read(offset, length).ljust(length, b"\0")

    endless = struct.pack("<IQ", STRING, gguf.HEADER_BYTES_MAX)
    with pytest.raises(MalformedWeightsError, match="longer than"):
        gguf.read_facts(Sparse(gguf_bytes(changed(x=endless))))
