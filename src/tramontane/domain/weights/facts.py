"""What a file of weights says about itself, whatever its format.

Parsers read from a `ByteSource` and believe nothing: every length and count is checked against
the file's size and a named limit before it is used, so that a hostile header costs bounded time
and memory and ends in a `MalformedWeightsError` that says what is wrong.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from tramontane.domain.catalog import UNKNOWN, Capabilities, WeightsFormat

# The longest context that any published model states is 10,485,760 tokens (Llama 4 Scout).
CONTEXT_LENGTH_MAX: Final = 1 << 26
# One trillion-parameter models exist; a thousand times that is a lie.
PARAMETERS_MAX: Final = 10**15
LICENCE_CHARACTERS_MAX: Final = 128


class ByteSource(Protocol):
    """A file that can be read at any offset."""

    @property
    def size_bytes(self) -> int:
        """Return the length of the file."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on, or fewer at the end of the file."""
        ...


class MalformedWeightsError(ValueError):
    """The file is not what it claims to be, is cut short, or cannot be served."""


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One matrix that a LoRA adapter changes, by its name in the model; ``rank`` of the change."""

    name: str
    inputs: int
    outputs: int
    rank: int


@dataclass(frozen=True, slots=True)
class WeightsFacts:
    """What the weights say of themselves. ``context_length`` counts tokens.

    ``precision`` is the type that holds most bytes, such as ``Q8_0`` or ``BF16``. ``licence`` is
    None when the files do not name one. ``adapts`` are the matrices that a LoRA adapter changes,
    None for a model; an adapter does not know its ``context_length`` (0), nor in safetensors its
    ``architecture`` ("").
    """

    format: WeightsFormat
    architecture: str
    context_length: int
    precision: str
    parameters: int
    licence: str | None
    capabilities: Capabilities = UNKNOWN
    adapts: tuple[LoraPair, ...] | None = None


def licence_or_none(text: object) -> str | None:
    """Return ``text`` as a licence name, or None when it is not a short printable line."""
    if not isinstance(text, str):
        return None
    name = text.strip()
    if not name or len(name) > LICENCE_CHARACTERS_MAX or not name.isprintable():
        return None
    return name


class MemorySource:
    """A `ByteSource` over bytes that are already here."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size_bytes(self) -> int:
        """Return the number of bytes."""
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """Return at most ``length`` bytes from ``offset`` on."""
        return self._data[offset : offset + length]
