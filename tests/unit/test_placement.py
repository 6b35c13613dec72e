"""Where a replica goes, and what is said when it goes nowhere."""

import random

from tests.support.planning import GIB, NODE, SMALL, deployment_of, node_of, replica_of
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
