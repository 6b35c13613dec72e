from dataclasses import replace

import pytest

from tests.store import samples
from tests.store.samples import DEPLOYMENT, NOW_MS, OTHER_DEPLOYMENT, OTHER_PROJECT, PROJECT
from tramontane.domain.replica import IllegalTransitionError, Replica, ReplicaStatus
from tramontane.store import events, replicas
from tramontane.store.db import Database, StaleError

STARTING, READY, UNKNOWN = ReplicaStatus.STARTING, ReplicaStatus.READY, ReplicaStatus.UNKNOWN
STOPPING, STOPPED, FAILED = ReplicaStatus.STOPPING, ReplicaStatus.STOPPED, ReplicaStatus.FAILED


@pytest.fixture(autouse=True)
def _populated(database: Database) -> None:
    samples.populate(database)


def move(database: Database, seen: Replica, to: ReplicaStatus, at_ms=NOW_MS, **changes) -> Replica:
    return database.write(
        lambda tx: replicas.transition(
            tx, seen, to, now_ms=at_ms, actor="replicas", message=f"now {to}", **changes
        )
    )


def test_every_field_comes_back(database):
    stored = samples.replica(
        1, status=READY, address="127.0.0.1:4000", ready_at_ms=NOW_MS, reason="fine"
    )
    database.write(lambda tx: replicas.insert(tx, stored))
    with database.read() as tx:
        assert replicas.get_for(tx, PROJECT, stored.id) == stored


def test_another_projects_replica_is_not_found(database):
    mine = samples.replica(1)
    theirs = samples.replica(2, project_id=OTHER_PROJECT, deployment_id=OTHER_DEPLOYMENT)
    database.write(lambda tx: [replicas.insert(tx, each) for each in (mine, theirs)])
    with database.read() as tx:
        assert replicas.get_for(tx, PROJECT, theirs.id) is None
        assert replicas.get_for(tx, None, theirs.id) == theirs
        assert replicas.list_for(tx, PROJECT) == [mine]
        assert replicas.list_for(tx, PROJECT, deployment_id=OTHER_DEPLOYMENT) == []
        assert replicas.list_for(tx, None) == [mine, theirs]
        assert replicas.list_for(tx, None, deployment_id=OTHER_DEPLOYMENT) == [theirs]
        assert replicas.list_of(tx, DEPLOYMENT) == [mine]


def test_a_life_leaves_its_story(database):
    seen = samples.replica(1)
    database.write(lambda tx: replicas.insert(tx, seen))
    seen = move(database, seen, STARTING, NOW_MS + 10)
    seen = move(database, seen, READY, NOW_MS + 20, address="127.0.0.1:4000")
    assert seen.ready_at_ms == NOW_MS + 20
    seen = move(database, seen, UNKNOWN, NOW_MS + 30, reason="no answer")
    seen = move(database, seen, READY, NOW_MS + 40, reason=None)
    assert (seen.ready_at_ms, seen.reason, seen.revision) == (NOW_MS + 20, None, 5)
    seen = move(database, seen, STOPPING, NOW_MS + 50)
    seen = move(database, seen, STOPPED, NOW_MS + 60)
    with database.read() as tx:
        assert replicas.get_for(tx, PROJECT, seen.id) == seen
        told = events.story(tx, seen.id, PROJECT)
        assert [event.kind for event in told] == [
            "replica.starting",
            "replica.ready",
            "replica.unknown",
            "replica.ready",
            "replica.stopping",
            "replica.stopped",
        ]
        assert told[0].data == {"from": "pending", "deployment_id": DEPLOYMENT}
        assert (told[0].actor, told[0].message) == ("replicas", "now starting")
        assert events.story(tx, seen.id, OTHER_PROJECT) == []


def test_an_illegal_transition_carries_the_story_and_changes_nothing(database):
    seen = samples.replica(1)
    database.write(lambda tx: replicas.insert(tx, seen))
    seen = move(database, seen, STARTING)
    seen = move(database, seen, FAILED, reason="exit code 1")
    with pytest.raises(IllegalTransitionError) as raised:
        move(database, seen, READY)
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{seen.id} cannot go from failed to ready"
    assert lines[1].strip() == f"{NOW_MS} replica.starting by replicas: now starting"
    assert lines[2].strip() == f"{NOW_MS} replica.failed by replicas: now failed"
    with database.read() as tx:
        assert replicas.get_for(tx, None, seen.id) == seen
        assert len(events.story(tx, seen.id, None)) == 2


def test_a_stale_transition_changes_nothing_and_tells_nothing(database):
    seen = samples.replica(1)
    database.write(lambda tx: replicas.insert(tx, seen))
    moved = move(database, seen, STARTING)
    with pytest.raises(StaleError, match=f"replica {seen.id}"):
        move(database, seen, FAILED)
    with database.read() as tx:
        assert replicas.get_for(tx, None, seen.id) == moved
        assert len(events.story(tx, seen.id, None)) == 1


def test_the_event_goes_with_its_transition(database):
    seen = samples.replica(1)
    database.write(lambda tx: replicas.insert(tx, seen))

    def write(tx):
        replicas.transition(tx, seen, STARTING, now_ms=NOW_MS, actor="a", message="m")
        raise KeyError("the caller failed afterwards")

    with pytest.raises(KeyError):
        database.write(write)
    with database.read() as tx:
        assert replicas.get_for(tx, None, seen.id) == seen
        assert events.story(tx, seen.id, None) == []


def test_holding_is_every_status_but_the_ended_ones(database):
    stored = [samples.replica(n, status=status) for n, status in enumerate(ReplicaStatus, 1)]
    database.write(lambda tx: [replicas.insert(tx, each) for each in stored])
    with database.read() as tx:
        holding = replicas.list_holding(tx)
    assert holding == [each for each in stored if each.holds_capacity]
    assert len(holding) == len(stored) - 2


def test_prune_keeps_the_newest_ended_and_all_that_hold(database):
    ended = [samples.replica(n, status=FAILED if n % 2 else STOPPED) for n in range(1, 7)]
    running = samples.replica(0, status=READY)
    other = samples.replica(
        9, status=STOPPED, project_id=OTHER_PROJECT, deployment_id=OTHER_DEPLOYMENT
    )
    database.write(lambda tx: [replicas.insert(tx, each) for each in [*ended, running, other]])
    removed = database.write(lambda tx: replicas.prune(tx, DEPLOYMENT, 2))
    assert set(removed) == {each.id for each in ended[:4]}
    assert database.write(lambda tx: replicas.prune(tx, DEPLOYMENT, 2)) == ()
    with database.read() as tx:
        assert replicas.list_of(tx, DEPLOYMENT) == [running, *ended[4:]]
        assert replicas.list_of(tx, OTHER_DEPLOYMENT) == [other]


def test_a_replica_needs_its_node_and_deployment(database):
    for changes in ({"node_id": samples.make_id("nod", 99)}, {"deployment_id": "dep_gone"}):
        lost = replace(samples.replica(1), **changes)
        with pytest.raises(Exception, match=r"(?i)foreign key"):
            database.write(lambda tx, lost=lost: replicas.insert(tx, lost))
