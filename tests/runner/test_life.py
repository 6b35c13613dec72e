"""One engine's life under a real runner: start, serve, drain, end, and every way to die."""

import concurrent.futures
import dataclasses
import functools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.runners import (
    RUNNER,
    SECRET,
    Run,
    get,
    kill,
    open_run,
    processes_of,
    tiny_launch,
)
from tests.support.waiting import until
from tramontane.domain.launch import LaunchSpec
from tramontane.runner import child as children
from tramontane.runner import linux, output, replica
from tramontane.runner.report import REPORT_EVERY_S

pytestmark = pytest.mark.slow
Prepare = Callable[[LaunchSpec | str], Run]


@pytest.fixture
def prepare(tmp_path: Path) -> Iterator[Prepare]:
    with ExitStack() as stack:
        yield lambda launch: stack.enter_context(open_run(tmp_path, launch))


def test_it_reports_ready_with_address_and_load(prepare: Prepare) -> None:
    run = prepare(tiny_launch())
    child = run.start()
    report = run.until_state("ready")
    assert get(report["address"], "/secret") == f"Bearer {SECRET}"
    assert report["pid"] == child.pid
    assert report["start_ticks"] == linux.start_ticks(child.pid)
    assert report["replica_id"] == run.replica_id
    assert (report["requests_running"], report["requests_waiting"]) == (0, 0)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        request = pool.submit(get, report["address"], "/sleep?s=2.5")
        until(lambda: run.report["requests_running"] == 1)
        assert request.result() == "slept"
    later = run.report
    assert later["at_ms"] > report["at_ms"]


def test_the_engine_gets_its_environment_and_places(prepare: Prepare) -> None:
    run = prepare(tiny_launch("--say", "{port}"))
    run.start()
    report = run.until_state("ready")
    environment = get(report["address"], "/environ").splitlines()
    assert "TINY_COLOUR=green" in environment
    assert f"TRAMONTANE_REPLICA={run.replica_id}" in environment
    port = report["address"].rpartition(":")[2]
    assert output.tail_lines(str(run.dir / "engine.log"), 1) == [port]
    command = Path(f"/proc/{report['engine_pid']}/cmdline").read_text()
    assert SECRET not in command
    assert (run.dir / "report.json").stat().st_mode & 0o777 == 0o600
    assert (run.dir / "engine.log").stat().st_mode & 0o777 == 0o600


def test_an_id_is_started_once_ever(prepare: Prepare, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    run = prepare(tiny_launch("--mark", str(mark)))
    children = [run.start() for _ in range(4)]
    report = run.until_state("ready")
    losers = [child for child in children if child.pid != report["pid"]]
    assert [child.wait(10) for child in losers] == [0, 0, 0]
    kill(report["pid"], signal.SIGINT)
    run.until_gone()
    assert run.report["run_state"] == "exited"
    assert run.start().wait(10) == 0
    assert mark.read_text() == "started\n"


def test_detached_it_is_nobodys_child_and_leaves_no_zombie(prepare: Prepare) -> None:
    run = prepare(tiny_launch())
    starter = run.start("--detach")
    assert starter.wait(10) == 0
    assert run.report["run_state"] in {"starting", "ready"}
    report = run.until_state("ready")
    assert report["pid"] != starter.pid
    assert int((linux.stat_fields(report["pid"]) or [])[3]) == report["pid"]  # its own session
    kill(report["pid"], signal.SIGINT)
    run.until_gone()
    assert "ended as asked" in run.report["reason"]


def test_without_a_launch_file_nothing_is_reported(prepare: Prepare) -> None:
    run = prepare(tiny_launch())
    (run.dir / "launch.json").unlink()
    assert run.start("--detach").wait(10) == os.EX_NOINPUT
    assert run.report == {}
    assert "launch.json is missing" in (run.dir / "runner.log").read_text()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'env'"),
        (json.dumps({"argv": ["sleep", "60"], "env": []}), "KeyError"),
        (json.dumps({"argv": ["a\0b"], "env": [], "ready_timeout_s": 5}), "null character"),
    ],
)
def test_a_launch_that_cannot_be_carried_out_is_the_reason(
    prepare: Prepare, text: str, reason: str
) -> None:
    run = prepare(text)
    run.start()
    assert reason in run.until_state("exited")["reason"]
    run.until_gone()


