"""What only real processes can show: kills, crashes halfway, full disks, orphans."""

import concurrent.futures
import dataclasses
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process_clusters import CAPACITY, NODE, ProcessCluster, open_cluster
from tests.support.random_gguf import write_random_gguf
from tests.support.runners import (
    SECRET,
    get,
    kill,
    new_id,
    processes_of,
    tiny_launch,
    zombies,
)
from tests.support.waiting import until
from tramontane.domain.catalog import ModelVersion, WeightsFormat
from tramontane.domain.deployment import DeploymentSpec
from tramontane.domain.observation import Reachable, RunState, Unreachable
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.process import ProcessDriver
from tramontane.engines.llamacpp import LlamaCpp
from tramontane.runner import linux

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ProcessCluster]:
    before = zombies()  # of other rooms' tests, in the same process
    with open_cluster(tmp_path) as cluster:
        yield cluster
    assert set(zombies()) <= set(before)


def test_nothing_is_inherited_and_secrets_are_private(
    cluster: ProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the operator's")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    replica_id = new_id()
    launch = dataclasses.replace(cluster.tiny(), device_indexes=(1, 3))
    cluster.driver.ensure(replica_id, NODE, launch)
    seen = cluster.until_state(replica_id, RunState.READY)
    assert seen.address is not None
    environment = dict(line.split("=", 1) for line in get(seen.address, "/environ").splitlines())
    assert "OPENAI_API_KEY" not in environment
    assert "PYTHONPATH" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environment["TRAMONTANE_INSTALLATION"] == cluster.installation_id
    run_dir = cluster.run_dir(replica_id)
    assert run_dir.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in run_dir.iterdir())
    for pid in processes_of(replica_id):
        assert SECRET not in Path(f"/proc/{pid}/cmdline").read_text()


def test_without_devices_none_is_visible(cluster: ProcessCluster) -> None:
    seen = cluster.observe(cluster.start())
    assert seen is not None
    assert seen.address is not None
    assert "CUDA_VISIBLE_DEVICES=\n" in get(seen.address, "/environ") + "\n"


def test_a_killed_runner_is_told_and_leaves_nothing(cluster: ProcessCluster) -> None:
    replica_id = cluster.start("--grandchild", "--say", f"serving with {SECRET}")
    kill(_report(cluster, replica_id)["pid"])
    ended = cluster.until_state(replica_id, RunState.EXITED)
    assert (ended.reason or "").startswith("its runner was killed")
    assert "serving with ***" in (ended.reason or "")
    assert processes_of(replica_id) == []
    assert _report(cluster, replica_id)["run_state"] == "exited"
    cluster.driver.ensure(replica_id, NODE, cluster.tiny())
    assert cluster.starts(replica_id) == 1


def test_what_hides_from_a_killed_runner_is_found_by_its_session(cluster: ProcessCluster) -> None:
    # As vLLM's processes do: a child in the engine's session whose environment shows nothing.
    hide = (
        "import os, time\n"
        "if os.fork(): time.sleep(600)\n"
        "os.execve('/bin/sleep', ['sleep', '600'], {'A': 'b'})"
    )
    launch = tiny_launch(ready_timeout_s=60)
    replica_id = new_id()
    cluster.driver.ensure(
        replica_id, NODE, dataclasses.replace(launch, argv=("{python}", "-c", hide))
    )
    hidden = until(lambda: _hidden_in_session(_report(cluster, replica_id)["engine_pid"]))
    kill(_report(cluster, replica_id)["pid"])
    until(lambda: linux.start_ticks(_report(cluster, replica_id)["engine_pid"]) is None)
    assert linux.start_ticks(hidden) is not None
    cluster.until_state(replica_id, RunState.EXITED)
    assert linux.start_ticks(hidden) is None


def test_a_killed_engine_is_told(cluster: ProcessCluster) -> None:
    replica_id = cluster.start("--grandchild")
    kill(_report(cluster, replica_id)["engine_pid"])
    ended = cluster.until_state(replica_id, RunState.EXITED)
    assert "ended by signal 9" in (ended.reason or "")
    assert until(lambda: not processes_of(replica_id))


