"""Keeps the child processes of ``tramontane up`` running, and ends them in order.

It holds no business: it starts, restarts with a growing pause, and stops. The children's sockets
are opened by it and inherited, so that connections wait in the backlog while a child restarts.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

from tramontane.processes.startup import FATAL_EXIT

_PAUSES_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)  # before the n-th restart in a row
_STEADY_S: Final = 30.0  # a child that lived this long starts over at the first pause


class ChildFailedError(Exception):
    """A child said that it cannot run at all; it has told the user why."""


@dataclass
class Child:
    """One supervised process. ``fds`` stay open in it."""

    name: str
    argv: Sequence[str]
    fds: tuple[int, ...]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    failures: int = 0
    due_s: float | None = field(default=None)

    @property
    def is_running(self) -> bool:
        """Tell whether the process was started and has not been reaped."""
        return self.process is not None and self.process.returncode is None


class Supervisor:
    """Starts children in the order given and restarts those that end."""

    def __init__(self, children: Sequence[Child], say: Callable[[str], None]) -> None:
        self.children = tuple(children)
        self._say = say
        self._signals = 0
        self._wakeup_read, self._wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def stop_requests(self) -> int:
        """How many times SIGINT or SIGTERM came: one asks to drain, two to end at once."""
        return self._signals

    def listen_to_signals(self) -> None:
        """Take over SIGINT, SIGTERM and SIGCHLD; call it from the main thread."""
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._count_signal)
        signal.signal(signal.SIGTERM, self._count_signal)
        signal.signal(signal.SIGHUP, self._count_signal)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def start_all(self) -> None:
        """Start every child."""
        for child in self.children:
            self._start(child)

    def tend(self, timeout_s: float | None) -> None:
        """Wait for a signal, a child's end or ``timeout_s``; restart what is due."""
        due = [child.due_s for child in self.children if child.due_s is not None]
        if due:
            soonest = max(0.0, min(due) - time.monotonic())
            timeout_s = soonest if timeout_s is None else min(timeout_s, soonest)
        self._wait(timeout_s)
        for child, ended in self._reap():
            self._plan_restart(child, ended)
        if self._signals:
            return
        now = time.monotonic()
        for child in self.children:
            if child.due_s is not None and child.due_s <= now:
                self._start(child)
                self._say(f"{child.name} started again (pid {_pid(child)})")

    def stop(self, child: Child, timeout_s: float, ask: signal.Signals = signal.SIGTERM) -> bool:
        """Send ``ask`` to ``child`` and wait; SIGKILL after ``timeout_s`` or a second stop request.

        Returns whether it ended by itself.
        """
        child.due_s = None
        if child.process is None or not child.is_running:
            return True
        child.process.send_signal(ask)
        deadline = time.monotonic() + timeout_s
        while child.is_running and self._signals < 2 and time.monotonic() < deadline:
            self._wait(min(0.5, max(0.0, deadline - time.monotonic())))
            self._reap()
        if not child.is_running:
            return True
        child.process.kill()
        while child.is_running:
            self._wait(0.5)
            self._reap()
        return False

    def close(self) -> None:
        """Give the wake-up pipe back."""
        os.close(self._wakeup_read)
        os.close(self._wakeup_write)

    def _start(self, child: Child) -> None:
        child.due_s = None
        child.started_s = time.monotonic()
        child.process = subprocess.Popen(
            child.argv,
            stdin=subprocess.DEVNULL,
            env=dict(child.environment),
            pass_fds=child.fds,
            start_new_session=True,  # a Ctrl-C in the terminal reaches the supervisor alone
        )

    def _plan_restart(self, child: Child, ended: str) -> None:
        if child.process is not None and child.process.returncode == FATAL_EXIT:
            raise ChildFailedError(child.name)
        now = time.monotonic()
        child.failures = 0 if now - child.started_s > _STEADY_S else child.failures
        pause_s = _PAUSES_S[min(child.failures, len(_PAUSES_S) - 1)]
        child.failures += 1
        child.due_s = now + pause_s
        if not self._signals:
            wait = f" in {pause_s:g} s" if pause_s else ""
            self._say(f"{child.name} (pid {_pid(child)}) {ended}; starting it again{wait}")

    def _wait(self, timeout_s: float | None) -> None:
        select.select([self._wakeup_read], [], [], timeout_s)
        try:
            os.read(self._wakeup_read, 4096)
        except BlockingIOError:
            return

    def _reap(self) -> list[tuple[Child, str]]:
        ended: list[tuple[Child, str]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            for child in self.children:
                if child.process is not None and child.process.pid == pid:
                    child.process.returncode = os.waitstatus_to_exitcode(status)
                    ended.append((child, _describe(child.process.returncode)))

    def _count_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1


def _pid(child: Child) -> int:
    return child.process.pid if child.process else 0


def _describe(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit status {code}"
