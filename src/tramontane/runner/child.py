"""The process that is supervised, and whatever comes of it: start, collect, end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from tramontane.runner import linux

TERM_GRACE_S: Final = 5.0  # between SIGTERM and SIGKILL
ASKED: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
AWAITED: Final = frozenset({*ASKED, signal.SIGCHLD})
ECHO_S: Final = 0.5  # between the two ends of one signal to all
HURRY: Final = frozenset({signal.SIGTERM, signal.SIGINT})


class Child:
    """One started command. Single-threaded: PR_SET_PDEATHSIG follows the thread that forks.

    With ``is_shielded`` it never hears a SIGTERM: Slurm sends that to all processes of a job, and
    what it asks of the runner is to drain. It is asked to end by SIGINT then.
    """

    def __init__(self, *, is_shielded: bool = False) -> None:
        self.is_shielded = is_shielded
        self.pid: int | None = None
        self.status: int | None = None  # once it ended; below 0 by a signal

    def start(self, argv: list[str], env: dict[str, str], log: int, cwd: str) -> int:
        """Start it in a session of its own, writing to the descriptor ``log``; return its pid."""
        parent = os.getpid()
        self.status = None
        self.pid = os.fork()
        if self.pid == 0:
            kept = {signal.SIGTERM} if self.is_shielded else set[signal.Signals]()
            _become(argv, env, log, cwd, parent, kept)
        return self.pid

    def reap(self) -> bool:
        """Collect ended children; tell whether any child is left."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.pid:
                    self.status = os.waitstatus_to_exitcode(ended[1])
            return True
        return False

    def end_all(
        self,
        tick: Callable[[], None],
        grace_s: float = TERM_GRACE_S,
        hurry: frozenset[signal.Signals] = HURRY,
        deaf_s: float = 0.0,
    ) -> None:
        """End it and whatever it started, and return only when all of it is gone.

        A device call that hangs keeps this waiting: its capacity is not free. Orphans become
        children of this subreaper, so killing children again and again reaches all. ``tick`` is
        called once in a while. A signal of ``hurry`` ends its grace; one that comes within
        ``deaf_s`` is the one that was heard before, delivered twice.
        """
        began_at = time.monotonic()
        kills_at = began_at + grace_s
        if self.pid and self.status is None:
            ask = signal.SIGINT if self.is_shielded else signal.SIGTERM
            for signum in (ask, signal.SIGCONT):
                with contextlib.suppress(OSError):
                    os.killpg(self.pid, signum)
        while self.reap():
            now = time.monotonic()
            if self.status is not None or now >= kills_at:
                self._kill_children()
            # SIGCHLD ends the pause early, and so does a request to hurry up.
            seen = signal.sigtimedwait(AWAITED, 0.1 if now < kills_at + 1 else 1.0)
            is_hurry = seen is not None and seen.si_signo in hurry
            if is_hurry and now - began_at >= deaf_s:
                kills_at = now
            tick()

    def _kill_children(self) -> None:
        for pid in [pid for pid, stat in linux.processes() if int(stat[1]) == os.getpid()]:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def was_asked(status: int, seen: int | None) -> bool:
    """Tell whether a command ended with ``status`` because of a request, ``seen`` or on its way.

    Slurm may send its SIGTERM to every process of a job: the command can be gone before the
    runner hears of it.
    """
    if seen in ASKED:
        return True
    is_term = status in {-signal.SIGTERM, 128 + signal.SIGTERM}
    return is_term and signal.sigtimedwait(ASKED, ECHO_S) is not None


def _become(  # noqa: PLR0917
    argv: list[str],
    env: dict[str, str],
    log: int,
    cwd: str,
    parent: int,
    blocked: set[signal.Signals],
) -> None:
    """Turn this forked child into the command; never returns."""
    try:
        os.setsid()
        if not linux.die_with(parent, signal.SIGKILL):
            os._exit(1)
        for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.chdir(cwd)
        for signum in (signal.SIGHUP, signal.SIGPIPE, signal.SIGINT):
            signal.signal(signum, signal.SIG_DFL)
        # A drain is between the driver and the runner, and srun sends it to all of a step.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        # Short of memory, an engine goes before the control plane.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
        os.execvpe(argv[0], argv, env)  # noqa: S606 (an argument list, never a shell)
    except (OSError, ValueError) as error:
        os.write(2, f"cannot start {argv[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)