def test_a_missing_program_is_the_reason(prepare: Prepare) -> None:
    launch = tiny_launch()
    run = prepare(LaunchSpec(**{**_fields(launch), "argv": ("/no/such/engine", "--port")}))
    run.start()
    report = run.until_state("exited")
    assert "cannot start /no/such/engine" in report["reason"]
    assert "No such file" in report["reason"]


def test_the_last_lines_are_the_reason_without_colours_and_secrets(prepare: Prepare) -> None:
    said = "".join(f"\x1b[3{n % 8}mline {n} {SECRET}\x1b[0m {'x' * 300}\n" for n in range(100))
    run = prepare(tiny_launch("--say", said, "--exit-after", "0.2", "--exit-code", "7"))
    run.start()
    reason = run.until_state("exited")["reason"]
    assert reason.startswith("engine exited with status 7:\n")
    assert "line 99 *** x" in reason
    assert "line 80" not in reason.splitlines()[1]
    assert len(reason.encode()) <= output.REASON_BYTES_MAX
    assert SECRET not in reason
    assert "\x1b" not in reason


def test_an_engine_that_never_answers_fails_in_time(prepare: Prepare) -> None:
    run = prepare(tiny_launch("--unhealthy", "--say", "still loading", ready_timeout_s=1))
    run.start()
    reason = run.until_state("exited")["reason"]
    assert reason == "did not become healthy within 1 s:\nstill loading"
    run.until_gone()


def test_a_lost_port_is_tried_again_on_another(prepare: Prepare, tmp_path: Path) -> None:
    run = prepare(tiny_launch("--take-port-once", str(tmp_path / "taken")))
    run.start()
    run.until_state("ready")
    log = (run.dir / "runner.log").read_text()
    assert log.count("started engine") == 2
    assert "was taken by another process" in log


def test_the_secret_is_shown_to_the_engine_alone(prepare: Prepare) -> None:
    run = prepare(tiny_launch("--elsewhere"))
    run.start()
    reason = run.until_state("exited")["reason"]
    assert "another process answers on port" in reason
    log = (run.dir / "runner.log").read_text()
    assert log.count("started engine") == replica.PORT_TRIES_MAX
    run.until_gone()


def test_a_killed_engine_is_told_with_its_signal(prepare: Prepare) -> None:
    run = prepare(tiny_launch("--grandchild"))
    run.start()
    kill(run.until_state("ready")["engine_pid"])
    assert "ended by signal 9" in run.until_state("exited")["reason"]
    run.until_gone()


def test_a_killed_runner_takes_its_engine_along(prepare: Prepare) -> None:
    run = prepare(tiny_launch())
    run.start()
    kill(run.until_state("ready")["pid"])
    run.until_gone(3)
    assert run.report["run_state"] == "ready"  # nobody was left to say more


