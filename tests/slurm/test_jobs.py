"""Jobs on Slurm: gangs, evictions, failures, ends of all kinds, and whose they are."""

import base64
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.slurm_jobs import GATE, Jobs, accounted, processes_of
from tests.support.slurm_system import running_on
from tests.support.system import System
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SPOT_MICRO = 3_600_000  # a thousandth of a euro for each second of a device
USERS = {"default": "tmt-a", "globex": "tmt-b"}
RENDEZVOUS = (
    'echo "$NODE_RANK $NNODES $NPROC_PER_NODE $WORLD_SIZE $MASTER_ADDR $MASTER_PORT'
    ' $CUDA_VISIBLE_DEVICES"\n'
)
# Saves how far it is after each step, and says where it began.
STEPS = """
file="$TRAMONTANE_CHECKPOINT_DIR/step.$NODE_RANK"
step=$(cat "$file" 2>/dev/null || echo 0)
echo "from step $step"
while [ "$step" -lt 30 ]; do
  step=$((step + 1))
  echo "$step" > "$file.new" && mv "$file.new" "$file"
  sleep 0.1
done
"""


@pytest.fixture(scope="module")
def system(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_on(slurm, tmp_path_factory.mktemp("jobs") / "home", users=USERS) as system:
        yield system


@pytest.fixture(scope="module")
def jobs(system: System, slurm: SlurmCluster) -> Jobs:
    return Jobs(system, slurm)


@pytest.fixture(scope="module")
def others(system: System, slurm: SlurmCluster) -> Jobs:
    """A second tenant, under a Unix user of its own."""
    system.cloud("POST", "/organizations", json={"name": "globex"})
    lab = system.cloud("POST", "/projects", json={"name": "lab", "organization": "globex"})
    made = system.cloud("POST", "/api-keys", json={"name": "lab", "project": lab["id"]})
    return Jobs(system, slurm, made["key"], "tmt-b")


@pytest.fixture(autouse=True)
def nothing_left(jobs: Jobs) -> Iterator[None]:
    """End what a failed test left: the cluster has four nodes."""
    yield
    for job in jobs.system.pages("/jobs"):
        if job["status"] in {"pending", "running"}:
            jobs.system.cloud("POST", f"/jobs/{job['id']}/cancel")


def rack_of(slurm: SlurmCluster, names: list[str]) -> str:
    """Return the one rack of these nodes."""
    (rack,) = [rack for rack, nodes in slurm.racks.items() if set(names) <= set(nodes)]
    return rack


def test_two_gangs_take_a_rack_each_and_the_third_waits(jobs: Jobs, slurm: SlurmCluster) -> None:
    gang: dict[str, Any] = {"nodes": 2, "devices": 4, "topology": "rack"}
    first, second = (jobs.submit(f"gang-{n}", RENDEZVOUS + GATE, **gang) for n in (1, 2))
    racks: set[str] = set()
    for job_id in (first, second):
        jobs.until(job_id, "running")
        (attempt,) = jobs.attempts(job_id)
        assert attempt["devices"] == 8
        racks.add(rack_of(slurm, attempt["node_names"]))
    assert racks == set(slurm.racks)
    third = jobs.submit("gang-3", RENDEZVOUS, **gang)

    def reason() -> str | None:
        job = jobs.get(third)
        assert job["status"] == "pending"
        told = job["reason"] or ""
        return told if "no free nodes" in told else None

    until(reason, "a reason to wait", 10)
    jobs.open_gate(first)
    jobs.until(third, "succeeded")
    jobs.open_gate(second)
    heads: set[str] = set()
    for job_id in (first, second, third):
        jobs.until(job_id, "succeeded")
        told = [jobs.log(job_id, rank=rank).split() for rank in (0, 1)]
        assert [line[:4] for line in told] == [["0", "2", "4", "8"], ["1", "2", "4", "8"]]
        assert told[0][4:6] == told[1][4:6], "one head for both"
        assert [line[6] for line in told] == ["0,1,2,3"] * 2
        heads.add(" ".join(told[0][4:6]))
    assert all(head.split()[1].isdigit() for head in heads)


def test_spot_gives_way_to_reserved_and_goes_on_from_its_checkpoint(jobs: Jobs) -> None:
    classes = {"organization": "default", "priority_classes": ["reserved", "standard", "spot"]}
    jobs.system.cloud("PUT", "/quotas", json=classes)
    jobs.system.cloud("PUT", "/class-prices/spot", json={"device_hour_micro": SPOT_MICRO})
    whole: dict[str, Any] = {"nodes": 4, "devices": 4}
    spot = jobs.submit("sweep", STEPS, priority_class="spot", **whole)
    checkpoint = jobs.folder(spot) / "checkpoint" / "step.0"

    def is_under_way() -> bool:
        with contextlib.suppress(OSError, ValueError):
            return int(checkpoint.read_text()) >= 5
        return False

    until(is_under_way, "some steps")
    urgent = jobs.submit("urgent", "sleep 0.5", priority_class="reserved", nodes=1, devices=4)
    jobs.until(urgent, "succeeded")
    jobs.until(spot, "succeeded")
    first, second = jobs.attempts(spot)
    assert (first["status"], second["status"]) == ("preempted", "succeeded")
    assert "higher class" in first["reason"]
    for rank in range(4):
        begun = jobs.log(spot, rank=rank)
        assert int(begun.split()[-1]) >= 5, begun
    assert jobs.log(spot, attempt=1).startswith("from step 0")
    lines = until(lambda: billed(jobs, spot), "the bill")
    assert [line["id"] for line in lines] == [first["id"], second["id"]]
    for line, attempt in zip(lines, jobs.attempts(spot), strict=True):
        assert (line["devices"], line["status"]) == (16, attempt["status"])
        assert line["device_seconds"] == attempt["device_seconds"] == 16 * line["seconds"] > 0
        assert line["cost_nano"] == line["device_seconds"] * SPOT_MICRO * 1_000 // 3_600


def billed(jobs: Jobs, job_id: str) -> list[dict[str, Any]] | None:
    """Return the lines of a job's bill once all are accounted."""
    bill = jobs.system.cloud("GET", "/usage/attempts", params={"job": job_id})
    return None if bill["open_attempts"] else bill["data"]


def test_every_way_to_end(jobs: Jobs) -> None:
    short: dict[str, Any] = {"devices": 1}
    again = 'echo "try $TRAMONTANE_ATTEMPT_NUMBER"; [ "$TRAMONTANE_ATTEMPT_NUMBER" = 2 ] || exit 3'
    retried = jobs.submit("retried", again, retries=2, **short)
    failed = jobs.submit("failed", "echo broken pipe; exit 7", **short)
    hung = jobs.submit("hung", "echo once; sleep 600", hang_after_s=2, **short)
    late = jobs.submit("late", "echo working; sleep 600", time_limit_s=2, **short)
    array = jobs.submit("array", "echo index $TRAMONTANE_ARRAY_INDEX", array=4, **short)
    after = jobs.submit("after", "date +%s", depends_on=[array], **short)

    jobs.until(retried, "succeeded")
    first, second = jobs.attempts(retried)
    assert (first["status"], first["exit_code"]) == ("failed", 3)
    assert (second["status"], second["exit_code"]) == ("succeeded", 0)
    assert jobs.log(retried, attempt=1) == "try 1\n"
    assert jobs.log(retried) == "try 2\n"

    job = jobs.until(failed, "failed")
    (attempt,) = jobs.attempts(failed)
    assert (attempt["status"], attempt["exit_code"]) == ("failed", 7)
    assert "status 7" in job["reason"]
    assert "broken pipe" in job["reason"]

    assert "no progress for 2 s" in jobs.until(hung, "failed")["reason"]
    job = jobs.until(late, "failed")
    assert "time limit" in job["reason"]
    assert jobs.attempt_statuses(late) == ["timed_out"]

    jobs.until(array, "succeeded")
    assert [a["index"] for a in jobs.attempts(array)] == [0, 1, 2, 3]
    for index in range(4):
        assert jobs.log(array, index=index) == f"index {index}\n"
    jobs.until(after, "succeeded")
    assert jobs.get(after)["started_at_ms"] + 1_000 >= jobs.get(array)["ended_at_ms"]
    for job_id in (retried, failed, hung, late, array, after):
        assert not processes_of(job_id)


def node_status(jobs: Jobs, name: str) -> str:
    """Return the status of a node."""
    return next(n["status"] for n in jobs.system.pages("/nodes") if n["name"] == name)


def test_a_lost_node_costs_one_attempt(jobs: Jobs, slurm: SlurmCluster) -> None:
    job_id = jobs.submit("steady", "echo on; " + GATE, devices=4)
    jobs.until(job_id, "running")
    (attempt,) = jobs.attempts(job_id)
    (node,) = attempt["node_names"]
    slurm.lose_node(node)
    try:
        slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
        until(lambda: jobs.attempt_statuses(job_id) == ["node_failed", "running"], "the next one")
        jobs.open_gate(job_id)
        jobs.until(job_id, "succeeded")
        until(lambda: node_status(jobs, node) == "lost", "the notice")
        whole = jobs.submit("whole", "true", nodes=4)  # it can run once the node is back
    finally:
        slurm.restart(f"slurmd:{node}")
        slurm.until_nodes_respond()
        until(lambda: node_status(jobs, node) == "ready", "the node to be back")
    jobs.until(whole, "succeeded")
    first, second = jobs.attempts(job_id)
    assert node in first["reason"]
    assert second["node_names"] != [node]


def test_cancelled_while_it_waits_and_while_it_runs(jobs: Jobs, slurm: SlurmCluster) -> None:
    whole: dict[str, Any] = {"nodes": 4, "devices": 4}
    running = jobs.submit("running", "setsid sleep 599 & sleep 598", **whole)
    jobs.until(running, "running")
    waiting = jobs.submit("waiting", "exit 1", **whole)
    until(lambda: jobs.attempt_statuses(waiting) == ["queued"], "its place in the queue")
    jobs.cancel(waiting)
    assert jobs.until(waiting, "cancelled")["reason"] == "cancelled as asked"
    until(lambda: len(processes_of(running)) >= 8, "all of its processes")
    jobs.cancel(running)
    jobs.until(running, "cancelled")
    until(lambda: not processes_of(running), "the end of its processes", 10)
    for job_id in (waiting, running):
        assert jobs.attempt_statuses(job_id) == ["cancelled"]
        (attempt,) = jobs.attempts(job_id)
        assert slurm.run("squeue", "--noheader", f"--name={attempt['id']}").strip() == ""


def test_logs_are_followed_while_it_runs_and_kept(jobs: Jobs) -> None:
    job_id = jobs.submit("talker", f"echo first; {GATE} echo last")
    jobs.until(job_id, "running")
    told = ""
    with jobs.follow(job_id) as pieces:
        for piece in pieces:
            told += piece
            if told == "first\n":
                assert jobs.get(job_id)["status"] == "running"
                jobs.open_gate(job_id)
    assert told == "first\nlast\n"
    jobs.until(job_id, "succeeded")
    assert jobs.log(job_id) == told


def test_working_files_travel_along(jobs: Jobs) -> None:
    def file(path: str, text: str, **more: Any) -> dict[str, Any]:
        return {"path": path, "content": base64.b64encode(text.encode()).decode(), **more}

    files = [
        file("data/input.txt", "forty-two\n"),
        file("tool", "#!/bin/sh\ncat data/input.txt\n", is_executable=True),
    ]
    job_id = jobs.submit("files", "./tool && touch made-here", files=files)
    jobs.until(job_id, "succeeded")
    assert jobs.log(job_id) == "forty-two\n"
    assert (jobs.folder(job_id) / "work" / "made-here").exists()


@pytest.mark.parametrize("moment_s", [0.0, 0.05, 0.2, None])
def test_a_killed_control_plane_starts_nothing_twice(
    jobs: Jobs, system: System, slurm: SlurmCluster, moment_s: float | None
) -> None:
    """``moment_s`` after the answer to the submission, or in the middle of the run."""
    control = system.only("control")
    job_id = jobs.submit("once", "echo ran; " + GATE, devices=1)
    if moment_s is None:
        jobs.until(job_id, "running")
    else:
        time.sleep(moment_s)
    control.kill()
    until(lambda: _is_back(system), "the control plane to be back", 20)
    jobs.until(job_id, "running")
    jobs.open_gate(job_id)
    jobs.until(job_id, "succeeded")
    (attempt,) = jobs.attempts(job_id)
    rows = until(lambda: accounted(slurm, {attempt["id"]}), "the account")
    assert len(rows) == 1, rows
    assert jobs.log(job_id) == "ran\n"


def _is_back(system: System) -> bool:
    try:
        return bool(system.processes("control")) and bool(system.pages("/clusters"))
    except AssertionError:
        return False


def test_a_deleted_job_leaves_the_shared_folder(jobs: Jobs, others: Jobs) -> None:
    mine, theirs = jobs.submit("mine", "echo x > made", array=2), others.submit("theirs", "true")
    jobs.until(mine, "succeeded")
    others.until(theirs, "succeeded")
    until(lambda: not jobs.system.cloud("GET", f"/usage/attempts?job={mine}")["open_attempts"])
    assert (jobs.folder(mine) / "work" / "made").exists()
    others.system.cloud("DELETE", f"/jobs/{mine}", key=others.key, status=404)
    for _ in range(2):
        jobs.system.cloud("DELETE", f"/jobs/{mine}", key=jobs.key)
    until(lambda: not jobs.folder(mine).exists(), "the end of its files", 20)
    assert others.folder(theirs).exists()
    bill = jobs.system.cloud("GET", "/usage/attempts", params={"job": mine})
    assert len(bill["data"]) == 2


def test_another_tenant_sees_none_of_it(jobs: Jobs, others: Jobs, slurm: SlurmCluster) -> None:
    mine = jobs.submit("mine", "id -un; echo secret > private")
    jobs.until(mine, "succeeded")
    theirs = others.submit("theirs", f"id -un; cat {jobs.folder(mine) / 'work' / 'private'}")
    job = others.until(theirs, "failed")
    assert "Permission denied" in job["reason"]
    assert others.log(theirs).startswith("tmt-b\n")
    assert jobs.log(mine) == "tmt-a\n"
    for path in ("", "/attempts", "/logs"):
        others.system.cloud("GET", f"/jobs/{mine}{path}", key=others.key, status=404)
    others.system.cloud("POST", f"/jobs/{mine}/cancel", key=others.key, status=404)
    listed = others.system.cloud("GET", "/jobs", key=others.key)["data"]
    assert theirs in {job["id"] for job in listed}
    assert {job["project_id"] for job in listed} == {job["project_id"]}
    (attempt,) = others.attempts(theirs)
    (row,) = until(lambda: accounted(slurm, {attempt["id"]}), "the account")
    assert row.user == "tmt-b"
