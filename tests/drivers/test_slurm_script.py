"""The batch script holds nothing of a tenant but base64, and every byte arrives."""

import base64
import dataclasses
import io
import json
import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.domain.jobs.attempt import JobLaunch, ShippedFile, Topology
from tramontane.domain.launch import LaunchSpec, PriorityClass, Tenancy
from tramontane.domain.resources import Resources
from tramontane.drivers.slurm import orders
from tramontane.drivers.slurm.dialects.records import JobOrder, SlurmNode, SlurmPartition
from tramontane.drivers.slurm.script import SCRIPT_BYTES_MAX
from tramontane.runner import bundle
from tramontane.runtime.clusters import SlurmSettings

JOB = "job_aaaaaaaaaaaaaaaaaaaa"
ATTEMPT = "att_aaaaaaaaaaaaaaaaaaaa"
REPLICA = "rep_aaaaaaaaaaaaaaaaaaaa"
SETTINGS = SlurmSettings(
    name="alps",
    url="http://slurm:6820",
    jwt_key=Path("/nowhere"),
    work_root=Path("/shared/it's here"),
    users={"acme": "acme-svc", "acme/lab": "acme-lab"},
    setup=("module load cuda/12",),
    container=("apptainer", "exec", "--nv", "/images/a b.sif"),
    walltime_s=90,
)
OFFICE = orders.Office(
    SETTINGS, "ins_aaaaaaaaaaaaaaaaaaaa", "https://cloud.example/", bundle.zip_bytes()
)
HOSTILE = [
    "$(touch /tmp/pwned)",
    "`id`",
    "'; rm -rf / #",
    '"\n#!/bin/bash\necho pwned\n',
    "TRAMONTANE_END\nrm -rf /",
    "\x00\x01\x7f",
    "-n --help",
    "%n\\n\\0",
    "ünïcode 🏔",
    "${IFS}",
]
TEXTS = st.text(max_size=40) | st.sampled_from(HOSTILE)


def attempt(texts: list[str], **changes: object) -> JobLaunch:
    """Return a launch with ``texts`` wherever a tenant may put one."""
    made = JobLaunch(
        job_id=JOB,
        name="".join(texts),
        number=1,
        argv=tuple(texts),
        env=tuple((text, text) for text in texts),
        files=tuple(ShippedFile(text, text) for text in texts),
        nodes=1,
        resources=Resources(1500, (3 << 20) + 1, 2),
        topology=Topology.ANY,
        priority_class=PriorityClass.SPOT,
        time_limit_s=61,
        hang_after_s=None,
        tenancy=Tenancy("acme", "lab"),
        secret="s" * 32,
        grace_s=30,
    )
    return dataclasses.replace(made, **changes)


def order_of(launch: JobLaunch, office: orders.Office = OFFICE) -> JobOrder:
    return orders.attempt_order(office, ATTEMPT, launch, None)[0]


def split(script: str) -> tuple[str, list[bytes]]:
    """Return a script without its payloads, and what these are."""
    payloads = re.findall(r"<<'TRAMONTANE_END'[^\n]*\n(.*?)\nTRAMONTANE_END\n", script, re.DOTALL)
    rest = script
    for payload in payloads:
        assert re.fullmatch(r"[A-Za-z0-9+/=\n]*", payload)
        rest = rest.replace(payload, "", 1)
    return rest, [base64.b64decode(payload) for payload in payloads]


@given(st.lists(TEXTS, max_size=4))
def test_nothing_of_a_tenant_is_outside_of_base64(texts: list[str]) -> None:
    launch = attempt(texts)
    rest, (launch_json, runner) = split(order_of(launch).script)
    assert rest == split(order_of(attempt([])).script)[0]
    told = json.loads(launch_json)
    assert told["argv"] == texts
    assert told["env"][: len(texts)] == [[text, text] for text in texts]
    assert told["prefix"] == ["apptainer", "exec", "--nv", "/images/a b.sif"]
    assert runner == OFFICE.runner
    made = dataclasses.replace(order_of(launch), script="")
    assert made == dataclasses.replace(order_of(attempt([])), script="")


