"""Jobs on one machine, end to end: a job file, `tramontane up`, the command line."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.cli import python_environment
from tests.support.system import System, running
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

OVER = {"succeeded", "failed", "cancelled"}
GATE = 'until [ -e "$TRAMONTANE_CHECKPOINT_DIR/open" ]; do sleep 0.05; done\n'


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("jobs") / "home") as system:
        yield system


class Shell:
    """The command line as a member of the first project types it."""

    def __init__(self, system: System, folder: Path) -> None:
        self.system = system
        self.folder = folder
        self.environment = python_environment() | {
            "TRAMONTANE_BASE_URL": system.base_url,
            "TRAMONTANE_API_KEY": system.api_key,
        }

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "tramontane.main", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def file(self, text: str, name: str = "job.yaml") -> str:
        (self.folder / name).write_text(text)
        return name

    def submit(self, name: str, script: str, **wish: Any) -> str:
        body = {"name": name, "script": script, "memory_bytes": 64 << 20} | wish
        return self.system.cloud("POST", "/jobs", key=self.system.api_key, json=body)["id"]

    def get(self, job_id: str) -> dict[str, Any]:
        return self.system.cloud("GET", f"/jobs/{job_id}")

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        return self.system.cloud("GET", f"/jobs/{job_id}/attempts")["data"]

    def until(self, job_id: str, *statuses: str, limit_s: float = 40) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            job = self.get(job_id)
            if job["status"] in statuses:
                return job
            assert job["status"] not in OVER, (job, self.attempts(job_id))
            return None

        try:
            return until(look, f"{job_id} to be {statuses}", limit_s)
        except AssertionError as error:
            told = f"{error}\n{self.get(job_id)}\n{self.system.logs()}"
            raise AssertionError(told) from None

    def log(self, job_id: str, **which: int) -> str:
        words = [f"--{name}={value}" for name, value in which.items()]
        code, out, err = self.run("jobs", "logs", job_id, *words)
        assert code == 0, err
        return out

    def open_gate(self, job_id: str) -> None:
        folder = self.system.home / "jobs" / job_id / "checkpoint"
        (folder / "open").touch()


@pytest.fixture
def shell(system: System, tmp_path: Path) -> Shell:
    return Shell(system, tmp_path)


def processes_of(job_id: str) -> list[int]:
    """Return the processes that run a job's command."""
    mark = f"TRAMONTANE_JOB={job_id}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def test_a_job_file_is_followed_to_its_end(shell: Shell) -> None:
    (shell.folder / "data.txt").write_text("forty-two\n")
    name = shell.file(
        """\
name: hello
command: [sh, tell]
cpus: 0.5
memory: 64MiB
time_limit: 1m
environment:
  GREETING: "hello there"
files:
  data/in.txt: data.txt
  tell: tell.sh
"""
    )
    lines = ['echo "$GREETING"', "cat data/in.txt", f"{GATE.strip()}", "echo end"]
    (shell.folder / "tell.sh").write_text("\n".join(lines) + "\n")
    following = shell.start("jobs", "submit", name, "--follow")
    assert following.stdout is not None
    assert following.stderr is not None
    first = following.stderr.readline()
    job_id = re.search(r"job_\w+", first)
    assert job_id is not None, first
    assert following.stdout.readline() == "hello there\n", "it is printed while the job runs"
    assert following.stdout.readline() == "forty-two\n"
    assert shell.get(job_id[0])["status"] in {"pending", "running"}
    shell.open_gate(job_id[0])
    out, err = following.communicate(timeout=30)
    assert (following.returncode, out) == (0, "end\n"), err
    assert "attempt 1 succeeded" in err
    assert re.search(r"hello succeeded \(\d+\.\d s\)", err)
    job = shell.get(job_id[0])
    assert job["reason"] is None
    (attempt,) = until(lambda: accounted(shell, job_id[0]), "the account")
    assert (attempt["exit_code"], attempt["devices"], attempt["device_seconds"]) == (0, 0, 0)
    assert job["started_at_ms"] <= attempt["ended_at_ms"]


def accounted(shell: Shell, job_id: str) -> list[dict[str, Any]] | None:
    found = shell.attempts(job_id)
    return found if all(it["is_accounted"] for it in found) else None


