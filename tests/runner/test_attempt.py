"""One attempt under a real runner: what it gets, and every way for it to end."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.runner.control_plane import UNWANTED, ControlPlane
from tests.support.attempts import SECRET, AttemptRunner, job_launch
from tests.support.runners import RUNNER, kill, processes_of
from tests.support.waiting import until
from tramontane.domain.jobs.attempt import JobLaunch, ShippedFile
from tramontane.domain.resources import Resources
from tramontane.drivers.attempt_logs import read_last_lines, read_log
from tramontane.runner import attempt, child, output
from tramontane.runner.command import SECOND_RUN

pytestmark = pytest.mark.slow
Prepare = Callable[..., AttemptRunner]


@pytest.fixture
def prepare(tmp_path: Path) -> Iterator[Prepare]:
    """Yield what prepares an attempt at a shell script, or at a whole launch."""
    with ExitStack() as stack:

        def make(what: str | JobLaunch, **changes: Any) -> AttemptRunner:
            launch = job_launch("sh", "-c", what, **changes) if isinstance(what, str) else what
            return stack.enter_context(AttemptRunner(tmp_path, launch))

        yield make


def shipped(path: str, text: str, *, is_executable: bool = False) -> ShippedFile:
    return ShippedFile(path, base64.b64encode(text.encode()).decode(), is_executable)


def test_a_success(prepare: Prepare) -> None:
    run = prepare("pwd; echo done")
    before_ms = time.time_ns() // 1_000_000
    assert run.start().wait(10) == 0
    report = run.report()
    assert (report["run_state"], report["outcome"], report["exit_code"]) == (
        "exited", "succeeded", 0,
    )  # fmt: skip
    assert report["reason"] is None
    assert report["attempt_id"] == run.id
    assert before_ms <= report["started_at_ms"] <= report["at_ms"]
    assert run.output() == f"{run.job}/work\ndone\n"
    assert (run.job / "checkpoint").is_dir()
    run.until_gone()


def test_a_failure_has_its_status_and_its_last_words(prepare: Prepare) -> None:
    run = prepare(f"echo no such thing: {SECRET}; exit 3")
    assert run.start().wait(10) == 3
    report = run.report()
    assert (report["outcome"], report["exit_code"]) == ("failed", 3)
    assert report["reason"] == "the command exited with status 3:\nno such thing: ***"


def test_a_signal_is_told(prepare: Prepare) -> None:
    run = prepare("kill -KILL $$")
    assert run.start().wait(10) == 128 + 9
    report = run.report()
    assert (report["outcome"], report["exit_code"]) == ("failed", -9)
    assert "ended by signal 9" in report["reason"]
    assert "memory" in report["reason"]


def test_what_cannot_be_started_says_so(prepare: Prepare) -> None:
    run = prepare(job_launch("/no/such/command"))
    assert run.start().wait(10) == 127
    assert "cannot start /no/such/command: [Errno 2]" in run.report()["reason"]


def test_the_command_gets_its_environment(prepare: Prepare) -> None:
    launch = job_launch(
        "env",
        env=(("COLOUR", "green"), ("PATH", "/usr/bin:/bin"), ("TRAMONTANE_ATTEMPT", "forged")),
        number=4,
        resources=Resources(100, 1 << 20, devices=2),
    )
    run = prepare(launch)
    assert run.start().wait(10) == 0
    got = dict(line.split("=", 1) for line in run.output().splitlines())
    assert got["COLOUR"] == "green"
    assert got["PATH"] == "/usr/bin:/bin"
    assert got["TRAMONTANE_JOB"] == launch.job_id
    assert got["TRAMONTANE_ATTEMPT"] == run.id
    assert got["TRAMONTANE_ATTEMPT_NUMBER"] == "4"
    assert got["TRAMONTANE_CHECKPOINT_DIR"] == f"{run.job}/checkpoint"
    assert got["TRAMONTANE_HEARTBEAT_FILE"] == f"{run.dir}/heartbeat"
    assert (got["NNODES"], got["NODE_RANK"], got["NPROC_PER_NODE"]) == ("1", "0", "2")
    assert got["WORLD_SIZE"] == "2"
    assert got["MASTER_ADDR"] == got["PET_MASTER_ADDR"] == "127.0.0.1"
    assert 1024 <= int(got["MASTER_PORT"]) == int(got["PET_MASTER_PORT"])
    assert (got["PET_NNODES"], got["PET_NODE_RANK"], got["PET_NPROC_PER_NODE"]) == ("1", "0", "2")
    assert got["RAY_HEAD_ADDRESS"] == f"127.0.0.1:{got['MASTER_PORT']}"
    assert "RANK" not in got
    assert SECRET not in run.output()


def test_each_index_of_an_array_has_its_own_checkpoints(prepare: Prepare) -> None:
    run = prepare("pwd; touch $TRAMONTANE_CHECKPOINT_DIR/c", env=(("TRAMONTANE_ARRAY_INDEX", "7"),))
    assert run.start().wait(10) == 0
    assert (run.job / "checkpoint" / "7" / "c").exists()


def test_words_in_braces_are_the_commands_own(prepare: Prepare) -> None:
    run = prepare(job_launch("echo", "{port} {rank} {python}"))
    assert run.start().wait(10) == 0
    assert run.output() == "{port} {rank} {python}\n"


def test_a_prefix_comes_before_the_command(prepare: Prepare) -> None:
    run = prepare("echo inside $WRAPPED")
    path = run.dir / "launch.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prefix": ["env", "WRAPPED=yes"]}))
    assert run.start().wait(10) == 0
    assert run.output() == "inside yes\n"


def test_shipped_files_lie_in_the_working_folder(prepare: Prepare) -> None:
    files = (
        shipped("train.sh", "#!/bin/sh\necho trained\n", is_executable=True),
        shipped("conf/deep/one.yaml", "lr: 1\n"),
    )
    run = prepare(
        "./train.sh; cat conf/deep/one.yaml; stat -c %a train.sh conf/deep/one.yaml", files=files
    )
    assert run.start().wait(10) == 0
    assert run.output() == "trained\nlr: 1\n700\n600\n"


def test_a_later_attempt_finds_its_files_new_and_its_checkpoints_old(
    prepare: Prepare, tmp_path: Path
) -> None:
    keep = "cd $TRAMONTANE_CHECKPOINT_DIR; echo x >> c; cat c"
    script = f"cat f; echo broken > f; {keep}"
    files = (shipped("f", "fresh\n"),)
    first, second = prepare(script, files=files), prepare(script, files=files)
    assert first.start().wait(10) == 0
    second.job.rename(tmp_path / "unused")
    second.dir = first.job / "attempts" / second.id
    second.job = first.job
    (tmp_path / "unused" / "attempts" / second.id).rename(second.dir)
    assert second.start().wait(10) == 0
    assert second.output() == "fresh\nx\nx\n"


@pytest.mark.parametrize(
    "path", ["../out", "/tmp/out", "a/../../out", "", ".", "a//b", "a/", "a\0b"]
)
def test_no_file_is_laid_outside(prepare: Prepare, path: str) -> None:
    run = prepare("echo ran", files=(shipped(path, "evil"),))
    assert run.start().wait(10) == 70
    report = run.report()
    assert report["outcome"] == "failed"
    assert "is not a relative path inside the working folder" in report["reason"]
    assert run.output() == ""
    assert not (run.job / "out").exists()


@pytest.mark.parametrize(
    "trap", ["work", "work/sub", "work/sub/file", "checkpoint"], ids=lambda trap: trap
)
def test_links_that_an_earlier_attempt_left_lead_nowhere(
    prepare: Prepare, tmp_path: Path, trap: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    run = prepare("cat sub/file", files=(shipped("sub/file", "shipped"),))
    path = run.job / trap
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(outside / "file" if trap.endswith("file") else outside)
    run.start().wait(10)
    assert (outside / "file").read_text() == "precious"
    assert [it.name for it in outside.iterdir()] == ["file"]
    if trap.endswith("file"):
        assert run.output() == "shipped"  # the link was replaced
    else:
        assert "is in the way of a folder" in run.report()["reason"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "it could not be started: launch.json is no object"),
        ("{}", "it could not be started: launch.json has no argv, env, files"),
    ],
)
def test_a_launch_that_cannot_be_read_is_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    with AttemptRunner(tmp_path, text) as run:
        assert run.start().wait(10) == 70
        assert reason in run.report()["reason"]
        assert run.report()["outcome"] == "failed"


def test_it_ends_at_its_time_limit_with_all_it_started(prepare: Prepare) -> None:
    run = prepare("setsid sleep 600 & echo working; sleep 600", time_limit_s=1)
    began = time.monotonic()
    assert run.start().wait(10) == 124
    assert 1 <= time.monotonic() - began < 4
    report = run.report()
    assert report["outcome"] == "timed_out"
    assert report["reason"] == "its time limit of 1 s is over:\nworking"
    run.until_gone(2)


def test_time_for_which_it_is_suspended_does_not_count(prepare: Prepare) -> None:
    limit_s = 4
    run = prepare(
        "until [ -e $TRAMONTANE_CHECKPOINT_DIR/go ]; do sleep 0.05; done; echo done",
        time_limit_s=limit_s,
        hang_after_s=limit_s,
    )
    runner = run.start()
    until(lambda: (run.job / "checkpoint").exists() and run.report()["run_state"] == "ready")
    runner.send_signal(signal.SIGSTOP)
    time.sleep(limit_s + 0.5)  # a cluster's clock goes on, and so does ours
    runner.send_signal(signal.SIGCONT)
    (run.job / "checkpoint" / "go").touch()
    assert runner.wait(10) == 0
    assert run.output() == "done\n"


@pytest.mark.parametrize(
    "script",
    [
        "touch $TRAMONTANE_HEARTBEAT_FILE; echo stuck; sleep 600",
        "sleep 600",
        "while true; do :; done",
    ],
    ids=["after a heartbeat", "silent", "spinning"],
)
def test_no_progress_ends_it(prepare: Prepare, script: str) -> None:
    run = prepare(script, hang_after_s=1)
    began = time.monotonic()
    assert run.start().wait(10) == 128 + 15
    assert time.monotonic() - began < 6
    report = run.report()
    assert report["outcome"] == "failed"
    assert report["reason"].startswith("no progress for 1 s")
    run.until_gone(2)


@pytest.mark.parametrize("sign", ["touch $TRAMONTANE_HEARTBEAT_FILE", "echo working"])
def test_progress_is_a_heartbeat_or_a_word(prepare: Prepare, sign: str) -> None:
    run = prepare(f"for i in 1 2 3 4 5 6; do {sign}; sleep 0.5; done", hang_after_s=1)
    assert run.start().wait(15) == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_end_it_may_save_its_work(prepare: Prepare, signum: int) -> None:
    run = prepare("trap 'sleep 0.5; echo saved; exit 0' TERM; echo on; while :; do sleep 0.1; done")
    runner = run.start()
    until(lambda: "on" in run.output())
    runner.send_signal(signum)
    runner.send_signal(signal.SIGUSR1)  # as often as one likes
    assert runner.wait(10) == 143
    report = run.report()
    assert (report["outcome"], report["exit_code"]) == ("cancelled", 0)
    assert report["reason"] == "ended as asked"
    assert "saved" in run.output()


def test_what_ignores_the_request_is_killed_after_its_grace(prepare: Prepare) -> None:
    run = prepare("trap '' TERM; echo on; while :; do sleep 0.1; done", grace_s=1)
    runner = run.start()
    until(lambda: "on" in run.output())
    began = time.monotonic()
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(10) == 143
    assert 1 <= time.monotonic() - began < 4
    assert run.report()["exit_code"] == -9
    run.until_gone(2)


def test_a_request_that_slurm_delivers_twice_is_one(prepare: Prepare) -> None:
    run = prepare("trap 'sleep 1; echo saved; exit 0' TERM; echo on; while :; do sleep 0.1; done")
    runner = run.start("--claim", "4711")
    until(lambda: "on" in run.output())
    for signum in (signal.SIGCONT, signal.SIGTERM):
        runner.send_signal(signum)
    time.sleep(0.2)
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(10) == 143
    assert "saved" in run.output()


@pytest.mark.parametrize("first", ["command", "runner"])
def test_a_request_that_reaches_the_command_too_is_one(prepare: Prepare, first: str) -> None:
    """As Slurm's does where it knows the processes of a job by their parents."""
    run = prepare("echo on; exec sleep 600")
    runner = run.start("--claim", "4711")
    until(lambda: "on" in run.output())
    pids = {"command": run.report()["engine_pid"], "runner": runner.pid}
    for name in sorted(pids, key=lambda name: name != first):
        kill(pids[name], signal.SIGTERM)
        time.sleep(0.1)
    assert runner.wait(10) == 143
    assert run.report()["outcome"] == "cancelled"


