"""Small GGUF files and safetensors folders, byte by byte: right ones, and any wrong one."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

U32, STRING, ARRAY, U64 = 4, 8, 9, 10
F32 = 0
METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.license": "apache-2.0",
    "general.file_type": 7,
    "llama.context_length": 512,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
}


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(item: Any) -> bytes:
    """Return a typed metadata value: a string, an integer (u32) or a list of strings."""
    if isinstance(item, str):
        return struct.pack("<I", STRING) + text(item)
    if isinstance(item, int):
        return struct.pack("<II", U32, item)
    if isinstance(item, bytes):  # already typed
        return item
    return struct.pack("<IIQ", ARRAY, STRING, len(item)) + b"".join(text(part) for part in item)


def tensor(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    head = text(name) + struct.pack("<I", len(shape))
    return head + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind, offset)


def gguf_bytes(
    metadata: Mapping[str, Any] | None = None,
    tensors: Sequence[bytes] | None = None,
    data: bytes = bytes(4 * 64),
    version: int = 3,
) -> bytes:
    """Return a GGUF file; by default one tensor of 64 float32."""
    metadata = METADATA if metadata is None else metadata
    tensors = [tensor("output.weight", (32, 2), F32, 0)] if tensors is None else tensors
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(key) + value(item) for key, item in metadata.items())
    head += b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def write_gguf(path: Path, **changes: Any) -> Path:
    """Write a GGUF file whose metadata is changed by ``changes`` (dots as __; None: left out)."""
    metadata = dict(METADATA)
    for name, item in changes.items():
        metadata[name.replace("__", ".")] = item
    kept = {key: item for key, item in metadata.items() if item is not None}
    path.write_bytes(gguf_bytes(kept))
    return path


HEADER: dict[str, Any] = {
    "model.a": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]},
    "model.b": {"dtype": "F32", "shape": [4], "data_offsets": [64, 80]},
}
CONFIG = {"architectures": ["MistralForCausalLM"], "max_position_embeddings": 2048}


def safetensors_bytes(header: Any = None, data: bytes = bytes(80)) -> bytes:
    """Return a safetensors file; ``header`` is JSON or, if bytes, taken as it is."""
    head = HEADER if header is None else header
    encoded = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def write_safetensors(folder: Path, *, licence: str | None = "apache-2.0") -> Path:
    """Write a folder of one safetensors file, its config and, with a licence, a model card."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(safetensors_bytes())
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    if licence is not None:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# A model\n")
    return folder