def test_runner_and_engine_outlive_the_control_plane(cluster: ProcessCluster) -> None:
    replica_id = new_id()
    starter = f"""
import os, signal
from pathlib import Path
from tests.support.process_clusters import NODE, ProcessCluster
cluster = ProcessCluster(Path({str(cluster.home)!r}))
cluster.installation_id = {cluster.installation_id!r}
cluster.new_driver().ensure({replica_id!r}, NODE, cluster.tiny())
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", starter], check=False)
    assert done.returncode == -signal.SIGKILL
    seen = cluster.until_state(replica_id, RunState.READY)
    assert get(seen.address or "", "/health") == "ok"


def test_draining_finishes_what_is_in_flight(cluster: ProcessCluster) -> None:
    replica_id = cluster.start()
    seen = cluster.observe(replica_id)
    assert seen is not None
    address = seen.address or ""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        request = pool.submit(get, address, "/sleep?s=1")
        until(lambda: " 1.0" in get(address, "/metrics"))
        cluster.driver.stop(replica_id)
        draining = cluster.until_state(replica_id, RunState.DRAINING)
        assert draining.address == address
        cluster.driver.stop(replica_id)
        assert request.result() == "slept"
    assert cluster.until_state(replica_id, RunState.EXITED).reason == "drained and ended as asked"


@pytest.mark.parametrize("has_launch", [False, True])
def test_a_crash_before_the_start_is_made_good(
    cluster: ProcessCluster, *, has_launch: bool
) -> None:
    replica_id = new_id()
    run_dir = cluster.run_dir(replica_id)
    run_dir.mkdir(parents=True)
    if has_launch:
        (run_dir / "launch.json").write_text(json.dumps(dataclasses.asdict(cluster.tiny())))
        (run_dir / ".launch.json-draft").write_text("{")
    assert cluster.observe(replica_id) is None  # nothing runs
    cluster.driver.ensure(replica_id, NODE, cluster.tiny())
    cluster.driver.ensure(replica_id, NODE, cluster.tiny())
    cluster.until_state(replica_id, RunState.READY)
    assert cluster.starts(replica_id) == 1


def test_what_was_stopped_before_it_started_is_never_started(cluster: ProcessCluster) -> None:
    replica_id = new_id()
    cluster.run_dir(replica_id).mkdir(parents=True)
    cluster.driver.stop(replica_id)
    cluster.driver.ensure(replica_id, NODE, cluster.tiny())
    seen = cluster.observe(replica_id)
    assert seen is not None
    assert (seen.run_state, seen.reason) == (RunState.EXITED, "stopped before it was started")
    assert cluster.starts(replica_id) == 0
    cluster.driver.forget(replica_id)
    assert not cluster.run_dir(replica_id).exists()


@pytest.mark.parametrize("bytes_max", [0, 700])
def test_a_full_disk_refuses_without_a_half_state(cluster: ProcessCluster, bytes_max: int) -> None:
    replica_id = new_id()
    starter = f"""
import resource
from pathlib import Path
from tests.support.process_clusters import NODE, ProcessCluster
from tramontane.drivers.base import DriverUnavailableError
cluster = ProcessCluster(Path({str(cluster.home)!r}))
cluster.driver.view()
resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_max}, {bytes_max}))
try:
    cluster.driver.ensure({replica_id!r}, NODE, cluster.tiny("--say", "x" * {bytes_max}))
except DriverUnavailableError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", starter], check=True, capture_output=True, text=True
    )
    assert f"{replica_id} was not started: cannot write" in done.stdout
    assert not cluster.run_dir(replica_id).exists()
    cluster.driver.ensure(replica_id, NODE, cluster.tiny())
    cluster.until_state(replica_id, RunState.READY)


def test_a_runner_that_cannot_report_is_refused(cluster: ProcessCluster) -> None:
    replica_id = new_id()
    run_dir = cluster.run_dir(replica_id)
    run_dir.mkdir(parents=True)
    (run_dir / "report.json.tmp").mkdir()  # where the runner writes its draft
    with pytest.raises(DriverUnavailableError, match=r"did not start: .*cannot write"):
        cluster.driver.ensure(replica_id, NODE, cluster.tiny())
    assert not run_dir.exists()
    until(lambda: not processes_of(replica_id))


def test_an_orphan_without_its_directory_is_found_and_ended(cluster: ProcessCluster) -> None:
    replica_id = cluster.start()
    cluster.run_dir(replica_id).rename(cluster.home / "moved")
    seen = cluster.observe(replica_id)
    assert seen is not None
    assert seen.run_state is RunState.STARTING
    cluster.driver.stop(replica_id, drain=False)
    until(lambda: not processes_of(replica_id))


def test_installations_do_not_see_each_other(cluster: ProcessCluster, tmp_path: Path) -> None:
    replica_id = cluster.start()
    with open_cluster(tmp_path / "other") as other:
        view = other.driver.view()
        assert isinstance(view, Reachable)
        assert view.observations == ()
        other.driver.stop(replica_id, drain=False)
    seen = cluster.observe(replica_id)
    assert seen is not None
    assert seen.run_state is RunState.READY