def test_it_dies_with_its_parent_unless_told_to_survive(prepare: Prepare) -> None:
    mortal, survivor = prepare(tiny_launch("--grandchild")), prepare(tiny_launch())
    for run, words in ((mortal, ()), (survivor, ("--survive",))):
        script = [sys.executable, RUNNER, "--run-dir", str(run.dir), *words]
        command = [*script, "--replica", run.replica_id]
        parent = subprocess.Popen(
            [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"]
        )
        run.until_state("ready")
        parent.kill()
        parent.wait()
    mortal.until_gone()
    assert mortal.report["reason"] == "ended as asked"
    assert get(survivor.report["address"], "/health") == "ok"


def test_draining_finishes_what_is_in_flight(prepare: Prepare) -> None:
    run = prepare(tiny_launch())
    child = run.start()
    address = run.until_state("ready")["address"]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        request = pool.submit(get, address, "/sleep?s=1")
        until(lambda: get(address, "/metrics").count(" 1.0"))
        for _ in range(3):
            child.send_signal(signal.SIGUSR1)  # may be repeated
            run.until_state("draining")
        assert request.result() == "slept"
    assert run.until_state("exited")["reason"] == "drained and ended as asked"
    run.until_gone()


def test_slurms_sigterm_to_all_of_a_job_drains_it(prepare: Prepare) -> None:
    """Slurm sends it to every process when it evicts, cancels or ends a job at its limit."""
    run = prepare(tiny_launch())
    child = run.start("--claim", "17")
    seen = run.until_state("ready")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        request = pool.submit(get, seen["address"], "/sleep?s=1")
        until(lambda: get(seen["address"], "/metrics").count(" 1.0"))
        os.kill(seen["engine_pid"], signal.SIGTERM)
        child.send_signal(signal.SIGTERM)
        assert request.result() == "slept"
    assert run.until_state("exited")["reason"] == "drained and ended as asked"
    run.until_gone()


def test_draining_has_an_end(prepare: Prepare) -> None:
    run = prepare(tiny_launch(drain_timeout_s=1))
    child = run.start()
    address = run.until_state("ready")["address"]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        request = pool.submit(get, address, "/sleep?s=60", 60)
        until(lambda: get(address, "/metrics").count(" 1.0"))
        child.send_signal(signal.SIGTERM)
        reason = run.until_state("exited")["reason"]
        assert reason == "ended as asked, cutting 1 running and 0 waiting requests"
        assert isinstance(request.exception(), OSError)


def test_a_second_sigterm_ends_the_drain(prepare: Prepare) -> None:
    run = prepare(tiny_launch(drain_timeout_s=60))
    child = run.start()
    address = run.until_state("ready")["address"]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        request = pool.submit(get, address, "/sleep?s=60", 60)
        until(lambda: get(address, "/metrics").count(" 1.0"))
        child.send_signal(signal.SIGTERM)
        run.until_state("draining")
        child.send_signal(signal.SIGTERM)
        assert run.until_state("exited")["reason"] == "ended as asked"
        assert isinstance(request.exception(), OSError)


def test_an_engine_without_a_load_probe_drains_for_a_moment(prepare: Prepare) -> None:
    run = prepare(tiny_launch(probes=False))
    child = run.start()
    assert run.until_state("ready")["requests_running"] is None
    child.send_signal(signal.SIGTERM)
    assert run.until_state("exited")["reason"] == "drained and ended as asked"


def test_what_ignores_sigterm_and_hides_is_killed(prepare: Prepare) -> None:
    run = prepare(tiny_launch("--ignore-term", "--grandchild", "--ready-after", "0.2"))
    child = run.start()
    run.until_state("ready")
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    run.until_gone()
    assert children.TERM_GRACE_S <= time.monotonic() - began < children.TERM_GRACE_S + 10
    assert run.report["reason"] == "ended as asked"


def test_an_engine_that_daemonizes_is_ended_with_all_it_left(prepare: Prepare) -> None:
    run = prepare(tiny_launch("--daemonize", "--grandchild", "--ready-after", "2"))
    run.start()
    assert run.until_state("exited")["reason"].startswith("engine exited with status 0")
    run.until_gone(3)


def test_a_hung_engine_is_ended(prepare: Prepare) -> None:
    run = prepare(tiny_launch("--say", "serving"))
    run.start("--health-lost-s", "0.5")
    os.kill(run.until_state("ready")["engine_pid"], signal.SIGSTOP)
    reason = run.until_state("exited")["reason"]
    assert re.fullmatch(r"gave no healthy answer for \d s:\nserving", reason)
    run.until_gone()


def test_an_engine_that_works_is_not_hung_because_it_is_silent(prepare: Prepare) -> None:
    run = prepare(tiny_launch("--busy"))
    child = run.start("--health-lost-s", "0.5")
    run.until_state("ready")
    time.sleep(3 * REPORT_EVERY_S)
    assert child.poll() is None
    assert run.report["run_state"] == "ready"


def test_a_full_disk_stops_reports_but_not_the_service(prepare: Prepare) -> None:
    run = prepare(tiny_launch())
    child = run.start()
    before = run.until_state("ready")
    unlimited = resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    time.sleep(REPORT_EVERY_S + 1)
    assert get(before["address"], "/health") == "ok"
    stuck_at_ms = run.report["at_ms"]
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, unlimited)
    until(lambda: run.report["at_ms"] > stuck_at_ms + 1_000)
    assert child.poll() is None


