"""The daemons of one cluster by name: start, kill and look, through the keeper."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tramontane.dev.slurm import keeper

POLL_S: Final = 0.03
STOP_LIMIT_S: Final = 30.0


class SlurmClusterError(Exception):
    """The cluster, or a command that was run on it, failed; the text says what was told."""


class Processes:
    """Processes that live below the keeper of ``folder`` and never outlive it."""

    def __init__(self, folder: Path, *, is_kept: bool) -> None:
        self.pids: dict[str, int] = {}
        self._folder, self._is_kept = folder, is_kept
        self._lock = threading.Lock()
        self._keeper = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", keeper.__file__),
                *(str(folder), str(os.getpid()), "keep" if is_kept else "remove"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], user: str | None = None
    ) -> None:
        """Start a daemon in the foreground mode it has, its output in ``<folder>/log``."""
        account = pwd.getpwnam(user) if user else None
        asked = {
            "argv": list(argv),
            "env": dict(env),
            "cwd": str(self._folder),
            "log": str(self.log_of(name)),
            "account": [account.pw_uid, account.pw_gid] if account else None,
        }
        with self._lock:
            pipe_in, pipe_out = self._keeper.stdin, self._keeper.stdout
            assert pipe_in is not None
            assert pipe_out is not None
            try:
                pipe_in.write(json.dumps(asked).encode() + b"\n")
                pipe_in.flush()
                answer = json.loads(pipe_out.readline() or b'{"error": "the keeper ended"}')
            except BrokenPipeError as error:
                raise SlurmClusterError("the keeper of the cluster ended") from error
        if "error" in answer:
            raise SlurmClusterError(f"{name} did not start: {answer['error']}")
        self.pids[name] = answer["pid"]

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a daemon if it runs; after SIGKILL wait until it is gone."""
        if name not in self.pids:
            raise SlurmClusterError(f"no daemon {name!r}; there are {', '.join(self.pids)}")
        if self.is_alive(name):
            _send(self.pids[name], number)
        if number == signal.SIGKILL:
            self._until_gone([name], STOP_LIMIT_S)

    def kill_with_steps(self, slurmd: str, log: Path) -> None:
        """Kill a slurmd, and with all below them the processes that hold ``log`` open.

        Returns when they are gone.
        """
        self.signal(slurmd, signal.SIGKILL)
        doomed: set[int] = set()
        give_up_at = time.monotonic() + STOP_LIMIT_S
        while time.monotonic() < give_up_at:
            holders = [pid for pid in keeper.descendants(self._keeper.pid) if _holds(pid, log)]
            doomed.update(holders, *(keeper.descendants(pid) for pid in holders))
            doomed = {pid for pid in doomed if _runs(pid)}
            if not doomed:
                return
            for pid in doomed:
                _send(pid, signal.SIGKILL)
            time.sleep(POLL_S)

    def terminate(self, names: Sequence[str], limit_s: float) -> None:
        """Ask daemons to end, all at once, and wait until they are gone or the limit is over."""
        for name in names:
            if self.is_alive(name):
                _send(self.pids[name], signal.SIGTERM)
        self._until_gone(names, limit_s)

    def is_alive(self, name: str) -> bool:
        """Say whether a daemon runs; one that nobody has waited for yet does not."""
        return name in self.pids and _runs(self.pids[name])

    def until(self, name: str, is_ready: Callable[[], bool], limit_s: float) -> None:
        """Wait until a daemon is ready; raise with the end of its log when it ended or is late."""
        give_up_at = time.monotonic() + limit_s
        while not is_ready():
            if not self.is_alive(name):
                raise SlurmClusterError(f"{name} ended while it started:\n{self.told(name)}")
            if time.monotonic() > give_up_at:
                raise SlurmClusterError(f"{name} was not ready in time:\n{self.told(name)}")
            time.sleep(POLL_S)

    def log_of(self, name: str) -> Path:
        """Return the file with what a daemon writes."""
        return self._folder / "log" / f"{name.replace(':', '-')}.log"

    def told(self, name: str) -> str:
        """Return the end of a daemon's log."""
        path = self.log_of(name)
        return path.read_text(errors="replace")[-2_000:] if path.exists() else "(no log)"

    def close(self) -> None:
        """Kill everything and wait until the keeper has removed the folder, unless it is kept."""
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            if pipe is not None:
                pipe.close()
        self._keeper.wait(STOP_LIMIT_S)
        if not self._is_kept:  # the keeper has done it, unless it was killed
            shutil.rmtree(self._folder, ignore_errors=True)

    def _until_gone(self, names: Sequence[str], limit_s: float) -> None:
        give_up_at = time.monotonic() + limit_s
        while any(self.is_alive(name) for name in names) and time.monotonic() < give_up_at:
            time.sleep(POLL_S)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _holds(pid: int, path: Path) -> bool:
    try:
        return any(link.readlink() == path for link in Path("/proc", str(pid), "fd").iterdir())
    except OSError:
        return False  # it ended meanwhile


def _runs(pid: int) -> bool:
    try:
        stat = Path("/proc", str(pid), "stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rindex(b")") + 2 :][:1] not in {b"Z", b"X"}
