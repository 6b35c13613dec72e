"""Where a replica goes, and what is said when it goes nowhere."""

import random
from dataclasses import replace

from tests.support.planning import GIB, NODE, SMALL, deployment_of, node_of, replica_of, typed_id
from tramontane.domain import ids
from tramontane.domain.fleet import Node, NodeStatus
from tramontane.domain.planning.placement import (
    Holding,
    Owner,
    explain_no_room,
    find_spot,
    rooms_of,
    whole_of,
)
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.resources import Resources

ME = Owner(deployment_of(1).id, 1)


def place(nodes: list[Node], replicas: list[Replica], need: Resources = SMALL) -> str | None:
    spot = find_spot(rooms_of(nodes, replicas), ME, need)
    return next((n.name for n in nodes if spot and n.id == spot.node_id), None)


def test_the_tightest_fit_wins() -> None:
    nodes = [node_of(1, NODE), node_of(2, Resources(8_000, 4 * GIB))]
    assert place(nodes, []) == "node-2"


def test_a_deployment_is_spread_before_nodes_are_packed() -> None:
    there = [replica_of(1, deployment_of(1), node=2)]
    nodes = [node_of(1, NODE), node_of(2, Resources(8_000, 4 * GIB))]
    assert place(nodes, there) == "node-1"


def test_an_old_generation_does_not_push_the_new_one_aside() -> None:
    old = [replica_of(1, deployment_of(1), node=1, generation=0)]
    nodes = [node_of(1), node_of(2, Resources(9_000, 32 * GIB))]
    assert place(nodes, old) == "node-1"


def test_accelerators_are_left_to_those_who_need_them() -> None:
    nodes = [node_of(1, NODE, devices=2), node_of(2, Resources(64_000, 512 * GIB))]
    assert place(nodes, []) == "node-2"
    assert place(nodes, [], Resources(1_000, GIB, 1)) == "node-1"
    there = [replica_of(1, deployment_of(1), node=2)]
    assert place(nodes, there) == "node-2", "before it is spread"


def test_devices_are_exclusive_and_taken_from_the_lowest_index() -> None:
    need = Resources(1_000, GIB, 2)
    taken = replica_of(1, deployment_of(2), need=need, devices=(0, 2))
    rooms = rooms_of([node_of(1, devices=4)], [taken])
    spot = find_spot(rooms, ME, need)
    assert spot is not None
    assert spot.device_indexes == (1, 3)
    full = rooms[spot.node_id].take(ME, need, spot.device_indexes)
    assert not full.holds(Resources(0, 0, 1))
    assert not full.has_free((1,))


def test_ended_replicas_hold_nothing_and_stopping_ones_do() -> None:
    need = Resources(8_000, 16 * GIB)
    for status, expected in (
        (ReplicaStatus.STOPPED, "node-1"),
        (ReplicaStatus.FAILED, "node-1"),
        (ReplicaStatus.STOPPING, None),
        (ReplicaStatus.UNKNOWN, None),
    ):
        there = [replica_of(1, deployment_of(2), status, need=need)]
        assert place([node_of(1)], there, need) == expected


def test_only_ready_nodes_get_anything() -> None:
    for status in NodeStatus:
        expected = "node-1" if status is NodeStatus.READY else None
        assert place([node_of(1, status=status)], []) == expected


def test_the_order_of_the_input_does_not_matter() -> None:
    nodes = [node_of(number) for number in range(1, 6)]
    replicas = [replica_of(n, deployment_of(n % 3), node=n % 5 + 1) for n in range(1, 9)]
    expected = place(nodes, replicas)
    for seed in range(20):
        random.Random(seed).shuffle(nodes)
        random.Random(seed).shuffle(replicas)
        assert place(nodes, replicas) == expected


def test_what_is_missing_is_said_of_the_nearest_node() -> None:
    rooms = rooms_of([node_of(1, Resources(8_000, 2 * GIB)), node_of(2)], [])
    need = Resources(1_000, 20 * GIB)
    assert explain_no_room(rooms, need) == (
        "needs 4.0 GiB memory more on the best node (node-2), and is larger than any empty node"
    )
    there = [replica_of(1, deployment_of(2), node=2, need=Resources(1_000, 10 * GIB))]
    rooms = rooms_of([node_of(2)], there)
    assert explain_no_room(rooms, Resources(1_000, 8 * GIB)) == (
        "needs 2.0 GiB memory more on the best node (node-2)"
    )
    assert "1 device more" in explain_no_room(rooms, Resources(1_000, GIB, 1))
    assert explain_no_room({}, SMALL) == "needs 1 CPU, 1.0 GiB memory, and no node is ready"


def test_attempts_at_jobs_hold_their_part_and_those_of_other_schedulers_do_not() -> None:
    node = node_of(1, devices=2)
    here = Holding("att_a", "job_a", node.id, Resources(1_000, GIB, 1), (0,))
    elsewhere = Holding("att_b", "job_a", None, Resources(1_000, GIB, 2))
    room = rooms_of([node], [], [here, elsewhere])[node.id]
    assert room.free_device_indexes == (1,)
    assert room.free == whole_of(node) - here.resources
    spot = find_spot({node.id: room}, ME, Resources(1_000, GIB, 1))
    assert spot is not None
    assert spot.device_indexes == (1,)


