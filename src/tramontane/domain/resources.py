"""Amounts of a node that a replica needs or a node has."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Resources:
    """CPU in thousandths of a core, memory in bytes, whole accelerator devices."""

    cpu_millicores: int = 0
    memory_bytes: int = 0
    devices: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(
            self.cpu_millicores + other.cpu_millicores,
            self.memory_bytes + other.memory_bytes,
            self.devices + other.devices,
        )

    def __sub__(self, other: "Resources") -> "Resources":
        return Resources(
            self.cpu_millicores - other.cpu_millicores,
            self.memory_bytes - other.memory_bytes,
            self.devices - other.devices,
        )

    def fits_in(self, room: "Resources") -> bool:
        """Tell whether every amount is at most that of ``room``."""
        return (
            self.cpu_millicores <= room.cpu_millicores
            and self.memory_bytes <= room.memory_bytes
            and self.devices <= room.devices
        )

    def shortfall(self, room: "Resources") -> "Resources":
        """Return what ``room`` lacks to hold this, amount by amount, never below zero."""
        return Resources(
            max(0, self.cpu_millicores - room.cpu_millicores),
            max(0, self.memory_bytes - room.memory_bytes),
            max(0, self.devices - room.devices),
        )

    def describe(self) -> str:
        """Return a short text for people, such as ``2 CPU, 1.5 GiB memory, 1 device``."""
        parts: list[str] = []
        if self.cpu_millicores:
            parts.append(f"{self.cpu_millicores / 1000:g} CPU")
        if self.memory_bytes:
            parts.append(f"{_describe_bytes(self.memory_bytes)} memory")
        if self.devices:
            parts.append(f"{self.devices} device{'s' if self.devices != 1 else ''}")
        return ", ".join(parts) or "nothing"


NOTHING: Final = Resources()


def _describe_bytes(amount: int) -> str:
    if amount >= 1 << 30:
        return f"{amount / (1 << 30):.1f} GiB"
    return f"{amount / (1 << 20):.0f} MiB"
