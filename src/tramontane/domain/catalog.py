"""The catalogue: open-weight models and their versions, each pinned by a digest."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class WeightsFormat(StrEnum):
    """The two formats that hold tensors and nothing executable."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"


class VersionKind(StrEnum):
    """What a model version can be used for."""

    MODEL = "model"  # served by itself
    ADAPTER = "adapter"  # a LoRA adapter, served together with the model that it was made for


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What can be asked of a model. None: nobody can tell before the engine is asked.

    ``generates``: it makes text at all; encoders do not. ``chats``: it has a chat template.
    ``fills_in``: it has the tokens for filling in the middle. ``calls_functions``: it answers
    with calls of tools. ``embeds``: it makes vectors.
    """

    generates: bool | None = None
    chats: bool | None = None
    fills_in: bool | None = None
    calls_functions: bool | None = None
    embeds: bool | None = None


UNKNOWN: Final = Capabilities()


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
    ``capabilities`` is what the files tell. An adapter has ``base_model_id``, the model that it was
    made for, and ``adapter_rank``, the largest rank of its matrices; its architecture and
    ``context_length`` are those of that model.
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
    capabilities: Capabilities = UNKNOWN
    base_model_id: str | None = None
    adapter_rank: int | None = None

    @property
    def kind(self) -> VersionKind:
        """Tell a model from an adapter."""
        return VersionKind.MODEL if self.base_model_id is None else VersionKind.ADAPTER
