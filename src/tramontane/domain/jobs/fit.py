"""Whether a job can ever run: on the machines that there are, and within its project's quota.

A cluster that does not answer keeps its nodes, and an installation without any node waits for one:
only what is certain is refused, with the nearest that would fit.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tramontane.domain.fleet import Node, NodeStatus
from tramontane.domain.jobs.attempt import Topology
from tramontane.domain.jobs.job import JobSpec
from tramontane.domain.planning.fleet_view import UNNAMED
from tramontane.domain.planning.placement import whole_of
from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.resources import Resources


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What a cluster has: its name, and the nodes that it names."""

    name: str
    nodes: tuple[Node, ...]


def facts_of(name: str, nodes: Sequence[Node]) -> ClusterFacts:
    """Return the facts of a cluster with these nodes.

    A node that is down is expected back as long as its cluster names it; then it has a reason.
    """
    gone = {None, UNNAMED}
    named = (n for n in nodes if n.status is not NodeStatus.LOST or n.reason not in gone)
    return ClusterFacts(name, tuple(named))


def check_fit(
    spec: JobSpec, clusters: Sequence[ClusterFacts], devices_max: int | None
) -> Refusal | None:
    """Return why the job could never run, or None. ``devices_max`` is its project's quota."""
    named = [cluster for cluster in clusters if spec.cluster in {None, cluster.name}]
    if spec.cluster is not None and not named:
        known = ", ".join(sorted(cluster.name for cluster in clusters))
        near = f"expected one of {known}, or leave it out" if known else "leave it out"
        msg = f"there is no cluster {spec.cluster!a}: {near}"
        return Refusal(Code.INVALID_VALUE, msg, "cluster")
    if devices_max is not None and spec.devices > devices_max:
        return _over_quota(spec, devices_max)
    known_sizes = [cluster for cluster in named if cluster.nodes]
    if not known_sizes or any(fits(spec, cluster.nodes) for cluster in known_sizes):
        return None
    return _too_large(spec, known_sizes)


def fits(spec: JobSpec, nodes: Sequence[Node]) -> bool:
    """Tell whether the nodes could hold one attempt if they were empty."""
    return _most_nodes(spec, nodes)[0] >= spec.nodes


def _most_nodes(spec: JobSpec, nodes: Sequence[Node]) -> tuple[int, str | None]:
    """Return how many nodes an attempt could take at most, and in which rack if that binds."""
    large = [node for node in nodes if spec.resources.fits_in(whole_of(node))]
    racks = Counter(node.rack for node in large if node.rack is not None)
    if spec.topology is not Topology.RACK or spec.nodes == 1:
        return len(large), None
    if not racks:
        return min(len(large), 1), None
    rack, count = max(racks.items(), key=lambda item: (item[1], item[0]))
    return count, rack


def _over_quota(spec: JobSpec, devices_max: int) -> Refusal:
    each = spec.resources.devices
    near = f"{devices_max} devices"
    if each and devices_max >= each:
        nodes = devices_max // each
        near = f"{nodes} node{'s' if nodes > 1 else ''} of {each} devices"
    return Refusal(
        Code.DOES_NOT_FIT,
        f"the job asks for {spec.devices} devices in all, and the quota of its project is "
        f"{devices_max}: ask for at most {near}, or ask an operator for a larger quota",
        "nodes" if spec.nodes > 1 else "devices",
    )


def _too_large(spec: JobSpec, clusters: Sequence[ClusterFacts]) -> Refusal:
    """Return the refusal that names the cluster that comes nearest."""
    most = {cluster.name: _most_nodes(spec, cluster.nodes) for cluster in clusters}
    name = max(sorted(most), key=lambda it: most[it][0])
    count, rack = most[name]
    if count == 0:
        return _larger_than_a_node(spec.resources, clusters)
    such = f"nodes with {spec.resources.describe()} each"
    where = f"rack {rack} of cluster {name}, the largest," if rack else f"cluster {name}"
    near = f"ask for at most {count} node{'s' if count > 1 else ''}"
    if spec.topology is Topology.RACK:
        near += ", or for another topology than rack"
    if spec.topology is Topology.RACK and rack is None:
        msg = f"the job asks for {spec.nodes} nodes in one rack, and {where} tells of no racks"
        return Refusal(Code.DOES_NOT_FIT, f"{msg}: {near}", "topology")
    msg = f"the job asks for {spec.nodes} {such}, and {where} has {count}: {near}"
    return Refusal(Code.DOES_NOT_FIT, msg, "nodes")


def _larger_than_a_node(need: Resources, clusters: Sequence[ClusterFacts]) -> Refusal:
    owners: Mapping[str, str] = {n.id: cluster.name for cluster in clusters for n in cluster.nodes}
    nodes = [node for cluster in clusters for node in cluster.nodes]
    nearest = min(nodes, key=lambda node: (*_distance(need, node), node.name))
    whole = whole_of(nearest)
    lacking = need.shortfall(whole)
    near = Resources(
        min(need.cpu_millicores, whole.cpu_millicores),
        min(need.memory_bytes, whole.memory_bytes),
        min(need.devices, whole.devices),
    )
    msg = (
        f"the job asks for {need.describe()} on a node, and no node has that much: the nearest, "
        f"{nearest.name} of cluster {owners[nearest.id]}, has {whole.describe()}; ask for at most "
        f"{near.describe()}"
    )
    param = "devices" if lacking.devices else "memory_bytes"
    if not lacking.devices and not lacking.memory_bytes:
        param = "cpu_millicores"
    return Refusal(Code.DOES_NOT_FIT, msg, param)


def _distance(need: Resources, node: Node) -> tuple[int, int, int]:
    """Order shortfalls: devices are the hardest to come by, then memory, then CPU."""
    lack = need.shortfall(whole_of(node))
    return (lack.devices, lack.memory_bytes, lack.cpu_millicores)
