"""Slurm nodes as what the driver reports. Pure: from listed nodes to observations."""

from collections.abc import Iterable, Mapping
from typing import Final

from tramontane.domain.fleet import Device
from tramontane.domain.observation import NodeObservation
from tramontane.domain.resources import NOTHING, Resources
from tramontane.drivers.slurm.dialects.records import SlurmNode

# A node that Slurm itself switched off comes back when it is needed.
_ASLEEP: Final = frozenset({"POWERED_DOWN", "POWERING_DOWN", "POWERING_UP", "POWER_DOWN"})
_GONE: Final = frozenset({"DOWN", "ERROR", "UNKNOWN"})
_DRAINED: Final = frozenset({"DRAIN", "FAIL", "INVALID_REG", "MAINTENANCE", "MAINT"})
_NEVER: Final = frozenset({"FUTURE", "DYNAMIC_FUTURE"})


def observations(
    nodes: Iterable[SlurmNode],
    *,
    partition: str | None,
    held: Mapping[str, Resources],
    racks: Mapping[str, str],
) -> tuple[NodeObservation, ...]:
    """Return the nodes of ``partition``; ``held`` is by node what counts as ours (`jobs.held_by`).

    What is allocated beyond that is in use by others.
    """
    return tuple(
        _observation(node, held.get(node.name, NOTHING), racks.get(node.name))
        for node in sorted(nodes, key=lambda node: node.name)
        if (partition is None or partition in node.partitions) and not node.states & _NEVER
    )


def is_out(node: SlurmNode) -> bool:
    """Tell whether nothing starts on the node until somebody brings it back."""
    return bool(node.states & (_GONE | _DRAINED | _NEVER)) and not node.states & _ASLEEP


def _observation(node: SlurmNode, held: Resources, rack: str | None) -> NodeObservation:
    kinds = [kind for kind, count in node.gpus for _ in range(count)]
    devices = tuple(Device(index, kind or "gpu", 0) for index, kind in enumerate(kinds))
    is_lost = bool(node.states & _GONE) and not node.states & _ASLEEP
    is_drained = bool(node.states & _DRAINED)
    allocated = Resources(node.used_cpus * 1000, node.used_memory_mb << 20, node.used_gpus)
    return NodeObservation(
        name=node.name,
        capacity=Resources(node.cpus * 1000, node.memory_mb << 20, len(devices)),
        devices=devices,
        is_lost=is_lost,
        is_drained=is_drained,
        reason=_reason(node) if is_lost or is_drained else None,
        rack=rack,
        used=allocated.shortfall(held),
    )


def _reason(node: SlurmNode) -> str:
    state = " and ".join(sorted(word.lower() for word in node.states & (_GONE | _DRAINED)))
    return f"{state}: {node.reason}" if node.reason else f"Slurm says {state}"