def test_on_a_full_disk_nothing_is_started(prepare: Prepare, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    run = prepare(tiny_launch("--mark", str(mark)))
    nothing = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0))
    child = run.start("--detach", preexec_fn=nothing)
    assert child.wait(10) == os.EX_CANTCREAT
    assert run.report == {}
    run.until_gone()
    assert not mark.exists()


def test_a_removed_run_directory_is_made_again(prepare: Prepare) -> None:
    run = prepare(tiny_launch())
    run.start()
    run.until_state("ready")
    moved = run.dir.with_name("moved")
    run.dir.rename(moved)
    report = run.until_state("ready")
    assert get(report["address"], "/health") == "ok"
    assert run.start().wait(10) == 0
    assert run.report["pid"] == report["pid"]


def test_a_removed_home_ends_the_engine(prepare: Prepare, tmp_path: Path) -> None:
    run = prepare(tiny_launch())
    child = run.start()
    run.until_state("ready")
    elsewhere = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    try:
        child.wait(replica.HOME_GONE_S + 10)
        assert not processes_of(run.replica_id)
    finally:
        elsewhere.rename(tmp_path)
    assert "its home was removed" in (run.dir / "runner.log").read_text()


def test_a_chatty_engine_cannot_fill_the_disk(prepare: Prepare) -> None:
    run = prepare(tiny_launch("--flood", str(3 * replica.LOG_BYTES_MAX)))
    run.start()
    run.until_state("ready")
    until((run.dir / "engine.log.1").exists)
    for name in ("engine.log", "engine.log.1"):
        assert (run.dir / name).stat().st_size <= replica.LOG_BYTES_MAX


def test_it_costs_next_to_nothing_while_idle(prepare: Prepare) -> None:
    run = prepare(tiny_launch())
    child = run.start()
    run.until_state("ready")
    ticks_before = _cpu_ticks(child.pid)
    time.sleep(4)
    share = (_cpu_ticks(child.pid) - ticks_before) / os.sysconf("SC_CLK_TCK") / 4
    assert share <= 0.01  # 0.1 % measured; a clock tick alone is 0.2 %
    status = Path(f"/proc/{child.pid}/smaps_rollup").read_text()
    private = sum(int(line.split()[1]) for line in status.splitlines() if "Private" in line)
    assert private < 10_000  # kB; the rest is the interpreter's, shared by all runners


def test_help_names_files_signals_and_statuses() -> None:
    done = subprocess.run(
        [sys.executable, RUNNER, "--help"], capture_output=True, text=True, check=True
    )
    for word in ("launch.json", "SIGUSR1", "exit status", "--run-dir", "--survive"):
        assert word in done.stdout


def _cpu_ticks(pid: int) -> int:
    fields = linux.stat_fields(pid)
    assert fields is not None
    return int(fields[11]) + int(fields[12])


def _fields(launch: LaunchSpec) -> dict[str, object]:
    return {name: getattr(launch, name) for name in launch.__dataclass_fields__}


@pytest.mark.parametrize("claim", [(), ("--claim", "4711")], ids=["here", "cluster"])
def test_a_cluster_whose_python_lacks_the_engine_is_told_what_to_set(
    prepare: Prepare, claim: tuple[str, ...]
) -> None:
    words = "import sys; sys.exit(\"No module named 'vllm'\")"
    launch = dataclasses.replace(tiny_launch(), argv=("{python}", "-c", words))
    run = prepare(launch)
    run.start(*claim)
    headline, _, rest = run.until_state("exited")["reason"].partition(":\n")
    assert rest == "No module named 'vllm'"
    advice = f" ({sys.executable} lacks the engine: name its environment, venv in the settings)"
    assert headline == "engine exited with status 1" + (advice if claim else "")
