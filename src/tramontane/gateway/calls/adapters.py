"""How a request names the LoRA adapter that it wants, in the words of each engine.

vLLM serves an adapter as a model of its own name. llama.cpp loads adapters when it starts and takes
a scale for each of them with every request ("lora" in its server's README). Without the field all
that were loaded are applied, so it is always sent and names each: 1 for the one wanted, 0 for the
others, and 0 for all when the plain model is wanted. The caller cannot send it himself (`bounds`).
"""

from typing import Any, Final

import orjson

from tramontane.domain.routing import Route
from tramontane.gateway.calls.engines import LLAMACPP, VLLM

_FIELD: Final = b'"lora"'

Pieces = tuple[bytes | memoryview, ...]


def upstream_model(route: Route) -> str:
    """Return the name that the engine of ``route`` answers to."""
    if route.adapter is not None and route.engine == VLLM:
        return route.adapter.name
    return route.upstream_model


def scales_of(route: Route) -> bytes:
    """Return the field to put into every body for ``route``, with its comma; empty: none."""
    adapter = route.adapter
    count = adapter.count if adapter is not None else route.adapter_count
    if route.engine != LLAMACPP or not count:
        return b""
    wanted = adapter.index if adapter is not None else -1
    scales = [{"id": index, "scale": float(index == wanted)} for index in range(count)]
    return _FIELD + b":" + orjson.dumps(scales) + b","


def with_scales(scales: bytes, pieces: Pieces) -> Pieces:
    """Return the body ``pieces``, a JSON object with a field or more, with ``scales`` in it."""
    if any(_FIELD in bytes(piece) for piece in pieces):  # a null, or the word in a text
        value: dict[str, Any] = orjson.loads(b"".join(pieces))
        value.pop("lora", None)
        pieces = (orjson.dumps(value),)
    first = memoryview(pieces[0])
    start = bytes(first).index(b"{") + 1
    return (b"{" + scales, first[start:], *pieces[1:])
