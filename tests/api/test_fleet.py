"""/cloud/v1/clusters and /cloud/v1/nodes: what stands where, drained and resumed by operators."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.cloud import Cloud, check_error
from tramontane.domain.fleet import Cluster, ClusterStatus, Device, Node, NodeStatus
from tramontane.domain.replica import ReplicaStatus
from tramontane.domain.resources import Resources
from tramontane.store import fleet, replicas

OTHER = "rep_" + "b" * 20


def add(cloud: Cloud, name: str, **fields: Any) -> Node:
    """Record a node; ``cluster`` names another cluster than the first."""
    cluster = fields.pop("cluster", "local")
    devices = tuple(Device(index, "H200", 141 << 30) for index in (0, 1))
    node_id, capacity = cloud.ids.new("nod"), Resources(8_000, 8 << 30, 2)

    def write(tx: Any) -> Node:
        owner = fleet.get_cluster(tx, cluster) or fleet.upsert_cluster(
            tx, Cluster(cloud.ids.new("clu"), cluster, "slurm", ClusterStatus.READY, 1)
        )
        node = Node(node_id, owner.id, name, NodeStatus.READY, capacity, devices, 1)
        return fleet.upsert_node(tx, replace(node, **fields))

    return cloud.db.write(write)


def stored(cloud: Cloud, node: Node) -> Node:
    with cloud.db.read() as tx:
        return next(it for it in fleet.list_nodes(tx) if it.id == node.id)


def test_a_node_with_what_runs_on_it(cloud: Cloud) -> None:
    node = add(cloud, "r1n1", rack="r1", site="sines", country="PT")
    demo = cloud.services.deployments.get(cloud.member, "tramontane-demo", None).deployment
    holding = cloud.add_replica(demo.id, demo.project_id, node)
    found = cloud.cloud("GET", "/nodes/r1n1")
    assert found == cloud.cloud("GET", f"/nodes/{node.id}")
    assert found["replica_ids"] == [holding.id]
    told = ("cluster", "rack", "site", "country", "wanted", "failures", "devices_free")
    assert [found[name] for name in told] == ["local", "r1", "sines", "PT", None, 0, 2]
    reason = "exit code 1"
    cloud.db.write(
        lambda tx: replicas.transition(
            tx,
            holding,
            ReplicaStatus.FAILED,
            now_ms=cloud.clock.now_ms(),
            actor="a",
            message=reason,
            reason=reason,
        )
    )
    after = cloud.cloud("GET", "/nodes/r1n1")
    assert (after["replica_ids"], after["failures"]) == ([], 1)


def test_sites_add_up_what_stands_there(cloud: Cloud) -> None:
    before = cloud.cloud("GET", "/sites")["data"]
    sines = {"site": "sines", "country": "PT"}
    add(cloud, "a", rack="r1", **sines)
    used = add(cloud, "b", rack="r1", **sines)
    add(cloud, "c", rack="r1", cluster="far", status=NodeStatus.DRAINED, **sines)
    add(cloud, "d", site="jülich", country="DE")
    demo = cloud.services.deployments.get(cloud.member, "tramontane-demo", None).deployment
    replica = cloud.add_replica(demo.id, demo.project_id, used)
    resources = replace(replica.launch.resources, devices=1)
    launch = replace(replica.launch, resources=resources)
    cloud.db.write(lambda tx: replicas.insert(tx, replace(replica, id=OTHER, launch=launch)))
    found = cloud.cloud("GET", "/sites")
    first, second, *rest = found["data"]
    assert (first["name"], first["country"], first["nodes"]) == ("jülich", "DE", 1)
    assert second == {
        "object": "site",
        "name": "sines",
        "country": "PT",
        "clusters": ["far", "local"],
        "racks": 2,
        "nodes": 3,
        "nodes_ready": 2,
        "devices": 6,
        "devices_free": 3,
    }
    assert rest == before
    assert not found["has_more"]
    short = cloud.cloud("GET", "/sites?limit=1")
    assert (len(short["data"]), short["has_more"]) == (1, True)


def test_a_cluster_is_a_tree_of_racks(cloud: Cloud) -> None:
    for name, rack in (("b", "r2"), ("a", "r2"), ("c", "r1")):
        add(cloud, name, rack=rack, site="sines", country="PT")
    found = cloud.cloud("GET", "/clusters/local")
    assert (found["name"], found["site"], found["country"]) == ("local", "sines", "PT")
    racks = [(rack["name"], [node["name"] for node in rack["nodes"]]) for rack in found["racks"]]
    assert racks == [("r1", ["c"]), ("r2", ["a", "b"])]
    check_error(cloud.call("GET", "/cloud/v1/clusters/nowhere"), 404, "not_found")


def test_a_drain_is_a_wish_that_is_recorded_told_and_taken_back(cloud: Cloud) -> None:
    node = add(cloud, "r1n1")
    woken = cloud.wakes
    body = {"reason": "new disks"}
    drained = cloud.cloud("POST", "/nodes/r1n1/drain", json=body)
    assert (drained["wanted"], drained["wanted_reason"]) == ("drained", "new disks")
    assert drained["status"] == "ready", "it is not drained until its cluster says so"
    assert stored(cloud, node).wanted_drain_reason == "new disks"
    with cloud.unchanged():
        assert cloud.cloud("POST", "/nodes/r1n1/drain", json=body) == drained
    cloud.clock.advance(5)
    resumed = cloud.cloud("POST", f"/nodes/{node.id}/resume")
    assert (resumed["wanted"], resumed["wanted_reason"]) == ("ready", None)
    assert stored(cloud, node).counted_from_ms == cloud.clock.now_ms()
    assert cloud.wakes > woken
    story = cloud.services.events.story(cloud.operator, node.id, after=0, limit=9).items
    assert [(it.kind, it.message) for it in story] == [
        ("node.drained", "node r1n1: to be drained: new disks"),
        ("node.resumed", "node r1n1: to start things again"),
    ]


def test_a_drain_that_was_made_on_the_cluster_ends_by_a_resume(cloud: Cloud) -> None:
    node = add(cloud, "r1n1", status=NodeStatus.DRAINED, reason="by an administrator")
    found = cloud.cloud("GET", "/nodes/r1n1")
    assert (found["status"], found["reason"], found["wanted"]) == (
        "drained",
        "by an administrator",
        None,
    )
    assert cloud.cloud("POST", "/nodes/r1n1/resume")["wanted"] == "ready"
    assert stored(cloud, node).is_resume_wanted


def test_a_resume_of_what_is_not_drained_changes_nothing(cloud: Cloud) -> None:
    add(cloud, "r1n1")
    with cloud.unchanged():
        assert cloud.cloud("POST", "/nodes/r1n1/resume")["wanted"] is None


def test_nodes_of_one_name_are_told_apart_by_their_cluster(cloud: Cloud) -> None:
    add(cloud, "n1")
    far = add(cloud, "n1", cluster="far")
    body = {"reason": "x"}
    with cloud.unchanged():
        reply = cloud.call("POST", "/cloud/v1/nodes/n1/drain", json=body)
        assert "name its `cluster`" in check_error(reply, 409, "conflict", "cluster")
        reply = cloud.call("POST", "/cloud/v1/nodes/n1/drain?cluster=alps", json=body)
        check_error(reply, 404, "not_found", "cluster")
    cloud.cloud("POST", "/nodes/n1/drain?cluster=far", json=body)
    assert stored(cloud, far).wanted_drain_reason == "x"


@pytest.mark.parametrize(
    "body", [{}, {"reason": ""}, {"reason": "a\nb"}, {"reason": "x" * 201}, {"reason": 5}]
)
def test_a_drain_says_why_in_one_line(cloud: Cloud, body: dict[str, Any]) -> None:
    add(cloud, "r1n1")
    with cloud.unchanged():
        assert cloud.call("POST", "/cloud/v1/nodes/r1n1/drain", json=body).status_code == 400
