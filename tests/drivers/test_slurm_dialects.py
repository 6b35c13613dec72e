"""Every version of Slurm's REST API says the same to the driver, and is told the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm.dialects import problems, reading
from tramontane.drivers.slurm.dialects.amounts import gpu_counts, memory_mb, tres_amounts
from tramontane.drivers.slurm.dialects.negotiation import (
    NEWEST,
    OLDEST,
    UnsupportedVersionError,
    choose,
    dialect_of,
)
from tramontane.drivers.slurm.dialects.records import (
    ExitStatus,
    JobOrder,
    SlurmNode,
    SlurmPartition,
)
from tramontane.drivers.slurm.rest.client import NotSentError, Reply

EXAMPLES = Path(__file__).with_name("slurm_examples")
VERSIONS = range(OLDEST, NEWEST + 1)
ORDER = JobOrder(
    name="att_bbbbbbbbbbbbbbbbbbbb",
    comment="tramontane:ins_aaaaaaaaaaaaaaaaaaaa:att_bbbbbbbbbbbbbbbbbbbb",
    script="#!/bin/bash\n",
    folder="/shared/tmt-a",
    environment=(("PATH", "/bin"),),
    nodes=2,
    node_names=("r1n1", "r1n2"),
    cpus=8,
    memory_mb=4096,
    gpus=4,
    partition="main",
    account="tmt_acme_default",
    qos="tmt_spot",
    time_limit_min=60,
    is_held=True,
    is_spread=True,
    excluded_nodes=("r2n1", "r2n2"),
    grace_s=30,
)


def example(number: int) -> dict[str, Any]:
    return json.loads((EXAMPLES / f"v0.0.{number}.json").read_text())


def jobs_of(number: int) -> list[Any]:
    return [reading.job(record) for record in reading.records(example(number)["jobs"], "jobs")]


@pytest.mark.parametrize("number", VERSIONS)
def test_jobs_are_read_alike(number: int) -> None:
    running, waiting, failed, leaving, starved = jobs_of(number)
    assert running.states == {"RUNNING"}
    assert (running.job_id, running.nodes, running.user) == (11, ("r1n2",), "tmt-a")
    assert (running.cpus, running.memory_mb, running.gpus) == (2, 64, 2)
    assert (running.submit_s, running.start_s) == (1795400000, 1795400005)
    assert running.time_limit_min == 60
    assert waiting.reason == "AssocGrpGRES"
    assert waiting.time_limit_min is None
    assert (waiting.nodes, waiting.node_count, waiting.gpus) == ((), 2, 8)
    assert waiting.memory_mb == 1536
    assert waiting.start_s == 1795400900
    assert failed.exit_status == ExitStatus(code=3)
    assert failed.nodes == ("r2n1", "r2n2")
    assert (failed.cpus, failed.gpus) == (4, 8)
    assert "COMPLETING" in leaving.states
    assert (running.restarts, leaving.restarts) == (0, 1)
    assert starved.exit_status == ExitStatus(signal=9)
    if number != OLDEST:
        assert jobs_of(number)[:3] == jobs_of(OLDEST)[:3]


@pytest.mark.parametrize("number", VERSIONS)
def test_nodes_are_read_alike(number: int) -> None:
    nodes = [reading.node(r) for r in reading.records(example(number)["nodes"], "nodes")]
    idle, mixed, down, drained, cloud = nodes
    assert idle == SlurmNode(
        name="r1n1",
        states=frozenset({"IDLE"}),
        reason="",
        partitions=frozenset({"main"}),
        cpus=72,
        memory_mb=480_000,
        gpus=(("gb200", 4),),
        used_cpus=0,
        used_memory_mb=0,
        used_gpus=0,
    )
    assert (mixed.used_cpus, mixed.used_memory_mb, mixed.used_gpus) == (10, 164, 3)
    assert down.states == {"DOWN", "NOT_RESPONDING"}
    assert (drained.states, drained.reason) == ({"IDLE", "DRAIN"}, "new disks")
    assert (cloud.gpus, cloud.states) == ((("", 2),), {"IDLE", "POWERED_DOWN"})


@pytest.mark.parametrize("number", VERSIONS)
def test_partitions_and_accounting_are_read_alike(number: int) -> None:
    dialect, told = dialect_of(number), example(number)
    records = reading.records(told["partitions"], "partitions")
    assert [dialect.partition(record) for record in records] == [
        SlurmPartition("main", is_default=True, max_time_min=1440, max_nodes=None),
        SlurmPartition("burst", is_default=False, max_time_min=None, max_nodes=4),
    ]
    (job,) = [reading.accounted(r) for r in reading.records(told["accounted"], "jobs")]
    assert (job.job_id, job.name, job.user) == (13, "att_cccccccccccccccccccc", "tmt-a")
    assert job.states == {"FAILED"}
    assert (job.nodes, job.gpus, job.cpus) == (("r2n1", "r2n2"), 8, 4)
    assert (job.start_s, job.end_s, job.suspended_s) == (1795400010, 1795400020, 4)
    assert job.folder.endswith("/attempts/att_cccccccccccccccccccc")
    # Slurm 22.05 accounts every return code as 0; later versions know it.
    assert job.exit_status.code == (0 if number == OLDEST else 3)


@pytest.mark.parametrize("number", VERSIONS)
def test_outages_and_refusals_are_told_apart(number: int) -> None:
    told = example(number)
    with pytest.raises(problems.SlurmRefusalError, match="Invalid account") as refused:
        problems.check(Reply(500, told["refused"]))
    assert refused.value.number == 2045
    with pytest.raises(NotSentError, match="does not reach slurmctld"):
        problems.check(Reply(500, told["outage"]))
    assert problems.check(Reply(200, told["jobs"])) is told["jobs"]


@pytest.mark.parametrize("number", VERSIONS)
def test_the_version_is_found(number: int) -> None:
    dialect, has_accounting = choose(example(number)["openapi"])
    assert (dialect.version, has_accounting) == (f"v0.0.{number}", True)


def test_the_newest_known_version_is_chosen() -> None:
    paths = {f"/slurm/v0.0.{n}/jobs": {} for n in (37, 39, 41, 46)}
    dialect, has_accounting = choose({"paths": {**paths, "/slurmdb/v0.0.39/jobs": {}}})
    assert (dialect.version, has_accounting) == ("v0.0.41", False)


@pytest.mark.parametrize("offered", [["36", "37"], ["46"], []])
def test_no_known_version_is_refused_by_name(offered: list[str]) -> None:
    paths = {f"/slurm/v0.0.{number}/jobs": {} for number in offered}
    with pytest.raises(UnsupportedVersionError) as refused:
        choose({"paths": paths})
    for number in offered:
        assert f"v0.0.{number}" in str(refused.value)
    assert "v0.0.38 to v0.0.45" in str(refused.value)


TYPES = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: type(value) is int,
    "boolean": lambda value: type(value) is bool,
    "strings": lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
    "number": lambda value: set(value) == {"set", "infinite", "number"},
}


@pytest.mark.parametrize("number", [n for n in VERSIONS if n > OLDEST])
@pytest.mark.parametrize("order", [ORDER, replace(ORDER, in_one_rack=True, time_limit_min=None)])
def test_a_submission_has_the_fields_of_its_version(number: int, order: JobOrder) -> None:
    described = json.loads((EXAMPLES / "job_desc_msg.json").read_text())
    known = described.get(f"v0.0.{number}", described["v0.0.45"])
    body = dialect_of(number).submission(order)
    assert body["script"] == order.script
    for name, value in body["job"].items():
        assert TYPES[known[name]](value), name
    job = body["job"]
    assert job["requeue"] is False
    assert job["required_nodes"] == ["r1n1", "r1n2"]
    assert job["tres_per_node"] == ("gres:gpu:4" if number == 39 else "gres/gpu:4")
    assert job["memory_per_node"] == {"set": True, "infinite": False, "number": 4096}
    assert job["time_limit"]["infinite"] is (order.time_limit_min is None)
    assert job["environment"] == ["PATH=/bin"]
    assert job["flags"] == ["SPREAD_JOB"]
    assert job["excluded_nodes"] == ["r2n1", "r2n2"]
    assert ("required_switches" in job) is order.in_one_rack
    assert job["kill_warning_delay"]["number"] == 30


def test_a_submission_of_v38_has_the_names_of_its_parser() -> None:
    job = dialect_of(38).submission(ORDER)["job"]
    assert job == {
        "name": ORDER.name,
        "comment": ORDER.comment,
        "environment": {"PATH": "/bin"},
        "current_working_directory": "/shared/tmt-a",
        "standard_output": "/dev/null",
        "standard_error": "/dev/null",
        "nodes": "2-2",
        "tasks_per_node": 1,
        "cpus_per_task": 8,
        "memory_per_node": 4096,
        "no_requeue": True,
        "time_limit": 60,
        "gpus_per_node": "4",
        "nodelist": "r1n1,r1n2",
        "exclude_nodes": "r2n1,r2n2",
        "spread_job": True,
        "hold": True,
        "signal": "USR1@30",
        "partition": "main",
        "account": "tmt_acme_default",
        "qos": "tmt_spot",
    }
    plain = replace(ORDER, nodes=1, node_names=("r1n1",), time_limit_min=None, gpus=0)
    job = dialect_of(38).submission(plain)["job"]
    assert job["time_limit"] == "UNLIMITED"
    assert "gpus_per_node" not in job
    assert "signal" not in job  # it would reach no script


@given(
    st.dictionaries(
        st.sampled_from(["jobs", "job_state", "nodes", "exit_code", "time_limit", "errors"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
        ),
    )
)
def test_garbage_is_an_outage_or_cannot_be_read(document: dict[str, Any]) -> None:
    try:
        problems.check(Reply(200, document))
        for record in reading.records(document, "jobs"):
            reading.job(record)
        reading.job(document)
    except (*reading.UNREADABLE, DriverUnavailableError):
        pass


def test_amounts() -> None:
    assert tres_amounts("cpu=4,mem=400M,node=2,billing=4,gres/gpu=8") == (4, 400, 8)
    assert tres_amounts("gres/gpu:a=1,gres/gpu:b=2") == (0, 0, 3)
    assert tres_amounts("") == (0, 0, 0)
    assert (memory_mb("1.5T"), memory_mb("1K"), memory_mb("N/A")) == (1_572_864, 1, 0)
    assert gpu_counts("gpu:gb200:4(S:0-1),shard:16,gpu:2") == (("gb200", 4), ("", 2))
    assert gpu_counts("gpu:gb200:2(IDX:0,3),mps:1(IDX:0)") == (("gb200", 2),)
    assert gpu_counts("(null)") == ()
