"""``tramontane plan``: the plan of a snapshot in words, and one line for what is no snapshot."""

from pathlib import Path

import pytest
import typer

from tests.support.planning import (
    GIB,
    NODE,
    NOW_MS,
    deployment_of,
    node_of,
    replica_of,
    seen,
    snapshot_of,
)
from tramontane.cli.exits import ExitCode
from tramontane.domain.observation import RunState
from tramontane.domain.planning.snapshot import ReplicaSnapshot, to_json
from tramontane.domain.replica import ReplicaStatus
from tramontane.domain.resources import Resources
from tramontane.processes import plan


def written(folder: Path, snapshot: ReplicaSnapshot) -> Path:
    path = folder / "snapshot.json"
    path.write_text(to_json(snapshot), encoding="utf-8")
    return path


def busy() -> ReplicaSnapshot:
    growing = deployment_of(1, replicas=3)
    deleted = deployment_of(2, replicas=1, deleted_at_ms=1)
    replicas = (
        replica_of(1, growing, ReplicaStatus.STARTING, need=Resources(1_000, 10 * GIB)),
        replica_of(2, growing, ReplicaStatus.PENDING, created_at_ms=NOW_MS),
        replica_of(3, deleted, ReplicaStatus.STOPPING, node=2, changed_at_ms=NOW_MS - 2_000),
    )
    observations = (
        seen(replicas[0], RunState.EXITED, "exit code 1\nno such file"),
        seen(replicas[2]),
        seen(replica_of(9, growing, node=2)),
    )
    nodes = (node_of(1, NODE), node_of(2, NODE))
    return snapshot_of((growing, deleted), replicas, nodes=nodes, observations=observations)


def test_a_plan_reads_like_a_list_of_things_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = busy()
    failed, pending, stopping = (replica.id for replica in snapshot.replicas)
    assert plan.run(written(tmp_path, snapshot), None) == 0
    out = capsys.readouterr().out
    failure = "last start failed: exit code 1: no such file; next try after 1 s"
    assert out.splitlines() == [
        f"record    {failed} failed: exit code 1",
        f"record    chat-1 pending: 0 of 3 ready; 1 starting; {failure}",
        "record    chat-2 stopping: 1 still draining",
        f"stop      {stopping} (drains)",
        f"start     {pending}",
        f"stop      {replica_of(9, deployment_of()).id} (an orphan)",
    ]


def test_what_has_no_place_is_told_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = snapshot_of(
        (deployment_of(1, replicas=2),), nodes=(node_of(1),), need=Resources(1_000, 12 * GIB)
    )
    plan.run(written(tmp_path, snapshot), None)
    out = capsys.readouterr().out
    assert "place     chat-1 generation 1 on node-1 (1 CPU, 12.0 GiB memory)" in out
    assert out.endswith(
        "\nwithout a place:\n"
        "  chat-1: 1 waiting: needs 8.0 GiB memory more on the best node (node-1)\n"
    )


def test_nothing_to_do_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.run(written(tmp_path, snapshot_of(())), None)
    assert capsys.readouterr().out == "nothing to do\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "is not a snapshot: "),
        ('{"now_ms": 1}', "is not a snapshot: $.deployments is missing"),
        ("\udcff", "is not UTF-8 text"),
    ],
)
def test_a_bad_file_is_one_line(
    text: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "snapshot.json"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(typer.Exit) as left:
        plan.run(path, None)
    assert left.value.exit_code == ExitCode.FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("tramontane: error: ")
    assert told in line


@pytest.mark.slow
def test_the_server_and_the_key_that_are_given_are_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as left:
        plan.run(None, tmp_path, "http://127.0.0.1:1", "a-key")
    assert left.value.exit_code == ExitCode.UNAVAILABLE
    assert "cannot reach http://127.0.0.1:1" in capsys.readouterr().err
