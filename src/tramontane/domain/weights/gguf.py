"""The header of a GGUF file (versions 2 and 3), as ggml's docs/gguf.md defines it.

Reads only what the catalogue needs: architecture, context length, precision, parameter count and
licence; and checks that every tensor lies inside the file, so that a file cut short is refused
here and not by an engine later. Values are skipped, never built, unless they are needed.
"""

import struct
from dataclasses import dataclass
from typing import Final

from tramontane.domain.catalog import WeightsFormat
from tramontane.domain.weights import abilities, lora
from tramontane.domain.weights.facts import (
    CONTEXT_LENGTH_MAX,
    PARAMETERS_MAX,
    ByteSource,
    LoraPair,
    MalformedWeightsError,
    WeightsFacts,
    licence_or_none,
)
from tramontane.domain.weights.gguf_types import FILE_TYPES, TENSOR_TYPES

MAGIC: Final = b"GGUF"
HEADER_BYTES_MAX: Final = 64 << 20  # a vocabulary of 262,144 tokens with its merges takes 16 MB
METADATA_KEYS_MAX: Final = 4_096  # real files have 20 to 60
ARRAY_ELEMENTS_MAX: Final = 2 << 20  # of strings in one file: the largest vocabularies, twice
TENSORS_MAX: Final = 1 << 16  # the largest open models have about 2,000
KEY_BYTES_MAX: Final = 65_535  # the format's own limit
TENSOR_NAME_BYTES_MAX: Final = 1_024  # ggml's limit is 64
DIMENSIONS_MAX: Final = 4
ALIGNMENT_DEFAULT: Final = 32
ALIGNMENT_MAX: Final = 1 << 16

_BUFFER_BYTES: Final = 1 << 20
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_U64: Final = struct.Struct("<Q")
_WANTED_STRINGS: Final = frozenset(
    {"adapter.type", "general.architecture", "general.license", "general.type"}
)
_FIM_BYTES_MAX: Final = 64  # of a token around a gap
_TOKENS: Final = "tokenizer.ggml.tokens"
_WANTED_STRING_BYTES_MAX: Final = 4_096  # longer ones are no names

Scalar = int | float | bool | str


def is_gguf(source: ByteSource) -> bool:
    """Tell whether the file starts with GGUF's magic."""
    return source.read(0, 4) == MAGIC


def read_facts(source: ByteSource) -> WeightsFacts:
    """Return what the file says of itself, or raise `MalformedWeightsError`."""
    cursor, metadata, tensors = _read_header(source)
    _check_extent(tensors, metadata.values, cursor.offset, source.size_bytes)
    architecture = _architecture(metadata.values)
    licence = licence_or_none(metadata.values.get("general.license"))
    precision = _precision(metadata.values, tensors)
    if metadata.values.get("general.type") == "adapter":
        return WeightsFacts(
            format=WeightsFormat.GGUF,
            architecture=architecture,
            context_length=0,
            precision=precision,
            parameters=_parameters(tensors),
            licence=licence,
            adapts=_adapts(metadata.values, tensors),
        )
    return WeightsFacts(
        format=WeightsFormat.GGUF,
        architecture=architecture,
        context_length=_context_length(metadata.values, architecture),
        precision=precision,
        parameters=_parameters(tensors),
        licence=licence,
        capabilities=abilities.of_gguf(
            architecture,
            metadata.keys,
            cursor.fim_parts,
            has_doubt=cursor.has_fim_doubt,
        ),
    )


def read_shapes(source: ByteSource) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors, the row's length first, as the file has them."""
    return {tensor.name: tensor.shape for tensor in _read_header(source)[2]}


@dataclass(frozen=True, slots=True)
class _Metadata:
    """The keys that the file has, and the values that are wanted."""

    keys: frozenset[str]
    values: dict[str, Scalar]


def _read_header(source: ByteSource) -> tuple["_Cursor", _Metadata, list["_Tensor"]]:
    cursor = _Cursor(source)
    if cursor.take(4) != MAGIC:
        msg = "it does not start with GGUF's magic"
        raise MalformedWeightsError(msg)
    _check_version(cursor)
    tensor_count = cursor.count(TENSORS_MAX, "tensors")
    found = _read_metadata(cursor, cursor.count(METADATA_KEYS_MAX, "metadata keys"))
    metadata = found.values
    if _integer(metadata, "split.count", 1) > 1:
        msg = (
            f"it is one of {metadata['split.count']} parts: join them first with "
            "llama-gguf-split --merge"
        )
        raise MalformedWeightsError(msg)
    if tensor_count == 0:
        msg = "it holds no tensors"
        raise MalformedWeightsError(msg)
    return cursor, found, [_read_tensor(cursor) for _ in range(tensor_count)]


