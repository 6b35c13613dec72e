"""The supervisor restarts what dies, gives up on what cannot run, and ends what will not."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from tramontane.processes.startup import FATAL_EXIT
from tramontane.processes.supervisor import Child, ChildFailedError, Supervisor

pytestmark = pytest.mark.slow

SLEEPS = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"


def child(code: str) -> Child:
    return Child("child", [sys.executable, "-c", code], (), dict(os.environ))


@contextlib.contextmanager
def supervising(one: Child) -> Iterator[tuple[Supervisor, list[str]]]:
    told: list[str] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
    saved = {number: signal.getsignal(number) for number in numbers}
    supervisor = Supervisor([one], told.append)
    supervisor.listen_to_signals()
    try:
        yield supervisor, told
    finally:
        supervisor.stop(one, 0)
        signal.set_wakeup_fd(-1)
        for number, action in saved.items():
            signal.signal(number, action)
        supervisor.close()


def tend_until(supervisor: Supervisor, told: list[str], lines: int) -> None:
    deadline = time.monotonic() + 10
    while len(told) < lines and time.monotonic() < deadline:
        supervisor.tend(0.1)
    assert len(told) >= lines, told


def test_a_killed_child_is_started_again_and_it_says_so() -> None:
    with supervising(child(SLEEPS)) as (supervisor, told):
        supervisor.start_all()
        first = supervisor.children[0].process
        assert first
        first.kill()
        tend_until(supervisor, told, 2)
        second = supervisor.children[0].process
        assert second
        assert told == [
            f"child (pid {first.pid}) was ended by SIGKILL; starting it again",
            f"child started again (pid {second.pid})",
        ]
        assert second.pid != first.pid


def test_a_child_that_keeps_dying_is_restarted_at_growing_pauses() -> None:
    with supervising(child("raise SystemExit(3)")) as (supervisor, told):
        supervisor.start_all()
        tend_until(supervisor, told, 5)
        assert "ended with exit status 3; starting it again" in told[0]
        assert told[2].endswith("starting it again in 0.5 s")
        assert told[4].endswith("starting it again in 1 s")


def test_a_child_that_cannot_run_is_not_restarted() -> None:
    with supervising(child(f"raise SystemExit({FATAL_EXIT})")) as (supervisor, told):
        supervisor.start_all()
        with pytest.raises(ChildFailedError, match="child"):
            tend_until(supervisor, told, 1)
        assert told == []


def test_a_child_that_ignores_sigterm_is_killed_after_its_time() -> None:
    one = child(STUBBORN)
    with supervising(one) as (supervisor, _told):
        supervisor.start_all()
        time.sleep(0.5)
        began = time.monotonic()
        assert supervisor.stop(one, 0.5) is False
        assert 0.4 < time.monotonic() - began < 5
        assert not one.is_running


def test_a_child_that_obeys_ends_by_itself() -> None:
    one = child(SLEEPS)
    with supervising(one) as (supervisor, _told):
        supervisor.start_all()
        assert supervisor.stop(one, 10) is True
        assert one.process
        assert one.process.returncode == -signal.SIGTERM


def test_a_signal_counts_as_a_request_to_stop_and_wakes_the_wait() -> None:
    with supervising(child(SLEEPS)) as (supervisor, _told):
        supervisor.start_all()
        os.kill(os.getpid(), signal.SIGTERM)
        supervisor.tend(10)
        assert supervisor.stop_requests == 1