def racks(*names: str | None, devices: int = 4, clusters: str = "") -> list[Node]:
    """Return one node for each name of a rack; ``clusters`` has a digit for each, else all 1."""
    return [
        replace(
            node_of(number, devices=devices),
            rack=name,
            cluster_id=typed_id(ids.CLUSTER, int(clusters[number - 1]) if clusters else 1),
        )
        for number, name in enumerate(names, start=1)
    ]


def wide(nodes: list[Node], replicas: list[Replica], need: Resources, count: int) -> list[str]:
    spot = find_spot(rooms_of(nodes, replicas), ME, need, count)
    names = {node.id: node.name for node in nodes}
    return [] if spot is None else [names[i] for i in (spot.node_id, *spot.peer_node_ids)]


GANG = Resources(1_000, GIB, 4)


def test_what_others_use_is_no_room() -> None:
    node = node_of(1, devices=4)
    used = {node.id: Resources(0, 0, 3)}
    rooms = rooms_of([node], [], used=used)
    assert find_spot(rooms, ME, Resources(1_000, GIB, 2)) is None
    assert find_spot(rooms, ME, Resources(1_000, GIB, 1)) is not None
    told = "needs 1 CPU, 1.0 GiB memory, 2 devices, and others use what there would be for it"
    assert explain_no_room(rooms, Resources(1_000, GIB, 2)) == told
    more = rooms_of([node], [], used={node.id: Resources(500, 1, 4)})
    assert explain_no_room(more, Resources(1_000, GIB, 2)) == told, "it is said once"
    assert explain_no_room(rooms, Resources(1_000, GIB, 5)) == (
        "needs 1 device more on the best node (node-1), and is larger than any empty node"
    )
    over = rooms_of([node], [], used={node.id: Resources(99_000, 99 * GIB, 9)})
    assert over[node.id].free == Resources()
    lost = replace(node_of(2), status=NodeStatus.LOST)
    assert rooms_of([lost], [], used={lost.id: Resources(1_000)}) == {}


def test_a_tight_fit_counts_what_others_use() -> None:
    nodes = [node_of(1, devices=4), node_of(2, devices=4)]
    rooms = rooms_of(nodes, [], used={nodes[1].id: Resources(0, 0, 2)})
    spot = find_spot(rooms, ME, Resources(1_000, GIB, 2))
    assert spot is not None
    assert spot.node_id == nodes[1].id


def test_several_nodes_come_from_one_rack_and_the_one_with_the_least_left() -> None:
    nodes = racks("a", "a", "a", "b", "b", "c")
    assert wide(nodes, [], GANG, 2) == ["node-4", "node-5"]
    assert wide(nodes, [], GANG, 3) == ["node-1", "node-2", "node-3"]
    assert wide(nodes, [], GANG, 4) == []
    there = [replica_of(1, deployment_of(2), node=5, need=GANG, devices=(0, 1, 2, 3))]
    assert wide(nodes, there, GANG, 2) == ["node-1", "node-2"]
    mine = [replica_of(1, deployment_of(1), node=4, need=SMALL)]
    assert wide(nodes, mine, GANG, 2) == ["node-1", "node-2"], "a lost rack takes few"


def test_a_cluster_without_racks_is_one_and_clusters_are_never_mixed() -> None:
    assert wide(racks(None, None), [], GANG, 2) == ["node-1", "node-2"]
    assert wide(racks(None, None, clusters="12"), [], GANG, 2) == []
    assert wide(racks("a", "a", clusters="12"), [], GANG, 2) == []


def test_a_replica_on_several_nodes_holds_its_part_of_each() -> None:
    nodes = racks("a", "a")
    peer = nodes[1].id
    there = replica_of(
        1, deployment_of(2), need=Resources(1_000, GIB, 2), devices=(0, 1), peer_node_ids=(peer,)
    )
    # Indexes that another replica was given are not taken for those of the one on several nodes.
    other = replica_of(2, deployment_of(3), node=2, need=Resources(0, GIB, 2), devices=(0, 1))
    rooms = rooms_of(nodes, [there, other])
    assert [rooms[node.id].free.devices for node in nodes] == [2, 0]
    assert rooms[peer].free_device_indexes == ()
    assert rooms[peer].free.memory_bytes == NODE.memory_bytes - 2 * GIB
    gone = replace(there, status=ReplicaStatus.FAILED)
    assert rooms_of(nodes, [gone])[peer].free_device_indexes == (0, 1, 2, 3)


def test_the_reason_says_how_far_the_best_rack_is() -> None:
    nodes = racks("a", "b", "b")
    rooms = rooms_of(nodes, [])
    assert explain_no_room(rooms, GANG, 3) == (
        "needs 3 nodes of one rack with 1 CPU, 1.0 GiB memory, 4 devices each, "
        "and the best rack (b) has room on 2"
    )
    assert explain_no_room(rooms, Resources(1_000, GIB, 8), 2).startswith(
        "needs 2 nodes of one rack, and needs 4 devices more on the best node (node-1)"
    )
    assert explain_no_room({}, GANG, 2, "alps").endswith("no node of cluster alps is ready")
    used = {node.id: Resources(0, 0, 1) for node in nodes}
    assert explain_no_room(rooms_of(nodes, [], used=used), GANG, 2).endswith(
        "each, and others use what there would be for it"
    )