def test_in_a_hurry_it_has_no_long_grace(prepare: Prepare) -> None:
    run = prepare("trap '' TERM; echo on; while :; do sleep 0.1; done", grace_s=300)
    runner = run.start()
    until(lambda: "on" in run.output())
    began = time.monotonic()
    runner.send_signal(signal.SIGINT)
    runner.wait(child.TERM_GRACE_S + 5)
    assert time.monotonic() - began < child.TERM_GRACE_S + 2


def test_a_killed_parent_ends_it(prepare: Prepare) -> None:
    """As slurmstepd would be: the runner is told by the kernel, whatever the parent had to say."""
    run = prepare("setsid sleep 600 & echo on; sleep 600")
    script = [sys.executable, RUNNER, "--run-dir", str(run.dir), "--attempt", run.id]
    words = [*script, "--claim", "4711"]
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({words!r})"],
        env={**run.environment},
    )
    until(lambda: "on" in run.output())
    parent.kill()
    parent.wait()
    until(lambda: not processes_of(run.id), "its end", 8)
    assert (run.report()["run_state"], run.report()["outcome"]) == ("exited", "cancelled")


def test_a_killed_runner_takes_its_command_along(prepare: Prepare) -> None:
    run = prepare("echo on; exec sleep 600")
    runner = run.start()
    until(lambda: "on" in run.output())
    kill(runner.pid)
    run.until_gone(3)


