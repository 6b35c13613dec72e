"""Where one more replica goes: a node with room and, if it needs any, its device indexes.

The choice is deterministic. Among the nodes with room it prefers, in this order: no accelerators
wasted on what needs none; fewer replicas of the same owner, so that a lost node takes few;
the tightest fit, so that large holes stay for large replicas; the name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tramontane.domain.fleet import Node, NodeStatus
from tramontane.domain.replica import Replica
from tramontane.domain.resources import Resources


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose replica it is; a rollout spreads the new generation whatever the old one did."""

    deployment_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Room:
    """What is left of one node. ``held`` has the owner of each replica on it."""

    node: Node
    free: Resources
    free_device_indexes: tuple[int, ...]
    held: tuple[Owner, ...] = ()

    def holds(self, need: Resources) -> bool:
        """Tell whether a replica with ``need`` fits."""
        return need.fits_in(self.free) and need.devices <= len(self.free_device_indexes)

    def has_free(self, device_indexes: tuple[int, ...]) -> bool:
        """Tell whether all these devices are free."""
        return set(device_indexes) <= set(self.free_device_indexes)

    def take(self, owner: Owner, need: Resources, device_indexes: tuple[int, ...]) -> "Room":
        """Return the room that is left after a replica of ``owner`` took its part."""
        left = tuple(i for i in self.free_device_indexes if i not in device_indexes)
        return replace(
            self,
            free=self.free - need,
            free_device_indexes=left,
            held=(*self.held, owner),
        )


@dataclass(frozen=True, slots=True)
class Holding:
    """What one attempt at a job holds.

    ``node_id`` is set where Tramontane chose the node; elsewhere its cluster counts it itself.
    """

    attempt_id: str
    job_id: str
    node_id: str | None
    resources: Resources
    device_indexes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Spot:
    """A place for one replica."""

    cluster_id: str
    node_id: str
    device_indexes: tuple[int, ...]


def rooms_of(
    nodes: Iterable[Node], replicas: Iterable[Replica], holdings: Iterable[Holding] = ()
) -> dict[str, Room]:
    """Return what is left of each ready node, by its id, beside the replicas and attempts on it."""
    rooms = {
        node.id: Room(node, whole_of(node), tuple(sorted(d.index for d in node.devices)))
        for node in sorted(nodes, key=lambda node: node.id)
        if node.status is NodeStatus.READY
    }
    for replica in replicas:
        room = rooms.get(replica.node_id)
        if room is not None and replica.holds_capacity:
            launch = replica.launch
            owner = Owner(replica.deployment_id, replica.generation)
            rooms[replica.node_id] = room.take(owner, launch.resources, launch.device_indexes)
    for holding in holdings:
        room = rooms.get(holding.node_id or "")
        if room is not None:
            owner = Owner(holding.job_id, 0)
            taken = room.take(owner, holding.resources, holding.device_indexes)
            rooms[room.node.id] = taken
    return rooms


def whole_of(node: Node) -> Resources:
    """Return what an empty ``node`` offers; its devices are counted, not taken on trust."""
    return replace(node.capacity, devices=len(node.devices))


def find_spot(rooms: Mapping[str, Room], owner: Owner, need: Resources) -> Spot | None:
    """Return the best place for one more replica of ``owner``, or None without room."""
    fitting = [room for room in rooms.values() if room.holds(need)]
    if not fitting:
        return None
    best = min(fitting, key=lambda room: _preference(room, owner, need))
    return Spot(best.node.cluster_id, best.node.id, best.free_device_indexes[: need.devices])


def explain_no_room(rooms: Mapping[str, Room], need: Resources) -> str:
    """Return in words what the node that comes nearest lacks to hold ``need``."""
    if not rooms:
        return f"needs {need.describe()}, and no node is ready"
    nearest = min(rooms.values(), key=lambda room: (_lack_rank(room, need), room.node.name))
    told = f"needs {_lack(nearest, need).describe()} more on the best node ({nearest.node.name})"
    if need.fits_in(whole_of(nearest.node)):
        return told
    return f"{told}, and is larger than any empty node"


def _preference(room: Room, owner: Owner, need: Resources) -> tuple[object, ...]:
    left = room.free - need
    capacity = room.node.capacity
    return (
        len(room.node.devices) if need.devices == 0 else 0,
        room.held.count(owner),
        len(room.free_device_indexes) - need.devices,
        _parts_per_million(left.memory_bytes, capacity.memory_bytes)
        + _parts_per_million(left.cpu_millicores, capacity.cpu_millicores),
        room.node.name,
        room.node.id,
    )


def _lack(room: Room, need: Resources) -> Resources:
    lack = need.shortfall(room.free)
    return replace(lack, devices=max(lack.devices, need.devices - len(room.free_device_indexes)))


def _lack_rank(room: Room, need: Resources) -> tuple[bool, int, int, int]:
    """Rank a node that could hold it if it were empty before one that never can."""
    lack = _lack(room, need)
    fits_never = not need.fits_in(whole_of(room.node))
    return (fits_never, lack.devices, lack.memory_bytes, lack.cpu_millicores)


def _parts_per_million(part: int, whole: int) -> int:
    return part * 1_000_000 // whole if whole else 0