def test_a_pid_that_was_used_again_is_nobody_of_ours(cluster: ProcessCluster) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        ticks = linux.start_ticks(stranger.pid) or 0
        old = {"start_ticks": ticks - 1, "boot_id": linux.boot_id()}
        other_boot = {"start_ticks": ticks, "boot_id": "another"}
        for claims in (old, other_boot):
            replica_id = new_id()
            run_dir = cluster.run_dir(replica_id)
            run_dir.mkdir(parents=True)
            report = {"replica_id": replica_id, "pid": stranger.pid, "run_state": "ready"}
            report |= {"engine_pid": stranger.pid, **claims}
            (run_dir / "report.json").write_text(json.dumps(report))
            seen = cluster.observe(replica_id)
            assert seen is not None
            assert seen.run_state is RunState.EXITED
            cluster.driver.stop(replica_id, drain=False)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"run_state": "dancing", "pid": 1}'])
def test_a_broken_report_means_that_it_ended(cluster: ProcessCluster, text: str) -> None:
    replica_id = new_id()
    run_dir = cluster.run_dir(replica_id)
    run_dir.mkdir(parents=True)
    (run_dir / "report.json").write_text(text)
    (run_dir.parent / "README").write_text("not a replica")
    (run_dir.parent / ".forgotten-rep_x").mkdir()
    seen = cluster.observe(replica_id)
    assert seen is not None
    assert (seen.run_state, seen.reason) == (RunState.EXITED, "its report cannot be read")
    cluster.driver.ensure(replica_id, NODE, cluster.tiny())
    assert cluster.starts(replica_id) == 0
    cluster.driver.forget(replica_id)
    assert [path.name for path in run_dir.parent.iterdir()] == ["README"]


def test_what_cannot_be_read_is_unreachable_not_empty(tmp_path: Path) -> None:
    (tmp_path / "replicas").write_text("a file where a directory belongs")
    driver = ProcessDriver("local", tmp_path, "ins_x", node_name=NODE, capacity=CAPACITY)
    view = driver.view()
    assert isinstance(view, Unreachable)
    assert "replicas" in view.reason
    with pytest.raises(DriverUnavailableError, match="cannot write"):
        driver.ensure(new_id(), NODE, tiny_launch())


@pytest.mark.parametrize("replica_id", ["../../etc", "dep_aaaaaaaaaaaaaaaaaaaa", "", "rep_x/../y"])
def test_only_replica_ids_become_paths(cluster: ProcessCluster, replica_id: str) -> None:
    for call in (
        lambda: cluster.driver.ensure(replica_id, NODE, tiny_launch()),
        lambda: cluster.driver.stop(replica_id),
        lambda: cluster.driver.forget(replica_id),
        lambda: cluster.driver.logs(replica_id, 1),
    ):
        with pytest.raises(ValueError, match="is not a replica id"):
            call()


def test_logs_span_both_files_and_hide_the_secret(cluster: ProcessCluster) -> None:
    replica_id = cluster.start("--say", f"the key is {SECRET}")
    (cluster.run_dir(replica_id) / "engine.log.1").write_text("older\n")
    assert cluster.driver.logs(replica_id, 10) == ["older", "the key is ***"]
    assert cluster.driver.logs(replica_id, 1) == ["the key is ***"]


def test_a_real_model_answers_chat_and_embeddings(cluster: ProcessCluster, tmp_path: Path) -> None:
    path = write_random_gguf(tmp_path / "random.gguf")
    version = ModelVersion(
        "mdv", "mdl", 1, WeightsFormat.GGUF, str(path), "sha256:0", path.stat().st_size,
        "llama", 512, "F32", "none", 0, 115_392,
    )  # fmt: skip
    spec = DeploymentSpec("mdv", "llamacpp", 1, context_length=256, parallel=2)
    launch = LlamaCpp().launch(
        spec, version, served_name="random", secret=SECRET, device_indexes=()
    )
    replica_id = new_id()
    cluster.driver.ensure(replica_id, NODE, launch)
    seen = cluster.until_state(replica_id, RunState.READY)
    address = seen.address or ""
    assert '"random"' in get(address, "/v1/models")
    chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    answer = _post(address, "/v1/chat/completions", chat)
    assert answer["usage"]["completion_tokens"] <= 4
    vector = _post(address, "/v1/embeddings", {"input": "hello"})["data"][0]["embedding"]
    assert len(vector) == 64
    cluster.driver.stop(replica_id)
    assert cluster.until_state(replica_id, RunState.EXITED).reason == "drained and ended as asked"


def _report(cluster: ProcessCluster, replica_id: str) -> dict[str, int]:
    return json.loads((cluster.run_dir(replica_id) / "report.json").read_text())


def _post(address: str, path: str, body: dict[str, object]) -> dict[str, dict[str, int]]:
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{address}{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def _hidden_in_session(session: int | None) -> int | None:
    for name in os.listdir("/proc"):  # noqa: PTH208 - names are all that is needed
        fields = linux.stat_fields(int(name)) if name.isdigit() else None
        if fields is not None and int(fields[3]) == session and int(name) != session:
            return int(name) if b"A=b" in Path(f"/proc/{name}/environ").read_bytes() else None
    return None
