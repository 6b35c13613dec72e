from dataclasses import replace

from tests.store import samples
from tests.store.samples import NOW_MS
from tramontane.domain.fleet import ClusterStatus, NodeStatus
from tramontane.domain.resources import Resources
from tramontane.store import fleet


def test_a_cluster_is_inserted_then_written_over(database):
    first = samples.cluster(1)
    assert database.write(lambda tx: fleet.upsert_cluster(tx, first)) == first
    silent = replace(first, status=ClusterStatus.UNKNOWN, reason="no answer for 30 s")
    second = database.write(lambda tx: fleet.upsert_cluster(tx, silent))
    assert second == replace(silent, revision=2)
    database.write(lambda tx: fleet.upsert_cluster(tx, samples.cluster(2)))
    with database.read() as tx:
        assert fleet.get_cluster(tx, first.id) == second
        assert fleet.get_cluster(tx, "cluster-1") == second
        assert fleet.get_cluster(tx, "cluster-3") is None
        assert fleet.list_clusters(tx) == [second, samples.cluster(2)]


def test_a_node_is_inserted_then_written_over(database):
    first = samples.node(1)
    bare = samples.node(2, devices=(), cluster_id=samples.make_id("clu", 2))

    def write(tx):
        fleet.upsert_cluster(tx, samples.cluster(1))
        fleet.upsert_cluster(tx, samples.cluster(2))
        fleet.upsert_node(tx, bare)
        return fleet.upsert_node(tx, first)

    assert database.write(write) == first
    lost = replace(
        first,
        status=NodeStatus.LOST,
        capacity=Resources(1, 2, 0),
        devices=first.devices[:1],
        last_seen_at_ms=NOW_MS + 5,
    )
    second = database.write(lambda tx: fleet.upsert_node(tx, lost))
    assert second == replace(lost, revision=2)
    with database.read() as tx:
        assert fleet.list_nodes(tx) == [second, bare]
        assert fleet.list_nodes(tx, first.cluster_id) == [second]
