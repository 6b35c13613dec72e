"""Over which racks the nodes of a job are spread. Pure.

Slurm has no wish for several racks: its SPREAD_JOB does not look at the topology at all. So the
nodes are chosen for it when the job is handed over, by leaving the others out.
"""

from collections.abc import Iterable, Mapping

from tramontane.domain.resources import NOTHING, Resources
from tramontane.drivers.slurm.dialects.records import JobOrder, SlurmNode, SlurmPartition
from tramontane.drivers.slurm.nodes import is_out
from tramontane.drivers.slurm.orders import fits


def left_out(
    order: JobOrder,
    nodes: Iterable[SlurmNode],
    partition: SlurmPartition | None,
    racks: Mapping[str, str],
    replicas: Mapping[str, Resources],
) -> tuple[str, ...]:
    """Return the nodes that must not be taken, for the job to lie over as many racks as can be.

    ``racks`` are by node; ``replicas`` is what those hold, which lasts. As long as there are more
    racks than nodes, one node of each rack remains and Slurm chooses among them. Without racks
    nothing is left out.
    """
    by_rack: dict[str, list[SlurmNode]] = {}
    for node in nodes:
        in_partition = partition is None or partition.name in node.partitions
        if in_partition and fits(order, node):
            by_rack.setdefault(racks.get(node.name, ""), []).append(node)
    if len(by_rack) < 2:
        return ()

    def preference(node: SlurmNode) -> tuple[bool, bool, bool, int, int, str]:
        """Put first what starts soonest: not drained, not full for long, not full now."""
        lasting = replicas.get(node.name, NOTHING)
        is_full_long = not _has_room(order, node, lasting)
        is_full_now = not _has_room(order, node, _used(node))
        return is_out(node), is_full_long, is_full_now, node.used_gpus, node.used_cpus, node.name

    rows = [sorted(row, key=preference) for row in by_rack.values()]
    kept = {row[0].name for row in rows}
    depth = 1
    while len(kept) < order.nodes:
        layer = sorted((row[depth] for row in rows if len(row) > depth), key=preference)
        if not layer:
            break  # it is refused elsewhere, with words
        kept.update(node.name for node in layer[: order.nodes - len(kept)])
        depth += 1
    return tuple(sorted(node.name for row in rows for node in row if node.name not in kept))


def _has_room(order: JobOrder, node: SlurmNode, used: Resources) -> bool:
    gpus = sum(count for _, count in node.gpus)
    need = Resources(order.cpus * 1000, order.memory_mb << 20, order.gpus)
    whole = Resources(node.cpus * 1000, node.memory_mb << 20, gpus)
    return (need + used).fits_in(whole)


def _used(node: SlurmNode) -> Resources:
    return Resources(node.used_cpus * 1000, node.used_memory_mb << 20, node.used_gpus)
