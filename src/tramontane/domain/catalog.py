"""The catalogue: open-weight models and their versions, each pinned by a digest."""

from dataclasses import dataclass
from enum import StrEnum


class WeightsFormat(StrEnum):
    """The two formats that hold tensors and nothing executable."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True, slots=True)
class Model:
    """A named entry of the catalogue, visible to every project."""

    id: str
    name: str
    created_at_ms: int
    revision: int = 1


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable set of weights of a model.

    ``path`` is a GGUF file or a safetensors folder on the machines that serve it; ``digest`` is
    ``sha256:<hex>`` over the weights (for a folder: over the sorted list of its files' digests);
    ``context_length`` counts tokens; ``parameters`` is None when the file does not say.
    """

    id: str
    model_id: str
    number: int
    format: WeightsFormat
    path: str
    digest: str
    size_bytes: int
    architecture: str
    context_length: int
    precision: str
    licence: str
    created_at_ms: int
    parameters: int | None = None