def test_a_directory_belongs_to_the_job_that_claimed_it(prepare: Prepare) -> None:
    run = prepare("echo ran; sleep 1")
    first = run.start("--claim", "4711")
    until(lambda: "ran" in run.output())
    duplicate = run.start("--claim", "4712")
    assert duplicate.wait(5) == SECOND_RUN
    assert (run.dir / "claim").read_text() == "4711"
    assert first.wait(10) == 0
    before = run.report()
    assert run.start("--claim", "4711").wait(5) == SECOND_RUN  # it ran already
    assert run.start("--claim", "4712").wait(5) == SECOND_RUN
    assert run.report() == before
    assert run.output() == "ran\n"


def test_many_jobs_with_one_directory_start_one(prepare: Prepare) -> None:
    run = prepare("echo ran; sleep 0.5")
    children = [run.start("--claim", str(number)) for number in range(6)]
    statuses = sorted(it.wait(15) for it in children)
    assert statuses == [0] + [SECOND_RUN] * 5
    assert run.output() == "ran\n"


def test_it_tells_the_control_plane_and_is_told(prepare: Prepare) -> None:
    with ControlPlane() as plane:
        run, other = prepare("echo out of luck; exit 3"), prepare("sleep 600")
        assert run.start("--report-url", plane.url).wait(10) == 3
        assert plane.states()[-1] == "exited"
        assert plane.said[-1]["outcome"] == "failed"
        assert plane.said[-1]["exit_code"] == 3
        assert "out of luck" in plane.said[-1]["reason"]
        assert plane.heads[-1][1]["Authorization"] == f"Bearer {SECRET}"
        plane.answer = UNWANTED
        assert other.start("--report-url", plane.url).wait(10) == 143
        assert other.report()["reason"] == "it is not wanted any more"


