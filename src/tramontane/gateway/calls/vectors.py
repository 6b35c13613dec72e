"""Embeddings cut to the ``dimensions`` that were asked for, and normalized again.

For engines that give a vector whole. The first numbers of a longer vector are a good shorter one
only where the model was trained for that (Kusupati et al., "Matryoshka Representation Learning",
2022); the gateway does what was asked, as OpenAI's own reference implementation does.
"""

import base64
import binascii
import math
import struct
from typing import Any

from tramontane.domain.refusal import Code, Refusal


def cut(reply: dict[str, Any], dimensions: int, model: str) -> Refusal | None:
    """Cut every vector in ``reply`` to ``dimensions`` numbers; return why that cannot be."""
    data = reply.get("data")
    for item in data if isinstance(data, list) else ():
        if not isinstance(item, dict):
            continue
        given = item.get("embedding")
        numbers = _numbers_of(given)
        if len(numbers) < dimensions:
            message = (
                f"the embeddings of the model {model!r} have {len(numbers)} dimensions: expected "
                f"at most that many, not {dimensions}; send a smaller number, or none for all"
            )
            return Refusal(Code.INVALID_VALUE, message, "dimensions")
        shorter = _normalized(numbers[:dimensions])
        item["embedding"] = _packed(shorter) if isinstance(given, str) else shorter
    return None


def _numbers_of(given: object) -> list[float]:
    """Return the numbers of a list, or of base64 of little-endian 32-bit floats."""
    if isinstance(given, list):
        return given
    try:
        raw = base64.b64decode(given if isinstance(given, str) else "", validate=True)
    except binascii.Error:
        return []
    return list(struct.unpack(f"<{len(raw) // 4}f", raw[: len(raw) // 4 * 4]))


def _packed(numbers: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def _normalized(numbers: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(number * number for number in numbers))
    return [number / length for number in numbers] if length else numbers