def test_every_way_to_end(shell: Shell) -> None:
    again = 'echo "try $TRAMONTANE_ATTEMPT_NUMBER"; [ "$TRAMONTANE_ATTEMPT_NUMBER" = 2 ] || exit 3'
    retried = shell.submit("retried", again, retries=2)
    failed = shell.submit("failed", "echo broken pipe; exit 7")
    hung = shell.submit("hung", "echo once; sleep 600", hang_after_s=2)
    late = shell.submit("late", "sleep 600", time_limit_s=2)
    array = shell.submit("array", "echo index $TRAMONTANE_ARRAY_INDEX", array=3)
    after = shell.submit("after", "true", depends_on=["array"])
    doomed = shell.submit("doomed", "true", depends_on=[hung])

    shell.until(retried, "succeeded")
    first, second = shell.attempts(retried)
    assert (first["status"], first["exit_code"]) == ("failed", 3)
    assert (second["status"], second["exit_code"]) == ("succeeded", 0)
    assert shell.log(retried, attempt=1) == "try 1\n"
    assert shell.log(retried) == "try 2\n"
    told = shell.until(failed, "failed")["reason"]
    assert "7" in told
    assert "broken pipe" in told
    assert "no progress for 2 s" in shell.until(hung, "failed")["reason"]
    assert "time limit" in shell.until(late, "failed")["reason"]
    assert [it["status"] for it in shell.attempts(late)] == ["timed_out"]
    shell.until(array, "succeeded")
    assert [shell.log(array, index=i) for i in range(3)] == [f"index {i}\n" for i in range(3)]
    begun = shell.until(after, "succeeded")["started_at_ms"]
    assert begun >= max(it["ended_at_ms"] for it in shell.attempts(array))
    assert shell.until(doomed, "failed")["reason"] == f"it depends on {hung}, which failed"
    assert shell.attempts(doomed) == []
    for job_id in (retried, failed, hung, late, array, after):
        assert processes_of(job_id) == []
    code, out, _ = shell.run("jobs", "wait", retried)
    assert (code, out) == (0, "")
    code, _, err = shell.run("jobs", "wait", failed)
    assert code == 1
    assert "broken pipe" in err


def test_ctrl_c_leaves_the_job_alone_and_cancel_ends_it(shell: Shell) -> None:
    name = shell.file("name: long\nscript: |\n  echo on\n  setsid sleep 599 &\n  sleep 598\n")
    following = shell.start("jobs", "submit", name, "--follow")
    assert following.stderr is not None
    assert following.stdout is not None
    found = re.search(r"job_\w+", following.stderr.readline())
    assert found is not None
    job_id = found[0]
    assert following.stdout.readline() == "on\n"
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=20)
    assert following.returncode == 130
    assert f"tramontane jobs cancel {job_id}" in err
    assert shell.get(job_id)["status"] == "running"
    assert len(processes_of(job_id)) >= 2
    code, out, err = shell.run("jobs", "cancel", job_id, "--yes", "--wait")
    assert code == 0, err
    assert "cancelled as asked" in out
    until(lambda: not processes_of(job_id), "the end of its processes", 10)
    assert shell.run("jobs", "cancel", job_id, "--yes")[0] == 0


def test_lists_and_history_are_for_people(shell: Shell) -> None:
    job_id = shell.submit("shown", "true")
    shell.until(job_id, "succeeded")
    code, out, _ = shell.run("jobs", "list", "--status", "succeeded", "--limit", "1")
    assert code == 0
    assert job_id in out.splitlines()[1], "the newest comes first"
    code, out, _ = shell.run("jobs", "attempts", "shown")
    assert code == 0
    assert re.search(r"^0 +1 +succeeded", out, re.M)
    code, out, _ = shell.run("story", job_id)
    assert [word in out for word in ("job.created", "attempt.made", "job.succeeded")] == [True] * 3
    code, _, err = shell.run("jobs", "submit", shell.file("name: x\nscrpt: true\n"))
    assert code == 2
    assert "line 2: 'scrpt' is not known in a job file; did you mean script?" in err
    code, _, err = shell.run("jobs", "submit", shell.file("name: x\nscript: a\ndevices: 900\n"))
    assert code == 1
    assert "ask for at most" in err


@pytest.mark.parametrize("moment_s", [0.0, 0.1, None])
def test_a_killed_control_plane_starts_nothing_twice(
    shell: Shell, system: System, moment_s: float | None
) -> None:
    """``moment_s`` after the answer to the submission, or in the middle of the run."""
    control = system.only("control")
    job_id = shell.submit("once", "echo ran; " + GATE)
    if moment_s is None:
        shell.until(job_id, "running")
    else:
        time.sleep(moment_s)
    control.kill()
    until(lambda: is_back(system), "the control plane to be back", 30)
    shell.until(job_id, "running")
    shell.open_gate(job_id)
    shell.until(job_id, "succeeded")
    assert len(shell.attempts(job_id)) == 1
    assert shell.log(job_id) == "ran\n"


def is_back(system: System) -> bool:
    try:
        return bool(system.processes("control")) and bool(system.pages("/jobs"))
    except (AssertionError, httpx.HTTPError):
        return False


def test_a_killed_runner_costs_one_attempt(shell: Shell, system: System) -> None:
    job_id = shell.submit("orphaned", "echo on; " + GATE)
    shell.until(job_id, "running")
    (attempt,) = shell.attempts(job_id)
    for runner in system.processes("runner"):
        with contextlib.suppress(OSError):
            if attempt["id"].encode() in Path(f"/proc/{runner.pid}/cmdline").read_bytes():
                os.kill(runner.pid, signal.SIGKILL)
    until(lambda: len(shell.attempts(job_id)) == 2, "another attempt", 30)
    shell.open_gate(job_id)
    shell.until(job_id, "succeeded")
    first, second = shell.attempts(job_id)
    assert first["status"] == "node_failed", first
    assert second["status"] == "succeeded"


