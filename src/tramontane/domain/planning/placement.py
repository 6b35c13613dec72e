"""Where one more replica goes: a node with room and, if it needs any, its device indexes.

The choice is deterministic. Among the nodes with room it prefers, in this order: no accelerators
wasted on what needs none; fewer replicas of the same owner, so that a lost node takes few;
the tightest fit, so that large holes stay for large replicas; the name. A replica on several nodes
takes them from one rack: the one that it leaves least of.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from tramontane.domain.fleet import Node, NodeStatus
from tramontane.domain.replica import Replica
from tramontane.domain.resources import NOTHING, Resources

NOBODY: Final[Mapping[str, Resources]] = {}


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose replica it is; a rollout spreads the new generation whatever the old one did."""

    deployment_id: str
    generation: int


_ANYBODY: Final = Owner("", 0)


@dataclass(frozen=True, slots=True)
class Room:
    """What is left of one node. ``held`` has the owner of each replica on it.

    ``unshared`` is what would be free without what others hold there, None when they hold
    nothing. Nobody here knows which devices those are: such a cluster chooses devices itself, and
    indexes are only counted.
    """

    node: Node
    free: Resources
    free_device_indexes: tuple[int, ...]
    held: tuple[Owner, ...] = ()
    unshared: Resources | None = None

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

    def take_any(self, owner: Owner, need: Resources) -> "Room":
        """Return the room that is left after a replica took its part, whichever devices it has."""
        return self.take(owner, need, self.free_device_indexes[: need.devices])

    def without(self, used: Resources) -> "Room":
        """Return the room that is left beside what others use; nothing is below zero."""
        return replace(self, free=self.free.shortfall(used), unshared=self.free)

    def alone(self) -> "Room":
        """Return the room that there would be if others used nothing."""
        return replace(self, free=self.unshared or self.free, unshared=None)


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
    """A place for one replica; ``peer_node_ids`` are its further nodes."""

    cluster_id: str
    node_id: str
    device_indexes: tuple[int, ...]
    peer_node_ids: tuple[str, ...] = ()


def rooms_of(
    nodes: Iterable[Node],
    replicas: Iterable[Replica],
    holdings: Iterable[Holding] = (),
    used: Mapping[str, Resources] = NOBODY,
) -> dict[str, Room]:
    """Return what is left of each ready node, by its id, beside the replicas and attempts on it.

    ``used`` is what others hold, by node id.
    """
    rooms = {
        node.id: Room(node, whole_of(node), tuple(sorted(d.index for d in node.devices)))
        for node in sorted(nodes, key=lambda node: node.id)
        if node.status is NodeStatus.READY
    }
    holding_replicas = [replica for replica in replicas if replica.holds_capacity]
    for replica in holding_replicas:
        room = rooms.get(replica.node_id)
        if room is not None:
            launch = replica.launch
            owner = Owner(replica.deployment_id, replica.generation)
            rooms[replica.node_id] = room.take(owner, launch.resources, launch.device_indexes)
    for holding in holdings:
        room = rooms.get(holding.node_id or "")
        if room is not None:
            owner = Owner(holding.job_id, 0)
            taken = room.take(owner, holding.resources, holding.device_indexes)
            rooms[room.node.id] = taken
    # Last: on its further nodes a replica has as many devices, and no indexes of its own.
    for replica in holding_replicas:
        for node_id in replica.peer_node_ids:
            room = rooms.get(node_id)
            if room is not None:
                owner = Owner(replica.deployment_id, replica.generation)
                rooms[node_id] = room.take_any(owner, replica.launch.resources)
    for node_id, resources in used.items():
        if node_id in rooms and resources != NOTHING:
            rooms[node_id] = rooms[node_id].without(resources)
    return rooms


def whole_of(node: Node) -> Resources:
    """Return what an empty ``node`` offers; its devices are counted, not taken on trust."""
    return replace(node.capacity, devices=len(node.devices))


def find_spot(
    rooms: Mapping[str, Room], owner: Owner, need: Resources, nodes: int = 1
) -> Spot | None:
    """Return the best place for one more replica of ``owner``, or None without room.

    With ``nodes`` above 1 it is as many nodes of one rack, each with room for ``need``.
    """
    fitting = [room for room in rooms.values() if room.holds(need)]
    fitting.sort(key=lambda room: _preference(room, owner, need))
    if nodes > 1:
        fitting = _one_rack(fitting, owner, nodes)
    if not fitting:
        return None
    best, *peers = fitting[:nodes]
    return Spot(
        best.node.cluster_id,
        best.node.id,
        best.free_device_indexes[: need.devices],
        tuple(room.node.id for room in peers),
    )


def explain_no_room(
    rooms: Mapping[str, Room], need: Resources, nodes: int = 1, cluster: str | None = None
) -> str:
    """Return in words what the node that comes nearest lacks to hold ``need``.

    ``rooms`` are those of ``cluster`` alone if that is given. How much others use is left out: it
    changes all the time, and a text that does would be written all the time.
    """
    wish = f"{nodes} nodes of one rack with {need.describe()} each"
    if nodes == 1:
        wish = need.describe()
    if not rooms:
        where = f" of cluster {cluster}" if cluster else ""
        return f"needs {wish}, and no node{where} is ready"
    alone = {node_id: room.alone() for node_id, room in rooms.items()}
    if find_spot(alone, _ANYBODY, need, nodes) is not None:
        return f"needs {wish}, and others use what there would be for it"
    fitting = [room for room in alone.values() if room.holds(need)]
    if nodes > 1 and fitting:
        best = max(_racks(fitting).values(), key=len)
        rack = _named_rack(best[0].node)
        return f"needs {wish}, and the best rack{rack} has room on {len(best)}"
    nearest = min(alone.values(), key=lambda room: (_lack_rank(room, need), room.node.name))
    told = f"needs {_lack(nearest, need).describe()} more on the best node ({nearest.node.name})"
    if nodes > 1:
        told = f"needs {nodes} nodes of one rack, and {told}"
    if need.fits_in(whole_of(nearest.node)):
        return told
    return f"{told}, and is larger than any empty node"


def _one_rack(fitting: list[Room], owner: Owner, nodes: int) -> list[Room]:
    """Return the rooms of the rack to take ``nodes`` of, none when no rack has so many."""
    racks = [rooms for rooms in _racks(fitting).values() if len(rooms) >= nodes]

    def preference(rooms: list[Room]) -> tuple[object, ...]:
        held = sum(room.held.count(owner) for room in rooms)
        return (held, len(rooms), rooms[0].node.name, rooms[0].node.id)

    return min(racks, key=preference) if racks else []


def _racks(rooms: Iterable[Room]) -> dict[tuple[str, str], list[Room]]:
    """Return the rooms by cluster and rack; the nodes of a cluster that tells no racks are one."""
    racks: dict[tuple[str, str], list[Room]] = {}
    for room in rooms:
        racks.setdefault((room.node.cluster_id, room.node.rack or ""), []).append(room)
    return racks


def _named_rack(node: Node) -> str:
    return f" ({node.rack})" if node.rack else ""


def _preference(room: Room, owner: Owner, need: Resources) -> tuple[object, ...]:
    left = room.free - need
    capacity = room.node.capacity
    return (
        len(room.node.devices) if need.devices == 0 else 0,
        room.held.count(owner),
        min(room.free.devices, len(room.free_device_indexes)) - need.devices,
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
