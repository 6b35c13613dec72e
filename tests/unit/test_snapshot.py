"""Snapshots travel as JSON: nothing is lost that planning reads, and no secret travels."""

import json

import pytest

from tests.support.planning import deployment_of, node_of, replica_of, snapshot_of
from tramontane.domain.observation import Unreachable
from tramontane.domain.planning.plan import plan_to_plain
from tramontane.domain.planning.replica_plan import plan_replicas
from tramontane.domain.planning.snapshot import (
    ReplicaSnapshot,
    UnreadableSnapshotError,
    from_json,
    redact,
    to_json,
)
from tramontane.domain.replica import ReplicaStatus


def sample() -> ReplicaSnapshot:
    deployment = deployment_of(replicas=3, generation=2)
    replicas = (
        replica_of(1, deployment, generation=1),
        replica_of(2, deployment, ReplicaStatus.PENDING),
    )
    nodes = (node_of(1, devices=2),)
    return snapshot_of((deployment,), replicas, nodes=nodes, routed=frozenset({replicas[0].id}))


def test_it_comes_back_as_it_was_but_for_secrets() -> None:
    snapshot = sample()
    text = to_json(snapshot)
    assert from_json(text) == redact(snapshot)
    assert plan_replicas(from_json(text)) == plan_replicas(snapshot)
    assert "very-secret" not in text
    assert text.count("[redacted]") == 2 * len(snapshot.replicas)


def test_silence_travels_too() -> None:
    snapshot = snapshot_of((deployment_of(),), (), view=Unreachable("timed out"))
    assert from_json(to_json(snapshot)) == snapshot


def test_the_answer_of_the_api_is_a_snapshot_too() -> None:
    snapshot = sample()
    plan = plan_to_plain(plan_replicas(snapshot))
    answer = {"snapshot": json.loads(to_json(snapshot)), "plan": plan}
    assert from_json(json.dumps(answer)) == redact(snapshot)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"now_ms": "today"}, "$.now_ms is 'today'; expected whole number"),
        ({"now_ms": True}, "$.now_ms is a value of type true or false; expected whole number"),
        ({"deployments": {}}, "$.deployments is a value of type object; expected a list"),
        ({"color": 1}, "$.color is unknown"),
        ({"format": 1}, "its format is 1; expected 3"),
        ({"needs": [{"deployment_id": "d"}]}, "$.needs[0].resources is missing"),
        ({"needs": [3]}, "$.needs[0] is a value of type whole number; expected an object"),
    ],
)
def test_what_is_no_snapshot_is_refused_by_field(change: dict[str, object], told: str) -> None:
    data = json.loads(to_json(sample())) | change
    with pytest.raises(UnreadableSnapshotError) as refusal:
        from_json(json.dumps(data))
    assert told in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a":1,"a":2}', "NaN"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(UnreadableSnapshotError):
        from_json(text)


def test_an_unknown_word_is_refused_with_those_known() -> None:
    text = to_json(sample()).replace('"pending"', '"pondering"')
    with pytest.raises(UnreadableSnapshotError, match="expected one of pending, "):
        from_json(text)
