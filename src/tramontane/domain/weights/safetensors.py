"""A safetensors folder: the header of each file, `config.json` and the model card.

The format is eight bytes of length, a JSON header, then the tensors back to back without holes
(https://github.com/huggingface/safetensors, "Format"). That last rule makes a cut file visible:
the header and the file's size must agree to the byte.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, cast

from tramontane.domain import strict_json
from tramontane.domain.catalog import UNKNOWN, Capabilities, WeightsFormat
from tramontane.domain.weights import abilities, lora
from tramontane.domain.weights.facts import (
    CONTEXT_LENGTH_MAX,
    PARAMETERS_MAX,
    ByteSource,
    MalformedWeightsError,
    WeightsFacts,
    licence_or_none,
)

HEADER_BYTES_MAX: Final = 8 << 20  # about 80,000 tensors in one file; sharded models have hundreds
TENSORS_MAX: Final = 1 << 17
DIMENSIONS_MAX: Final = 16
CONFIG_BYTES_MAX: Final = 1 << 20
TOKENIZER_CONFIG_BYTES_MAX: Final = 16 << 20  # some list every added token of a large vocabulary
INDEX_BYTES_MAX: Final = 32 << 20

# Bits per element; from the format's `Dtype`.
DTYPE_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

_LICENCE_LINE: Final = re.compile(r"^license:[ \t]*['\"]?([^'\"\r\n#]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Header:
    """One file's tensors: their shapes, rows first, and elements and bytes by dtype."""

    shapes: Mapping[str, tuple[int, ...]]
    elements: int
    bytes_by_dtype: Mapping[str, int]
    licence: str | None


@dataclass(frozen=True, slots=True)
class Config:
    """What `config.json` says. ``context_length`` counts tokens."""

    architecture: str
    context_length: int


