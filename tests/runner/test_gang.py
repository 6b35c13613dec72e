"""Runs on several nodes: they meet, they work, and the end of one is the end of all."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.runner.control_plane import ControlPlane
from tests.support.attempts import AttemptRunner, job_launch
from tests.support.runners import RUNNER, TINY_ENGINE, Run, get, kill, tiny_launch
from tests.support.waiting import until
from tramontane.domain.resources import Resources
from tramontane.runner import gang

pytestmark = pytest.mark.slow
SLEEP = ("{python}", "-c", "import sys, time; print(*sys.argv[1:], flush=True); time.sleep(600)")
PLACES = ("{rank}", "{head}:{head_port}", "{host}:{port}")


class Replica(Run):
    """A replica on two nodes, each with a runner on this machine."""

    def start_node(self, rank: int, *words: str) -> subprocess.Popen[bytes]:
        self.environment["SLURM_PROCID"] = str(rank)
        return self.start("--nodes", "2", "--claim", "4711", *words)

    def node_report(self, rank: int) -> dict[str, object]:
        path = self.dir / gang.report_name(rank)
        return json.loads(path.read_text()) if path.exists() else {}

    def until_node(self, rank: int, run_state: str) -> dict[str, object]:
        until(lambda: self.node_report(rank).get("run_state") == run_state, run_state)
        return self.node_report(rank)


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    launch = replace(
        tiny_launch("--say", " ".join(PLACES), drain_timeout_s=5),
        nodes=2,
        worker_argv=(*SLEEP, *PLACES),
    )
    run = Replica(tmp_path, json.dumps(asdict(launch)))
    try:
        yield run
    finally:
        run.close()


def test_they_meet_whoever_comes_first(replica: Replica) -> None:
    replica.start_node(1)
    time.sleep(0.5)
    assert replica.node_report(1)["run_state"] == "starting"
    replica.start_node(0)
    address = str(replica.until_node(0, "ready")["address"])
    assert get(address, "/health") == "ok"
    replica.until_node(1, "ready")
    until((replica.dir / "engine.1.log").read_text)
    head, port = json.loads((replica.dir / "head").read_text())
    first = (replica.dir / "engine.log").read_text().split()
    other = (replica.dir / "engine.1.log").read_text().split()
    assert first == ["0", f"{head}:{port}", address]
    assert other[:2] == ["1", f"{head}:{port}"]


def test_a_drain_ends_the_first_node_and_then_the_others(replica: Replica) -> None:
    first, other = replica.start_node(0), replica.start_node(1)
    replica.until_node(0, "ready")
    replica.until_node(1, "ready")
    for child in (other, first):
        child.send_signal(signal.SIGTERM)
    assert first.wait(10) == 0
    assert other.wait(10) == 0
    assert replica.node_report(0)["reason"] == "drained and ended as asked"
    assert replica.node_report(1)["reason"] == "the first node has ended"
    replica.until_gone()


@pytest.mark.parametrize("rank", [0, 1])
def test_the_end_of_one_is_the_end_of_all(replica: Replica, rank: int) -> None:
    children = [replica.start_node(0), replica.start_node(1)]
    for node in (0, 1):
        replica.until_node(node, "ready")
    kill(int(str(replica.node_report(rank)["engine_pid"])))
    assert children[rank].wait(10) == 1  # srun would end the others at once by this
    assert children[1 - rank].wait(10) == rank  # a further node ends in order
    assert "signal 9" in str(replica.node_report(rank)["reason"])
    if rank == 1:
        assert "node 1 of 2 ended: " in str(replica.node_report(0)["reason"])
    replica.until_gone()


def test_only_the_first_node_is_told_of(replica: Replica) -> None:
    with ControlPlane() as plane:
        for rank in (0, 1):
            replica.start_node(rank, "--report-url", plane.url, "--host", "auto")
        replica.until_node(0, "ready")
        replica.until_node(1, "ready")
        until(lambda: "ready" in plane.states())
        address = replica.node_report(0)["address"]
        assert {body["address"] for body in plane.said} <= {None, address}


def test_without_the_first_node_the_others_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gang, "HEAD_WAIT_S", 0.3)
    alone = gang.Gang(Namespace(nodes=2, host="127.0.0.1", run_dir=str(tmp_path)), 1)
    with pytest.raises(OSError, match="the first of 2 nodes did not start within 0 s"):
        alone.meet()


def test_asked_to_end_they_do_not_wait_for_the_first_node(replica: Replica) -> None:
    child = replica.start_node(1)
    replica.until_node(1, "starting")
    child.send_signal(signal.SIGTERM)
    child.wait(5)
    assert replica.node_report(1)["reason"] == "ended as asked"


@pytest.mark.parametrize("rank", ["", "x", "2", "-1"])
def test_a_node_that_does_not_know_its_number_says_so(replica: Replica, rank: str) -> None:
    replica.environment["SLURM_PROCID"] = rank
    assert replica.start("--nodes", "2").wait(5) == os.EX_USAGE
    assert "SLURM_PROCID must be a number below 2" in (replica.dir / "runner.log").read_text()
    assert replica.report == {}


def test_attempts_on_two_nodes_know_each_other(tmp_path: Path) -> None:
    show = "echo $NODE_RANK/$NNODES $WORLD_SIZE $MASTER_ADDR:$MASTER_PORT $PET_NODE_RANK; cat f"
    launch = job_launch(
        *("sh", "-c", show), nodes=2, resources=Resources(100, 1 << 20, 4), files=()
    )
    with AttemptRunner(tmp_path, launch, nodes=2) as run:
        other = run.start(rank=1)
        time.sleep(0.3)
        (run.job / "work").mkdir()
        (run.job / "work" / "f").write_text("shared\n")
        first = run.start(rank=0)
        assert [first.wait(10), other.wait(10)] == [0, 0]
        head, port = json.loads((run.dir / "head").read_text())
        assert run.output(0) == f"0/2 8 {head}:{port} 0\nshared\n"
        assert run.output(1) == f"1/2 8 {head}:{port} 1\nshared\n"
        assert run.report(0)["outcome"] == run.report(1)["outcome"] == "succeeded"


def test_a_failing_node_leaves_with_its_status(tmp_path: Path) -> None:
    launch = job_launch("sh", "-c", "exit $((NODE_RANK * 5))", nodes=2)
    with AttemptRunner(tmp_path, launch, nodes=2) as run:
        assert [run.start(rank=0).wait(10), run.start(rank=1).wait(10)] == [0, 5]


def test_the_first_node_tells_of_another_ones_failure(tmp_path: Path) -> None:
    script = "[ $NODE_RANK = 0 ] && { echo on; sleep 60; }; echo out of luck; exit 5"
    launch = job_launch("sh", "-c", script, nodes=2)
    with AttemptRunner(tmp_path, launch, nodes=2) as run:
        first = run.start("--claim", "1", rank=0)
        until(lambda: "on" in run.output(0))
        assert run.start("--claim", "1", rank=1).wait(10) == 5
        first.send_signal(signal.SIGTERM)  # as srun does
        assert first.wait(10) == 5
        report = run.report(0)
        assert (report["outcome"], report["exit_code"]) == ("failed", 5)
        assert report["reason"].startswith("node 1 of 2: the command exited with status 5")
        assert "out of luck" in report["reason"]


def test_the_first_node_looks_for_progress_on_all(tmp_path: Path) -> None:
    talk = "[ $NODE_RANK = 1 ] && for i in 1 2 3 4 5 6; do echo on; sleep 0.5; done; sleep 3"
    launch = job_launch("sh", "-c", talk, nodes=2, hang_after_s=2)
    with AttemptRunner(tmp_path, launch, nodes=2) as run:
        children = [run.start(rank=rank) for rank in (0, 1)]
        assert children[0].wait(10) == 0  # though it was silent for 3 s


def test_its_own_address_is_the_one_towards_the_control_plane() -> None:
    assert gang.own_address("http://127.0.0.1:8000") == "127.0.0.1"
    assert gang.own_address("http://localhost/") == "127.0.0.1"
    assert gang.own_address("https://[::1]:8000") == "::1"
    outside = gang.own_address(None)
    assert outside.count(".") == 3
    assert gang.own_address("http://no-such-host.invalid:1") == outside


def test_the_runner_with_its_own_address_serves_there(tmp_path: Path) -> None:
    run = Run(tmp_path, tiny_launch())
    try:
        run.start("--host", "auto", "--python", sys.executable)
        address = run.until_state("ready")["address"]
        assert address.rpartition(":")[0] == gang.own_address(None)
        assert get(address, "/health") == "ok"
    finally:
        run.close()


def test_the_python_of_engines_can_be_another(tmp_path: Path) -> None:
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexport WRAPPED=yes\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    run = Run(tmp_path, tiny_launch())
    try:
        run.start("--python", str(wrapper))
        address = run.until_state("ready")["address"]
        assert "WRAPPED=yes" in get(address, "/environ")
    finally:
        run.close()
    assert TINY_ENGINE.exists()
    assert RUNNER.endswith("__main__.py")