def test_the_order_says_what_the_launch_says() -> None:
    order = order_of(attempt([], nodes=3, topology=Topology.RACK))
    assert order.name == ATTEMPT
    assert order.comment == f"tramontane:ins_aaaaaaaaaaaaaaaaaaaa:{ATTEMPT}:rack"
    assert (order.nodes, order.cpus, order.memory_mb, order.gpus) == (3, 2, 4, 2)
    assert (order.account, order.qos) == ("tmt_acme_lab", "tmt_spot")
    assert order.time_limit_min == 2  # 61 s and 30 s of grace
    assert (order.in_one_rack, order.is_spread) == (True, False)
    assert order.folder == f"/shared/it's here/acme-lab/jobs/{JOB}/attempts/{ATTEMPT}"
    spread = order_of(attempt([], nodes=3, topology=Topology.SPREAD))
    assert (spread.in_one_rack, spread.is_spread) == (False, True)
    assert "exec srun --nodes=3 --ntasks=3" in spread.script
    assert "module load cuda/12\nexec python3 -I -S runner.pyz" in order_of(attempt([])).script


def replica(**changes: object) -> LaunchSpec:
    made = LaunchSpec(
        argv=("{python}", "-m", "engine"),
        env=(("A", "b"),),
        resources=Resources(1000, 1 << 30),
        health_path="/health",
        load=None,
        ready_timeout_s=60,
        drain_timeout_s=30,
        tenancy=Tenancy("acme", "shop"),
    )
    return dataclasses.replace(made, **changes)


def test_a_replica_is_ordered_with_its_nodes() -> None:
    partition = SlurmPartition("main", is_default=True, max_time_min=1, max_nodes=None)
    order, user = orders.replica_order(OFFICE, REPLICA, ("n1",), replica(), partition)
    assert user == "acme-svc"
    assert (order.node_names, order.nodes) == (("n1",), 1)
    assert order.time_limit_min == 1  # the partition's: walltime_s is 90
    assert order.qos == "tmt_standard"
    told = json.loads(split(order.script)[1][0])
    assert ["CUDA_VISIBLE_DEVICES", ""] in told["env"]  # it has none, so it sees none
    assert orders.replica_order(OFFICE, REPLICA, ("n1",), replica(), None)[0].time_limit_min == 2
    with pytest.raises(ValueError, match="2 nodes"):
        orders.replica_order(OFFICE, REPLICA, ("n1",), replica(nodes=2), None)


def test_a_tenant_without_a_unix_user_is_refused_with_what_to_do() -> None:
    launch = attempt([], tenancy=Tenancy("bank", "lab"))
    with pytest.raises(ValueError, match=r'users."bank/lab", users.bank or default_user'):
        order_of(launch)
    settings = dataclasses.replace(SETTINGS, default_user="nobody")
    assert orders.user_of(settings, Tenancy("bank", "lab")) == "nobody"
    assert orders.user_of(settings, Tenancy("acme", "lab")) == "acme-lab"
    assert orders.user_of(settings, None) == "nobody"
    assert orders.users_of(settings) == {"acme-svc", "acme-lab", "nobody"}


def test_accounts_of_the_operator_are_used_as_they_are() -> None:
    own = dataclasses.replace(
        SETTINGS, manage_accounts=False, account="theirs", qos={"spot": "low"}
    )
    order = order_of(attempt([]), dataclasses.replace(OFFICE, settings=own))
    assert (order.account, order.qos) == ("theirs", "low")
    assert orders.qos_of(own, PriorityClass.RESERVED) is None


NODES = [
    SlurmNode("a1", frozenset(), "", frozenset({"main"}), 8, 4000, (("x", 4),), 0, 0, 0),
    SlurmNode("a2", frozenset(), "", frozenset({"main"}), 8, 4000, (("x", 4),), 0, 0, 0),
    SlurmNode("b1", frozenset(), "", frozenset({"main", "big"}), 16, 8000, (("x", 8),), 0, 0, 0),
]
RACKS = {"a1": "a", "a2": "a", "b1": "b"}
MAIN = SlurmPartition("main", is_default=True, max_time_min=60, max_nodes=3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nodes": 4, "resources": Resources(1000, 1, 0)}, "the partition allows 3"),
        ({"nodes": 2, "resources": Resources(1000, 1, 8)}, "1 of the cluster's 3 have that"),
        ({"resources": Resources(17_000, 1, 0)}, "0 of the cluster's 3"),
        ({"resources": Resources(1000, 9 << 30, 0)}, "0 of the cluster's 3"),
        ({"nodes": 3, "topology": Topology.RACK}, "no rack has 3 nodes"),
    ],
)
def test_what_never_fits_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        orders.check_room(order_of(attempt([], **changes)), NODES, MAIN, RACKS)