def read_header(source: ByteSource) -> Header:
    """Return what the header of one file says, or raise `MalformedWeightsError`."""
    prefix = source.read(0, 8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > source.size_bytes - 8:
        msg = "it is cut short, or is not a safetensors file: its header goes beyond its end"
        raise MalformedWeightsError(msg)
    if not 2 <= length <= HEADER_BYTES_MAX:
        msg = f"its header claims {length} bytes; 2 to {HEADER_BYTES_MAX} are accepted"
        raise MalformedWeightsError(msg)
    try:
        header = strict_json.loads(source.read(8, length))
    except strict_json.StrictJsonError as error:
        msg = f"its header is not JSON: {error}"
        raise MalformedWeightsError(msg) from error
    if not isinstance(header, dict):
        msg = "its header is not a JSON object"
        raise MalformedWeightsError(msg)
    tensors = cast("dict[str, Any]", header)
    notes = tensors.pop("__metadata__", None)
    if not 0 < len(tensors) <= TENSORS_MAX:
        msg = f"it holds {len(tensors)} tensors; 1 to {TENSORS_MAX} are accepted"
        raise MalformedWeightsError(msg)
    return _summarize(tensors, notes, source.size_bytes - 8 - length)


def read_config(data: bytes) -> Config:
    """Return the architecture and context length of a `config.json`."""
    config = _object(data, "config.json")
    names = config.get("architectures")
    name = cast("list[Any]", names)[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or not 0 < len(name) <= 64 or not name.isidentifier():
        msg = "config.json does not name its architecture (architectures: [NAME])"
        raise MalformedWeightsError(msg)
    nested = config.get("text_config")
    inner = cast("dict[str, Any]", nested) if isinstance(nested, dict) else {}
    length = config.get("max_position_embeddings", inner.get("max_position_embeddings"))
    if (
        not isinstance(length, int)
        or isinstance(length, bool)
        or not 0 < length <= CONTEXT_LENGTH_MAX
    ):
        msg = (
            "config.json does not state a context length of 1 to "
            f"{CONTEXT_LENGTH_MAX} tokens (max_position_embeddings)"
        )
        raise MalformedWeightsError(msg)
    return Config(name, length)


def read_index(data: bytes) -> frozenset[str]:
    """Return the names of the files that a `model.safetensors.index.json` spreads tensors over."""
    mapping = _object(data, "model.safetensors.index.json").get("weight_map")
    if not isinstance(mapping, dict):
        msg = "model.safetensors.index.json holds no weight_map"
        raise MalformedWeightsError(msg)
    files = list(cast("dict[str, Any]", mapping).values())
    if not all(isinstance(name, str) for name in files):
        msg = "the weight_map of model.safetensors.index.json holds something that is no file name"
        raise MalformedWeightsError(msg)
    return frozenset(files)


def licence_of_card(text: str) -> str | None:
    """Return the licence that the front matter of a model card (`README.md`) names, or None."""
    if not text.startswith("---"):
        return None
    front = text[3:].split("\n---", 1)[0]
    match = _LICENCE_LINE.search(front)
    return licence_or_none(match[1]) if match else None


def read_tokenizer_config(data: bytes) -> Mapping[str, Any]:
    """Return what `tokenizer_config.json` holds."""
    return _object(data, "tokenizer_config.json")


def combine(
    headers: Sequence[Header],
    config: Config,
    card_licence: str | None,
    capabilities: Capabilities = UNKNOWN,
) -> WeightsFacts:
    """Return the facts of a folder from its files' headers, its config and its card."""
    precision, parameters, licence = _sum_up(headers)
    return WeightsFacts(
        format=WeightsFormat.SAFETENSORS,
        architecture=config.architecture,
        context_length=config.context_length,
        precision=precision,
        parameters=parameters,
        licence=card_licence or licence,
        capabilities=capabilities,
    )


def combine_adapter(header: Header, config: bytes, card_licence: str | None) -> WeightsFacts:
    """Return the facts of a folder that PEFT wrote; ``config`` is its `adapter_config.json`."""
    lora.check_config(_object(config, "adapter_config.json"))
    precision, parameters, licence = _sum_up([header])
    return WeightsFacts(
        format=WeightsFormat.SAFETENSORS,
        architecture="",
        context_length=0,
        precision=precision,
        parameters=parameters,
        licence=card_licence or licence,
        adapts=lora.peft_pairs(header.shapes),
    )


def _sum_up(headers: Sequence[Header]) -> tuple[str, int, str | None]:
    """Return the precision, the parameters and the licence of all files together."""
    held: dict[str, int] = {}
    names: set[str] = set()
    for header in headers:
        twice = names & header.shapes.keys()
        if twice:
            msg = f"the tensor {min(twice)[:64]!a} stands in two files"
            raise MalformedWeightsError(msg)
        names |= header.shapes.keys()
        for dtype, size_bytes in header.bytes_by_dtype.items():
            held[dtype] = held.get(dtype, 0) + size_bytes
    licences = [header.licence for header in headers if header.licence]
    precision = max(sorted(held), key=held.__getitem__)
    parameters = sum(header.elements for header in headers)
    return precision, parameters, licences[0] if licences else None


def capabilities_of(
    config: Config, files: Collection[str], tokenizer_config: Mapping[str, Any]
) -> Capabilities:
    """Return what the files of a folder tell of what the model can do."""
    return abilities.of_safetensors(config.architecture, files, tokenizer_config)


def _summarize(tensors: dict[str, Any], notes: object, data_bytes: int) -> Header:
    spans: list[tuple[int, int]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    held: dict[str, int] = {}
    total = 0
    for name, entry in tensors.items():
        dtype, shape, begin, end = _read_entry(name, entry)
        shapes[name] = shape
        spans.append((begin, end))
        held[dtype] = held.get(dtype, 0) + end - begin
        total += prod(shape)
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            msg = f"its tensors overlap or leave a hole at byte {min(begin, position)}"
            raise MalformedWeightsError(msg)
        position = end
    if position != data_bytes:
        found = "it is cut short" if position > data_bytes else "bytes follow its tensors"
        msg = f"{found}: its tensors need {position} bytes, the file has {data_bytes}"
        raise MalformedWeightsError(msg)
    licence = cast("dict[str, Any]", notes).get("license") if isinstance(notes, dict) else None
    return Header(shapes, total, held, licence_or_none(licence))


def _read_entry(name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """Return dtype, shape, begin and end of one tensor, each checked."""
    fields = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
    dtype = fields.get("dtype")
    shape = _integers(fields.get("shape"))
    span = _integers(fields.get("data_offsets"))
    shown = ascii(name[:64])
    if shape is None or span is None or len(span) != 2 or len(shape) > DIMENSIONS_MAX:
        msg = f"the tensor {shown} has no proper shape and data_offsets"
        raise MalformedWeightsError(msg)
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        msg = f"the tensor {shown} has an unknown dtype"
        raise MalformedWeightsError(msg)
    elements = 1
    for length in shape:
        elements *= length
        if elements > PARAMETERS_MAX:
            msg = f"the tensor {shown} has an impossible shape"
            raise MalformedWeightsError(msg)
    if (span[1] - span[0]) * 8 != elements * DTYPE_BITS[dtype]:
        msg = f"the tensor {shown} has a shape that does not match its bytes"
        raise MalformedWeightsError(msg)
    return dtype, tuple(shape), span[0], span[1]


def _integers(value: object) -> list[int] | None:
    """Return ``value`` if it is a list of integers from 0 on, else None."""
    if not isinstance(value, list):
        return None
    items = cast("list[Any]", value)
    if all(type(item) is int and item >= 0 for item in items):
        return items
    return None


def _object(data: bytes, what: str) -> dict[str, Any]:
    # Lenient on purpose: published configs hold `Infinity`, which the standard parser takes.
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        msg = f"{what} is not JSON"
        raise MalformedWeightsError(msg) from error
    if not isinstance(value, dict):
        msg = f"{what} is not a JSON object"
        raise MalformedWeightsError(msg)
    return cast("dict[str, Any]", value)
