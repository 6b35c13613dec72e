"""A runner that tells the control plane: what, when, whom, and what it does when that is away."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.runner.control_plane import UNWANTED, ControlPlane, say
from tests.support.certificates import Authority
from tests.support.runners import SECRET, Run, get, kill, open_run, processes_of, tiny_launch
from tests.support.waiting import until
from tramontane.domain.launch import LaunchSpec
from tramontane.runner import post
from tramontane.wire.runner_report import RunnerReportBody

pytestmark = pytest.mark.slow
Prepare = Callable[[LaunchSpec | str], Run]


@pytest.fixture
def prepare(tmp_path: Path) -> Iterator[Prepare]:
    with ExitStack() as stack:
        yield lambda launch: stack.enter_context(open_run(tmp_path, launch))


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        yield plane


def test_every_change_is_told_as_the_control_plane_takes_it(
    prepare: Prepare, plane: ControlPlane
) -> None:
    run = prepare(tiny_launch())
    child = run.start("--report-url", plane.url)
    report = run.until_state("ready")
    until(lambda: "ready" in plane.states())
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 0
    assert plane.states()[-2:] == ["draining", "exited"]
    for body in plane.said:
        RunnerReportBody.model_validate(body)
    ready = next(body for body in plane.said if body["run_state"] == "ready")
    assert ready["address"] == report["address"]
    assert ready["node_name"] == os.uname().nodename
    assert plane.said[-1]["reason"] == "drained and ended as asked"
    for path, headers in plane.heads:
        assert path == f"/cloud/v1/runners/{run.replica_id}/report"
        assert headers["Authorization"] == f"Bearer {SECRET}"
        assert SECRET not in str({n: v for n, v in headers.items() if n != "Authorization"})


def test_load_is_told_every_two_seconds_and_quiet_every_ten(
    prepare: Prepare, plane: ControlPlane
) -> None:
    run = prepare(tiny_launch())
    run.start("--report-url", plane.url)
    address = run.until_state("ready")["address"]
    until(lambda: "ready" in plane.states())
    told = len(plane.said)
    time.sleep(post.LOAD_EVERY_S + 1)
    assert len(plane.said) == told
    with contextlib.suppress(OSError):  # the request goes on
        get(address, "/sleep?s=30", timeout_s=0.1)
    until(lambda: plane.said[-1]["requests_running"] == 1, limit_s=6)
    assert len(plane.said) == told + 1


def test_while_the_control_plane_is_away_it_serves_and_keeps_trying(
    prepare: Prepare, plane: ControlPlane
) -> None:
    plane.stop()
    run = prepare(tiny_launch())
    run.start("--report-url", plane.url)
    address = run.until_state("ready")["address"]
    assert get(address, "/health") == "ok"
    plane.answer = say(503)
    plane.start()
    until(lambda: plane.said)
    assert plane.said[0]["run_state"] == "ready"
    plane.answer = say(200, b'{"wanted": true}')
    count = len(plane.said)
    until(lambda: len(plane.said) > count)
    log = (run.dir / "runner.log").read_text()
    assert log.count("the control plane cannot be told") == 1
    assert SECRET not in log
    until(lambda: "was told again" in (run.dir / "runner.log").read_text())


def test_an_answer_that_never_ends_does_not_hold_up_the_engine(prepare: Prepare) -> None:
    def stall(request: object) -> None:
        time.sleep(60)

    with ControlPlane(stall) as plane:
        run = prepare(tiny_launch())
        child = run.start("--report-url", plane.url)
        report = run.until_state("ready")
        kill(report["engine_pid"])
        began = time.monotonic()
        ended = run.until_state("exited")  # in the file, at once
        assert "signal 9" in ended["reason"]
        assert time.monotonic() - began < 3
        assert child.poll() is None  # it still tries to tell


@pytest.mark.parametrize("answer", [UNWANTED, say(410)], ids=["unwanted", "gone"])
def test_what_is_not_wanted_ends_now(
    prepare: Prepare, plane: ControlPlane, answer: Callable[..., None]
) -> None:
    run = prepare(tiny_launch())
    child = run.start("--report-url", plane.url)
    run.until_state("ready")
    plane.answer = answer
    began = time.monotonic()
    child.send_signal(signal.SIGUSR1)  # something to tell
    child.wait(10)
    assert time.monotonic() - began < 5
    assert run.report["reason"] == "it is not wanted any more"
    run.until_gone()


@pytest.mark.parametrize(
    "answer",
    [
        say(200, b"not json"),
        say(200, b"[]"),
        say(200, b'{"wanted": null}'),
        say(200, b'{"wanted": "false"}'),
        say(401),
        say(404),
        say(500, b"x" * 100_000),
        say(204, b""),
    ],
    ids=["text", "list", "null", "word", "401", "404", "500", "204"],
)
def test_other_answers_end_nothing(
    prepare: Prepare, plane: ControlPlane, answer: Callable[..., None]
) -> None:
    plane.answer = answer
    run = prepare(tiny_launch())
    child = run.start("--report-url", plane.url)
    run.until_state("ready")
    until(lambda: plane.said)
    time.sleep(0.5)
    assert child.poll() is None
    assert run.report["run_state"] == "ready"


def test_a_redirect_is_not_followed(prepare: Prepare, plane: ControlPlane) -> None:
    with ControlPlane() as thief:
        for status in (301, 302, 307, 308):
            plane.answer = say(status, Location=f"{thief.url}/x")
            run = prepare(tiny_launch())
            run.start("--report-url", plane.url)
            run.until_state("ready")
            until(lambda: plane.said)
            plane.said.clear()
        time.sleep(0.3)
        assert thief.heads == []


def test_https_is_checked(prepare: Prepare, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    tls = authority.serving(authority.sign("plane"))
    with ControlPlane(tls=tls) as plane:
        trusting, doubting = prepare(tiny_launch()), prepare(tiny_launch())
        doubting.start("--report-url", plane.url)
        doubting.until_state("ready")
        until(lambda: "CERTIFICATE_VERIFY_FAILED" in (doubting.dir / "runner.log").read_text())
        assert plane.said == []
        trusting.environment["SSL_CERT_FILE"] = str(authority.certificate)
        trusting.start("--report-url", plane.url)
        until(lambda: "ready" in plane.states())


def test_the_last_word_waits_for_the_control_plane_and_not_for_ever(
    prepare: Prepare, plane: ControlPlane
) -> None:
    run, other = prepare(tiny_launch()), prepare(tiny_launch())
    child, second = run.start("--report-url", plane.url), other.start("--report-url", plane.url)
    report = run.until_state("ready")
    other.until_state("ready")
    until(lambda: len([s for s in plane.said if s["run_state"] == "ready"]) == 2)
    plane.stop()
    kill(report["engine_pid"])
    run.until_state("exited")
    second.send_signal(signal.SIGINT)
    other.until_state("exited")
    second.send_signal(signal.SIGTERM)  # in a hurry: it waits no more
    second.wait(3)
    assert child.poll() is None
    plane.start()
    child.wait(10)
    assert "signal 9" in plane.said[-1]["reason"]


@pytest.mark.parametrize("url", ["ftp://x", "http://", "x", "file:///etc/passwd"])
def test_a_url_that_is_none_is_the_reason(prepare: Prepare, url: str) -> None:
    run = prepare(tiny_launch())
    run.start("--report-url", url)
    assert "the report URL must be" in run.until_state("exited")["reason"]
    assert not processes_of(run.replica_id) or until(lambda: not processes_of(run.replica_id))


def test_the_files_of_a_shared_folder_are_written_rarely(
    prepare: Prepare, plane: ControlPlane
) -> None:
    run = prepare(tiny_launch())
    run.start("--report-url", plane.url)
    at_ms = run.until_state("ready")["at_ms"]
    time.sleep(3)
    assert run.report["at_ms"] == at_ms


def test_reports_come_from_the_address_on_which_the_engine_listens() -> None:
    """Only from there are they taken, and a node may have several."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        post.Poster(f"http://127.0.0.1:{port}", "rep_x", "secret", "127.0.0.9").tell({"at_ms": 1})
        connection, (peer, _) = listener.accept()
        connection.close()
    assert peer == "127.0.0.9"
