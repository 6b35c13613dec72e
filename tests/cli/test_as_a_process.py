"""The command as shells and people meet it: signals, questions, pipes, odd terminals."""

import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.cli import Reply, Stub, environment_of, listing
from tests.support.terminal import Terminal
from tests.support.waiting import until

pytestmark = pytest.mark.slow

Serve = Callable[[Any], Stub]
MAIN = [sys.executable, "-m", "tramontane.main"]


def shell(stub: Stub, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``line``, in which $T is the command, in bash."""
    return subprocess.run(
        ["bash", "-c", line.replace("$T", " ".join(MAIN))],
        env=environment_of(stub) | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_ctrl_c_ends_a_command_with_130(serve: Serve) -> None:
    stub = serve(Reply({}, stall_s=30.0))
    process = subprocess.Popen(
        [*MAIN, "whoami"], env=environment_of(stub), stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: stub.requests, "the request")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, "tramontane: error: stopped\n")


@pytest.mark.parametrize(("answer", "sent"), [("n\n", False), ("y\n", True), ("\x04", False)])
def test_what_loses_something_asks_first_on_a_terminal(
    serve: Serve, answer: str, *, sent: bool
) -> None:
    stub = serve(Reply({"object": "project", "id": "prj_1"}))
    terminal = Terminal(["projects", "archive", "web"], environment_of(stub))
    try:
        terminal.expect("Archive project web? Its keys stop working. [y/N]:")
        terminal.type(answer)
        terminal.expect(
            "prj_1" if sent else "nothing was changed" if answer == "n\n" else "stopped"
        )
        assert (terminal.process.wait(timeout=20) == 0) is sent
        assert bool(stub.requests) is sent
    finally:
        terminal.close()


def test_a_table_fits_the_terminal(serve: Serve) -> None:
    item = {"id": "dep_1", "name": "chat", "status": "pending", "reason": "no room " * 50}
    environment = environment_of(serve(listing(item))) | {"COLUMNS": "90"}
    terminal = Terminal(["deployments", "list"], environment)
    try:
        terminal.expect("no room ")
        terminal.expect("...\r\n")
    finally:
        terminal.close()


def test_a_reader_that_leaves_early_is_no_error_to_talk_about(serve: Serve) -> None:
    stub = serve(listing(*({"id": f"mdl_{n}", "name": "x" * 500} for n in range(100))))
    done = shell(stub, "$T models list | head -n 1")
    assert (done.stdout[:4], done.stderr) == ("NAME", "")


def test_a_full_disk_is_one_line(serve: Serve) -> None:
    done = shell(serve(Reply({"id": "x"})), "$T whoami --json > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "tramontane: error: the disk is full, output is lost\n"


def test_names_of_any_script_on_a_poor_terminal(serve: Serve) -> None:
    stub = serve(Reply({"name": "ключ"}))
    done = shell(stub, "$T models get $'\\xff'", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u043a\\u043b\\u044e\\u0447" in done.stdout


def test_without_any_standard_stream(serve: Serve) -> None:
    assert shell(serve(Reply({})), "$T whoami <&- >&- 2>&-").returncode == 0