def test_a_chatty_command_cannot_fill_the_disk(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And what is kept of it is read by how much was ever written."""
    log = tmp_path / "attempts" / "a" / "log.0"
    log.parent.mkdir(parents=True)
    written = b""
    run = attempt.AttemptRun.__new__(attempt.AttemptRun)
    run.log, run.log_begin = str(log), 0
    monkeypatch.setattr(attempt, "LOG_BYTES_MAX", 1_000)
    uid, place = os.getuid(), "attempts/a"
    with log.open("ab", buffering=0) as file:
        for number in range(200):
            line = f"line {number}\n".encode() * 5
            file.write(line)
            written += line
            before = run.log_begin
            run._cap_log()
            if run.log_begin > before:
                notice = b"[tramontane: what came before is in log.0.1]\n"
                written += notice
                assert log.stat().st_size == len(notice)
            end = len(written)
            assert read_log(tmp_path, place, uid, 0, offset=end - 20, bytes_max=99) == written[-20:]
    whole = read_log(tmp_path, place, uid, 0, offset=0, bytes_max=1 << 20)
    assert len(whole) < len(written)  # what is lost, or what was moved: not both in one piece
    assert whole == bytes(len(whole))
    kept = read_log(tmp_path, place, uid, 0, offset=len(whole), bytes_max=1 << 20)
    assert written[len(whole) :].startswith(kept)
    assert kept
    rest = read_log(tmp_path, place, uid, 0, offset=len(whole) + len(kept), bytes_max=1 << 20)
    assert whole + kept + rest == bytes(len(whole)) + written[len(whole) :]
    assert sum(path.stat().st_size for path in log.parent.glob("log.0*")) < 2_500
    assert read_last_lines(tmp_path, place, uid, 0, 1) == ["line 199"]
    assert output.PIECE_BYTES > 0


def test_a_real_log_is_capped_while_it_is_written(prepare: Prepare) -> None:
    megabytes = (attempt.LOG_BYTES_MAX >> 20) + 8
    run = prepare(f"head -c {megabytes}M /dev/zero | tr '\\0' x; echo; echo end; sleep 600")
    runner = run.start()
    until((run.dir / "log.0.begin").exists)
    until(
        lambda: "end" in "".join(read_last_lines(run.job, f"attempts/{run.id}", os.getuid(), 0, 5))
    )
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(10) == 143
    for path in run.dir.glob("log.0*"):
        assert path.stat().st_size <= attempt.LOG_BYTES_MAX
