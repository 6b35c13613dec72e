"""Serving on Slurm: two replicas on two nodes, called, metered, scaled, rolled and drained."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import scenario
from tests.support import client_envs
from tests.support.cli import python_environment
from tests.support.slurm_system import (
    CLUSTER,
    jobs_of,
    node_names,
    running_on,
    scale,
    serving,
    settled,
)
from tests.support.steady_load import SteadyLoad, failures, told
from tests.support.system import DEMO, System, running
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def system(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_on(slurm, tmp_path_factory.mktemp("serving") / "home") as system:
        scale(system, 2)
        yield system


def test_two_replicas_run_on_two_nodes_under_the_tenants_user(
    system: System, slurm: SlurmCluster
) -> None:
    replicas, names, jobs = settled(system, 2), node_names(system), jobs_of(slurm)
    assert len({replica["node_id"] for replica in replicas}) == 2
    for replica in replicas:
        job = jobs[replica["id"]]
        assert (job["user"], job["state"]) == ("tmt-a", "RUNNING")
        assert job["node"] == names[replica["node_id"]]
    (cluster,) = system.pages("/clusters")
    assert (cluster["name"], cluster["driver"]) == (CLUSTER, "slurm")


def test_sites_racks_nodes_and_devices_are_those_of_slurm(
    system: System, slurm: SlurmCluster
) -> None:
    config = slurm.config
    (site,) = system.cloud("GET", "/sites")["data"]
    told = (site["name"], site["country"], site["clusters"], site["racks"], site["nodes"])
    assert told == ("test", "FR", [CLUSTER], 2, 4)
    assert site["devices"] == 4 * config.gpus
    found = {node["name"]: node for node in system.pages("/nodes")}
    assert {name: node["rack"] for name, node in found.items()} == {
        name: rack for rack, names in slurm.racks.items() for name in names
    }
    for node in found.values():
        assert [it["name"] for it in node["devices"]] == [config.gpu_type] * config.gpus
        assert node["capacity"] == {
            "cpu_millicores": config.cpus_per_node * 1_000,
            "memory_bytes": config.memory_mb << 20,
            "devices": config.gpus,
        }


JOB_FILE = """\
name: anywhere
script: |
  cat input.txt
  echo "$GREETING from node $NODE_RANK of $NNODES, attempt $TRAMONTANE_ATTEMPT_NUMBER"
  touch "$TRAMONTANE_CHECKPOINT_DIR/seen" && ls "$TRAMONTANE_CHECKPOINT_DIR"
cpus: 0.5
memory: 64MiB
time_limit: 1m
environment: {GREETING: "it's me"}
files: {input.txt: data.txt}
"""


def test_one_job_file_runs_on_slurm_and_on_one_machine(system: System, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB_FILE)
    (tmp_path / "data.txt").write_text("forty-two\n")

    def run(where: System) -> str:
        environment = python_environment() | {
            "TRAMONTANE_BASE_URL": where.base_url,
            "TRAMONTANE_API_KEY": where.api_key,
        }
        words = [sys.executable, "-m", "tramontane.main", "jobs", "submit", "job.yaml", "--follow"]
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with running(tmp_path / "home") as local:
        assert run(local) == run(system) == "forty-two\nit's me from node 0 of 1, attempt 1\nseen\n"


@pytest.mark.parametrize("client", ["openai-1", "openai-3", "mistralai-1", "mistralai-3"])
def test_official_clients_are_answered_and_metered(system: System, client: str) -> None:
    before = {event["id"] for event in system.usage_events()}
    environment = client_envs.make_all()[client]
    options = ["--base-url", system.base_url, "--api-key", system.api_key, "--model", DEMO]
    options += ["--resting-model", "none", "--embedding-model", DEMO]
    results = json.loads(environment.run(scenario(client), *options, timeout_s=120))
    for step in ("chat", "chat stream", "async chat"):
        assert "sovereign AI cloud" in results[step]["text"], (step, results[step])

    def counted() -> bool:
        events = [e for e in system.usage_events() if e["id"] not in before]
        return sum(e["completion_tokens"] > 0 for e in events) >= 3

    until(counted, "the usage events", 20)


def test_logs_of_a_replica_are_read_from_its_node(system: System) -> None:
    lines = system.cloud("GET", f"/deployments/{DEMO}/logs")
    assert len(lines["data"]) == 2
    for replica in lines["data"]:
        assert " at http://127.0.0.1:" in "\n".join(replica["lines"])


def test_it_is_scaled_and_rolled_without_a_failed_request(
    system: System, slurm: SlurmCluster
) -> None:
    load = SteadyLoad(system)
    try:
        load.go_on()
        scale(system, 3)
        load.go_on()
        before = {replica["id"] for replica in scale(system, 2)}
        parallel = system.deployment()["parallel"]
        system.cloud("PATCH", f"/deployments/{DEMO}", json={"parallel": parallel + 1})
        until(lambda: not before & {r["id"] for r in serving(system)}, "all replicas anew", 60)
        settled(system, 2)
        load.go_on()
    finally:
        endings = load.stop()
    assert not failures(endings), told(failures(endings))
    until(lambda: len(jobs_of(slurm)) == 2, "two jobs")


def test_a_drained_node_is_left_without_a_failed_request(
    system: System, slurm: SlurmCluster
) -> None:
    moved = settled(system, 2)[0]
    name = node_names(system)[moved["node_id"]]
    load = SteadyLoad(system)
    try:
        load.go_on()
        system.cloud("POST", f"/nodes/{moved['node_id']}/drain", json={"reason": "new disks"})
        until(lambda: moved["id"] not in {r["id"] for r in serving(system)}, "its end", 60)
        assert moved["node_id"] not in {r["node_id"] for r in settled(system, 2)}
        load.go_on()
        assert "DRAIN" in slurm.run("sinfo", "--noheader", f"--nodes={name}", "--format=%T").upper()
    finally:
        endings = load.stop()
        system.cloud("POST", f"/nodes/{moved['node_id']}/resume")
    assert not failures(endings), told(failures(endings))
    until(
        lambda: "idle" in slurm.run("sinfo", "--noheader", f"--nodes={name}", "--format=%T"),
        "the node to be back",
    )
