"""Finds this installation's processes in /proc, whatever became of their files.

A process is ours when its environment names our installation and a replica or an attempt. The
environment is fixed at the start of a program (proc(5)), so it is read once per process and
remembered.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tramontane.domain import ids
from tramontane.runner import linux
from tramontane.runner.attempt import ATTEMPT_ENV
from tramontane.runner.replica import REPLICA_ENV

INSTALLATION_ENV: Final = "TRAMONTANE_INSTALLATION"
# A young process may be a fork that has not yet become what it is to be: look at it again.
YOUNG_S: Final = 10.0
_MARKS: Final = {
    f"{ATTEMPT_ENV}=".encode(): ids.ATTEMPT,
    f"{REPLICA_ENV}=".encode(): ids.REPLICA,
}
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One living process of ours; pid and start together name it for ever."""

    pid: int
    start_ticks: int
    id: str  # of its replica or attempt
    is_runner: bool


class ProcessScan:
    """Looks through /proc. Safe to call from several threads."""

    def __init__(self, installation_id: str, proc: Path = Path("/proc")) -> None:
        self._mark = f"{INSTALLATION_ENV}={installation_id}".encode()
        self._proc = proc
        self._lock = threading.Lock()
        # (pid, inode of /proc/PID) -> id, None when it is not ours. The kernel makes a
        # new inode for each process, so a pid that is used again is seen as new, at no cost.
        self._known: dict[tuple[int, int], str | None] = {}

    def run(self) -> dict[str, list[Process]]:
        """Return our living processes by their ids; raises OSError without a readable /proc."""
        found: dict[str, list[Process]] = {}
        with self._lock, os.scandir(self._proc) as entries:
            known: dict[tuple[int, int], str | None] = {}
            for entry in entries:
                if not entry.name.isdigit():
                    continue
                pid = int(entry.name)
                key = (pid, entry.inode())
                if key in self._known:
                    id_ = known[key] = self._known[key]
                else:
                    id_ = self._id_of(pid)
                    if id_ is not None or not _is_young(pid):
                        known[key] = id_
                if id_ is None:
                    continue
                ticks = linux.start_ticks(pid)
                if ticks is not None:  # else it ended, or waits to be collected
                    process = Process(pid, ticks, id_, self._is_runner(pid))
                    found.setdefault(id_, []).append(process)
            self._known = known
        return found

    def run_session(self, session: int, since_ticks: int, id_: str) -> list[Process]:
        """Return the living processes that a runner started, found by their session.

        vLLM's processes overwrite their environment with a title and outlive a killed parent with
        all their device memory (vllm-project/vllm issue 55510), but they stay in the session that
        the runner made. The kernel does not give its number to others while one of them lives; a
        process that is another user's, is older, or shows a proper environment is none of ours.
        """
        found: list[Process] = []
        for name in os.listdir(self._proc):  # noqa: PTH208 (names are all that is needed)
            fields = linux.stat_fields(int(name)) if name.isdigit() else None
            if fields is None or fields[0] in "ZX" or int(fields[3]) != session:
                continue
            if int(fields[19]) >= since_ticks and self._has_title_for_environment(int(name)):
                found.append(Process(int(name), int(fields[19]), id_, is_runner=False))
        return found

    def _has_title_for_environment(self, pid: int) -> bool:
        try:
            path = self._proc / str(pid)
            is_ours = path.stat().st_uid == os.getuid()
            return is_ours and b"PATH=" not in (path / "environ").read_bytes()
        except OSError:
            return False

    def _id_of(self, pid: int) -> str | None:
        try:
            names = (self._proc / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:
            return None  # it ended, or is another user's
        if self._mark not in names:
            return None
        for mark, kind in _MARKS.items():
            values = (name[len(mark) :] for name in names if name.startswith(mark))
            id_ = next(values, b"").decode(errors="replace")
            if ids.prefix_of(id_) == kind:
                return id_
        return None

    def _is_runner(self, pid: int) -> bool:
        try:
            words = (self._proc / str(pid) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return b"--run-dir" in words and any(word.endswith(b"runner/__main__.py") for word in words)


def is_alive(process: Process) -> bool:
    """Tell whether exactly this process still runs."""
    return linux.start_ticks(process.pid) == process.start_ticks


def send(process: Process, signum: int) -> None:
    """Send a signal to exactly this process; nothing happens when it is gone.

    The descriptor of pidfd_open(2) holds on to the process while its start is compared, so that
    the signal cannot reach another one that was given the same pid meanwhile.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if is_alive(process):
            signal.pidfd_send_signal(descriptor, signum)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def _is_young(pid: int) -> bool:
    ticks = linux.start_ticks(pid)
    now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return ticks is not None and now_s - ticks / _TICKS_PER_S < YOUNG_S