def test_what_may_fit_is_not_refused() -> None:
    gang = order_of(attempt([], nodes=2, topology=Topology.RACK, resources=Resources(8000, 1, 4)))
    orders.check_room(gang, NODES, MAIN, RACKS)
    with pytest.raises(ValueError, match="knows no racks"):
        orders.check_room(gang, NODES, MAIN, {})
    with pytest.raises(ValueError, match="longer than the 60 min"):
        orders.attempt_order(OFFICE, ATTEMPT, attempt([], time_limit_s=3601), MAIN)


def test_files_that_make_it_too_long_are_refused() -> None:
    big = ShippedFile("a", base64.b64encode(os.urandom(SCRIPT_BYTES_MAX)).decode())
    with pytest.raises(ValueError, match="shared folder instead"):
        order_of(attempt([], files=(big,)))


STUB = """#!/bin/bash
printf '%s\\0' "$PWD" "$@" > arguments
"""


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_every_byte_arrives_through_bash(tmp_path: Path, nodes: int) -> None:
    root = tmp_path / "a b'c"
    (root / "acme-lab").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for name in ("python3", "srun"):
        (tmp_path / "bin" / name).write_text(STUB)
        (tmp_path / "bin" / name).chmod(0o755)
    settings = dataclasses.replace(
        SETTINGS, work_root=root, setup=("export LOADED=1",), venv=Path("/opt/my venv")
    )
    office = dataclasses.replace(OFFICE, settings=settings)
    launch = attempt(HOSTILE, nodes=nodes)
    script = order_of(launch, office).script
    slurm_script = tmp_path / "slurm_script"
    slurm_script.write_text(script)
    checked = subprocess.run(["bash", "-n", slurm_script], capture_output=True, check=True)
    assert checked.stderr == b""
    for _ in range(2):  # a second job of the same id does no harm
        subprocess.run(
            ["bash", slurm_script],
            env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "17"},
            cwd=tmp_path,
            check=True,
        )
    run_dir = root / "acme-lab" / "jobs" / JOB / "attempts" / ATTEMPT
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "arguments",
        "launch.json",
        "runner.pyz",
        "slurm.log",
    ]
    assert all(path.stat().st_mode & 0o077 == 0 for path in run_dir.iterdir() if path.is_file())
    assert run_dir.stat().st_mode & 0o077 == 0
    told = json.loads((run_dir / "launch.json").read_bytes())
    assert told["argv"] == HOSTILE
    assert [file["content"] for file in told["files"]] == HOSTILE
    with zipfile.ZipFile(io.BytesIO((run_dir / "runner.pyz").read_bytes())) as runner:
        assert runner.testzip() is None
    where, *arguments = (run_dir / "arguments").read_bytes().decode().split("\0")[:-1]
    assert where == str(run_dir)
    steps = arguments.index("-I") - 1 if nodes > 1 else 0
    assert arguments[steps + (nodes > 1) :] == [
        *("-I", "-S", "runner.pyz", "--run-dir", ".", "--attempt", ATTEMPT, "--host", "auto"),
        *("--python", "/opt/my venv/bin/python", "--report-url", "https://cloud.example/"),
        *(("--nodes", "2") if nodes > 1 else ()),
        *("--claim", "17"),
    ]


@pytest.mark.slow
def test_without_its_user_folder_nothing_is_started(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, work_root=tmp_path)
    script = order_of(attempt([]), dataclasses.replace(OFFICE, settings=settings)).script
    done = subprocess.run(["bash", "-s"], input=script.encode(), capture_output=True, check=False)
    assert done.returncode == 73
    assert list(tmp_path.iterdir()) == []