def test_another_tenant_sees_none_of_it(shell: Shell, system: System) -> None:
    system.cloud("POST", "/organizations", json={"name": "globex"})
    system.cloud("POST", "/projects", json={"name": "lab", "organization": "globex"})
    key = system.cloud("POST", "/api-keys", json={"name": "lab", "project": "lab"})["key"]
    mine = shell.submit("mine", "echo secret")
    shell.until(mine, "succeeded")
    for path in ("", "/attempts", "/logs"):
        system.cloud("GET", f"/jobs/{mine}{path}", key=key, status=404)
    assert system.cloud("GET", "/jobs", key=key)["data"] == []


READERS = """\
import http.client, sys, time
host, path, key = sys.argv[1:]
open_ones = []
for _ in range(16):
    reader = http.client.HTTPConnection(host, timeout=30)
    reader.request("GET", path, headers={"authorization": "Bearer " + key})
    reply = reader.getresponse()
    assert reply.status == 200 and reply.readline() == b"on\\n", reply.status
    open_ones.append(reply)
print("all read", flush=True)
time.sleep(600)
"""


def test_readers_that_are_killed_leave_their_places_to_others(shell: Shell, system: System) -> None:
    job_id = shell.submit("read", "echo on\n" + GATE)
    shell.until(job_id, "running")
    until(lambda: shell.log(job_id) == "on\n", "its first words")
    path = f"/cloud/v1/jobs/{job_id}/logs?follow=true"
    key = system.api_key

    def status() -> int:
        with httpx.stream(
            "GET", system.root + path, headers={"authorization": f"Bearer {key}"}, timeout=30
        ) as reply:
            return reply.status_code

    words = [sys.executable, "-c", READERS, f"127.0.0.1:{system.port}", path, key]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as readers:
        assert readers.stdout is not None
        try:
            assert readers.stdout.readline() == "all read\n"
            assert status() == 429
            code, _, err = shell.run("jobs", "logs", job_id, "--follow")
            assert code == 6
            assert "16 logs are being read by this API key" in err
            assert shell.get(job_id)["status"] == "running", "an operator's look goes on"
        finally:
            readers.kill()
    until(lambda: status() == 200, "a place that was given back", 20)
    shell.open_gate(job_id)
    shell.until(job_id, "succeeded")


def test_a_deleted_job_leaves_its_bill(shell: Shell, system: System) -> None:
    job_id = shell.submit("short-lived", "echo x > made; echo y > $TRAMONTANE_CHECKPOINT_DIR/z")
    gate = shell.submit("goes-on", GATE)
    code, _, err = shell.run("jobs", "delete", gate, "--yes")
    assert code == 5
    assert "cancel it" in err
    shell.until(job_id, "succeeded")
    folder = system.home / "jobs" / job_id
    assert (folder / "work" / "made").exists()
    code, out, _ = shell.run("jobs", "get", job_id)
    assert code == 0
    assert re.search(r"^files_kept_until_ms +\d{4}-", out, re.M)
    until(lambda: accounted(shell, job_id), "the account")
    before = system.cloud("GET", f"/usage/attempts?job={job_id}")
    for _ in range(2):
        code, out, err = shell.run("jobs", "delete", job_id, "--yes")
        assert code == 0, err
    until(lambda: not folder.exists(), "the end of its files", 30)
    assert not list(folder.parent.glob(f"*{job_id}"))
    assert shell.run("jobs", "get", job_id)[0] == 3
    after = system.cloud("GET", f"/usage/attempts?job={job_id}")
    assert [it["id"] for it in after["data"]] == [it["id"] for it in before["data"]]
    until(lambda: "job.files_removed" in shell.run("story", job_id)[1], "the story")
    shell.open_gate(gate)
    shell.until(gate, "succeeded")


def test_stopping_the_machine_interrupts_and_the_next_start_goes_on(tmp_path: Path) -> None:
    with running(tmp_path / "home", demo="false") as system:
        shell = Shell(system, tmp_path)
        step = 'n=$(cat "$TRAMONTANE_CHECKPOINT_DIR/n" 2>/dev/null || echo 0); echo "from $n"\n'
        step += 'echo 1 > "$TRAMONTANE_CHECKPOINT_DIR/n"; [ "$n" = 1 ] || sleep 600\n'
        job_id = shell.submit("resumed", step)
        shell.until(job_id, "running")
        until(lambda: "from 0" in shell.log(job_id), "its first words")
        assert system.stop(signal.SIGINT)[0] == 0
        assert processes_of(job_id) == []
        system.start()
        shell.until(job_id, "succeeded")
        assert [it["status"] for it in shell.attempts(job_id)] == ["node_failed", "succeeded"]
        assert shell.log(job_id) == "from 1\n"