def _adapts(metadata: dict[str, Scalar], tensors: list["_Tensor"]) -> tuple[LoraPair, ...]:
    kind = metadata.get("adapter.type")
    if kind != "lora":
        msg = f"it is an adapter of the type {str(kind)[:64]!a}: only lora is served"
        raise MalformedWeightsError(msg)
    return lora.gguf_pairs({tensor.name: tensor.shape for tensor in tensors})


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    type_name: str
    shape: tuple[int, ...]
    elements: int
    size_bytes: int
    offset: int


class _Cursor:
    """Walks through the header; every step is checked against the file and the limits."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._end = min(source.size_bytes, HEADER_BYTES_MAX)
        self._is_whole = source.size_bytes <= HEADER_BYTES_MAX
        self._buffer = b""
        self._start = 0
        self._at = 0
        self._elements_left = ARRAY_ELEMENTS_MAX
        self.fim_parts: set[str] = set()
        self.has_fim_doubt = False

    @property
    def offset(self) -> int:
        return self._start + self._at

    def take(self, length: int) -> bytes:
        """Return the next ``length`` bytes."""
        if self._at + length > len(self._buffer):
            self._fill(length)
        taken = self._buffer[self._at : self._at + length]
        self._at += length
        return taken

    def skip(self, length: int) -> None:
        """Step over ``length`` bytes without reading them."""
        self._check(length)
        self._at += length
        if self._at > len(self._buffer):
            self._start += self._at
            self._buffer, self._at = b"", 0

    def scalar(self, layout: str) -> int | float | bool:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def u64(self) -> int:
        return _U64.unpack(self.take(8))[0]

    def count(self, most: int, what: str) -> int:
        """Return a 64-bit count of ``what``, at most ``most``."""
        value = self.u64()
        if value > most:
            msg = f"it claims {value} {what}; at most {most} are accepted"
            raise MalformedWeightsError(msg)
        return value

    def text(self, most: int, what: str) -> str:
        """Return a length-prefixed string of at most ``most`` bytes."""
        return _decode(self.take(self.count(most, f"bytes in {what}")), what)

    def skip_array(self, *, is_vocabulary: bool) -> None:
        """Step over an array of scalars or strings; arrays of arrays are not in use anywhere.

        In a vocabulary the tokens around a gap are noted, and what looks like one.
        """
        kind = int(self.scalar("<I"))
        length = self.u64()
        if kind in _SCALARS:
            self.skip(length * struct.calcsize(_SCALARS[kind]))
            return
        if kind != _STRING:
            msg = f"it holds an array of type {kind}; expected scalars or strings"
            raise MalformedWeightsError(msg)
        if length > self._elements_left:
            msg = f"its arrays hold more than {ARRAY_ELEMENTS_MAX} strings"
            raise MalformedWeightsError(msg)
        self._elements_left -= length
        for _ in range(length):
            size = self.u64()
            if is_vocabulary and size <= _FIM_BYTES_MAX:
                self._note_token(self.take(size))
            else:
                self.skip(size)

    def _note_token(self, token: bytes) -> None:
        part = abilities.FIM_TEXTS.get(token)
        if part is not None:
            self.fim_parts.add(part)
        elif b"<" in token and abilities.looks_like_fim(token):
            self.has_fim_doubt = True

    def _fill(self, length: int) -> None:
        self._check(length)
        self._start += self._at
        self._at = 0
        wanted = min(max(length, _BUFFER_BYTES), self._end - self._start)
        self._buffer = self._source.read(self._start, wanted)
        if len(self._buffer) < length:
            msg = "it became shorter while it was read"
            raise MalformedWeightsError(msg)

    def _check(self, length: int) -> None:
        if self.offset + length <= self._end:
            return
        if self._is_whole:
            msg = f"it is cut short: its header goes beyond the end of the file ({self._end} bytes)"
        else:
            msg = f"its header is longer than {HEADER_BYTES_MAX} bytes"
        raise MalformedWeightsError(msg)


def _decode(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        msg = f"{what} is not UTF-8"
        raise MalformedWeightsError(msg) from error


def _check_version(cursor: _Cursor) -> None:
    version = int(cursor.scalar("<I"))
    if version in (2, 3):
        return
    if version >> 16 and not version & 0xFFFF:
        msg = "it is big-endian; only little-endian GGUF is served"
    else:
        msg = f"it is GGUF version {version}; versions 2 and 3 are read: convert it again"
    raise MalformedWeightsError(msg)


def _read_metadata(cursor: _Cursor, count: int) -> _Metadata:
    wanted: dict[str, Scalar] = {}
    seen: set[str] = set()
    for _ in range(count):
        key = cursor.text(KEY_BYTES_MAX, "a metadata key")
        if key in seen:
            msg = f"the metadata key {key[:64]!a} stands twice"
            raise MalformedWeightsError(msg)
        seen.add(key)
        value = _read_value(cursor, key)
        if value is not None:
            wanted[key] = value
    return _Metadata(frozenset(seen), wanted)


def _read_value(cursor: _Cursor, key: str) -> Scalar | None:
    kind = int(cursor.scalar("<I"))
    if kind in _SCALARS:
        return cursor.scalar(_SCALARS[kind])
    if kind == _ARRAY:
        cursor.skip_array(is_vocabulary=key == _TOKENS)
        return None
    if kind != _STRING:
        msg = f"the metadata key {key[:64]!a} has the unknown type {kind}"
        raise MalformedWeightsError(msg)
    length = cursor.u64()
    if key in _WANTED_STRINGS and length <= _WANTED_STRING_BYTES_MAX:
        return _decode(cursor.take(length), key)
    cursor.skip(length)
    return None


def _read_tensor(cursor: _Cursor) -> _Tensor:
    name = cursor.text(TENSOR_NAME_BYTES_MAX, "a tensor's name")
    dimension_count = int(cursor.scalar("<I"))
    if dimension_count > DIMENSIONS_MAX:
        msg = f"a tensor has {dimension_count} dimensions; at most {DIMENSIONS_MAX} are possible"
        raise MalformedWeightsError(msg)
    shape = [cursor.u64() for _ in range(dimension_count)]
    kind = int(cursor.scalar("<I"))
    offset = cursor.u64()
    layout = TENSOR_TYPES.get(kind)
    shown = ascii(name[:64])
    if layout is None:
        msg = f"the tensor {shown} has the unknown type {kind}"
        raise MalformedWeightsError(msg)
    elements = 1
    for length in shape:
        elements *= length
    if not 0 < elements <= PARAMETERS_MAX or (shape and shape[0] % layout.block_elements):
        msg = f"the tensor {shown} has an impossible shape"
        raise MalformedWeightsError(msg)
    size_bytes = elements // layout.block_elements * layout.block_bytes
    return _Tensor(name, layout.name, tuple(shape), elements, size_bytes, offset)


def _check_extent(
    tensors: list[_Tensor], metadata: dict[str, Scalar], header_end: int, size_bytes: int
) -> None:
    alignment = _integer(metadata, "general.alignment", ALIGNMENT_DEFAULT)
    if not 8 <= alignment <= ALIGNMENT_MAX or alignment % 8:
        msg = f"its alignment of {alignment} bytes is not a multiple of 8 up to {ALIGNMENT_MAX}"
        raise MalformedWeightsError(msg)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        msg = "two of its tensors have the same name"
        raise MalformedWeightsError(msg)
    data_start = -(-header_end // alignment) * alignment
    needed = data_start + max(tensor.offset + tensor.size_bytes for tensor in tensors)
    if needed > size_bytes:
        msg = f"it is cut short: its tensors need {needed} bytes, the file has {size_bytes}"
        raise MalformedWeightsError(msg)
    if any(tensor.offset % alignment for tensor in tensors):
        msg = f"a tensor does not start at a multiple of {alignment} bytes"
        raise MalformedWeightsError(msg)


def _architecture(metadata: dict[str, Scalar]) -> str:
    name = metadata.get("general.architecture")
    if isinstance(name, str) and 0 < len(name) <= 64 and name.isascii() and name.isprintable():
        return name
    msg = "it does not name its architecture (general.architecture)"
    raise MalformedWeightsError(msg)


def _context_length(metadata: dict[str, Scalar], architecture: str) -> int:
    key = f"{architecture}.context_length"
    value = _integer(metadata, key, 0)
    if 0 < value <= CONTEXT_LENGTH_MAX:
        return value
    msg = f"it does not state a context length of 1 to {CONTEXT_LENGTH_MAX} tokens ({key})"
    raise MalformedWeightsError(msg)


def _integer(metadata: dict[str, Scalar], key: str, default: int) -> int:
    value = metadata.get(key, default)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    msg = f"the metadata key {key} is not an integer"
    raise MalformedWeightsError(msg)


def _parameters(tensors: list[_Tensor]) -> int:
    total = sum(tensor.elements for tensor in tensors)
    if total > PARAMETERS_MAX:
        msg = f"it claims {total} parameters"
        raise MalformedWeightsError(msg)
    return total


def _precision(metadata: dict[str, Scalar], tensors: list[_Tensor]) -> str:
    stated = FILE_TYPES.get(_integer(metadata, "general.file_type", -1))
    if stated is not None:
        return stated
    held: dict[str, int] = {}
    for tensor in tensors:
        held[tensor.type_name] = held.get(tensor.type_name, 0) + tensor.size_bytes
    return max(sorted(held), key=held.__getitem__)
