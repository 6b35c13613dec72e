"""Run directories of the process driver: one per replica or attempt, each with its runner.

What a run is follows from its report, from its lock and from the processes that carry its id. It
must never be called over while something of it may live, nor be started twice.
"""

import fcntl
import json
import logging
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tramontane.domain import ids
from tramontane.domain.observation import RunState
from tramontane.drivers.process_scan import Process, ProcessScan, is_alive, send
from tramontane.runner import linux, output
from tramontane.runner.replica import SECRET_ENV
from tramontane.runtime.tenant_trees import remove_tree

LEAVE_TIMEOUT_S: Final = 2  # an interpreter ends within milliseconds
FORGOTTEN: Final = ".forgotten-"  # a run directory that is being removed

log = logging.getLogger(__name__)

Report = dict[str, Any]
ENTRIES_MAX: Final = 1_000_000  # of a run directory; the rest goes with the next one


@dataclass(frozen=True, slots=True)
class Run:
    """One run directory."""

    id: str
    dir: Path

    @property
    def is_attempt(self) -> bool:
        """Tell whether it is that of an attempt at a job."""
        return ids.prefix_of(self.id) == ids.ATTEMPT

    @property
    def log(self) -> Path:
        """Return where what it runs writes."""
        return self.dir / ("log.0" if self.is_attempt else "engine.log")

    @property
    def has_report(self) -> bool:
        """Tell whether it was ever started, or is never to be."""
        return (self.dir / "report.json").exists()


def report_of(run: Run, processes: list[Process], scan: ProcessScan, now_ms: int) -> Report | None:
    """Return how the run is; None when it was prepared but never started.

    ``processes`` are those that carry its id. What a killed runner left behind serves nobody and
    is ended here.
    """
    report = read_report(run)
    if report is not None and report["run_state"] == RunState.EXITED:
        return report
    if report is not None and is_alive(_runner_of(report, run.id)):
        return report
    if any(process.is_runner and is_alive(process) for process in processes):
        # It has not reported yet, or its directory was removed and it makes a new one.
        return _report(run, RunState.STARTING)
    left = [process for process in processes if is_alive(process)]
    if report is not None and not left:
        left = _find_session(run, report, scan)
    if left:
        log.warning("%s: its runner is gone, ending %d processes", run.id, len(left))
        end_leftovers(left)
        started_at_ms = report.get("started_at_ms") if report else None
        return _report(run, RunState.DRAINING, started_at_ms=started_at_ms)
    return None if report is None else _close(run, report, now_ms)


def read_report(run: Run) -> Report | None:
    """Return the report of a run, None when there was none."""
    try:
        text = (run.dir / "report.json").read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        report: Report = json.loads(text)
        RunState(report["run_state"])
        int(report["pid"])
    except (ValueError, KeyError, TypeError):
        return _report(run, RunState.EXITED, reason="its report cannot be read")
    return report


def never_start(run: Run, now_ms: int) -> None:
    """Make sure that what was prepared and not started is not started by a late call."""
    if not run.dir.is_dir():
        return
    with _lock_of(run) as is_free:
        if is_free and not run.has_report:
            reason = "stopped before it was started"
            news = {"reason": reason, "at_ms": now_ms, "outcome": "cancelled"}
            write_private(
                run.dir / "report.json", json.dumps(_report(run, RunState.EXITED, **news))
            )


def discard_unstarted(run: Run) -> None:
    """Remove a run directory that nothing was started from, once its runner has left."""
    ends_at = time.monotonic() + LEAVE_TIMEOUT_S
    while run.dir.is_dir() and time.monotonic() < ends_at:
        with suppress(OSError), _lock_of(run) as is_free:
            if is_free and not run.has_report:
                _remove(run.dir)
            if is_free:
                return
        time.sleep(0.005)


def forget(run: Run, processes: list[Process]) -> bool:
    """Remove the directory of a run that is over; False when it lives and keeps it."""
    report = read_report(run)
    if report is not None and report["run_state"] == RunState.EXITED:
        await_end(processes)
    elif processes:
        return False
    with suppress(FileNotFoundError):
        # At once: half a directory could start again.
        run.dir.rename(run.dir.with_name(FORGOTTEN + run.id))
    for path in run.dir.parent.glob(f"{FORGOTTEN}*"):
        _remove(path)
    return True


def _remove(path: Path) -> None:
    """Remove a run directory, as deep as what ran in it made it; what cannot be is left."""
    with suppress(OSError):
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(parent, path.name, entries_max=ENTRIES_MAX)
        finally:
            os.close(parent)


def end_leftovers(processes: list[Process]) -> None:
    """Kill what no runner looks after."""
    for process in processes:
        send(process, signal.SIGKILL)


def secret_of(run: Run) -> str:
    """Return what must not be told of the run, empty when it cannot be read."""
    try:
        launch = json.loads((run.dir / "launch.json").read_text(encoding="utf-8"))
        secret = launch["secret"] if run.is_attempt else dict(launch["env"]).get(SECRET_ENV, "")
        return str(secret)
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` as a whole by a file that only its owner can read."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).replace(path)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise


def _report(run: Run, run_state: RunState, **news: Any) -> Report:
    """Return a report in place of the runner's own."""
    fields = ("start_ticks", "engine_pid", "address", "requests_running", "requests_waiting")
    more = ("reason", "exit_code", "outcome", "started_at_ms")
    empty: Report = dict.fromkeys((*fields, *more))
    id_field = "attempt_id" if run.is_attempt else "replica_id"
    return {id_field: run.id, **empty, "run_state": run_state, "at_ms": 0, "pid": 0, **news}


def _runner_of(report: Report, id_: str) -> Process:
    """Return the process that wrote a report; of an earlier boot, one that is never alive."""
    ticks = report.get("start_ticks") if report.get("boot_id") == linux.boot_id() else None
    return Process(report["pid"], ticks or -1, id_, is_runner=True)


def _find_session(run: Run, report: Report, scan: ProcessScan) -> list[Process]:
    session, ticks = report.get("engine_pid"), report.get("start_ticks")
    if report.get("boot_id") != linux.boot_id() or not session or not ticks:
        return []
    return scan.run_session(session, ticks, run.id)


def _close(run: Run, report: Report, now_ms: int) -> Report:
    """Return the last word on a run whose runner is gone, and keep it."""
    with _lock_of(run) as is_free:
        newer = read_report(run)
        if newer is None or newer["run_state"] == RunState.EXITED or not is_free:
            return newer or report
        what = "command" if run.is_attempt else "engine"
        headline = f"its runner was killed, and the {what} with it"
        reason = output.explain(headline, str(run.log), secret_of(run))
        news = {"reason": reason, "at_ms": now_ms, "started_at_ms": report.get("started_at_ms")}
        # Of an attempt: not its command ended, but what it ran on.
        ended = _report(run, RunState.EXITED, **news, outcome="node_failed")
        with suppress(OSError):  # a full disk: the same is concluded next time
            write_private(run.dir / "report.json", json.dumps(ended))
        return ended


@contextmanager
def _lock_of(run: Run) -> Iterator[bool]:
    """Hold the lock that a runner holds; yields False while one does."""
    descriptor = os.open(run.dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def await_end(processes: list[Process]) -> None:
    """Wait for runners that have reported their end and only have to leave."""
    ends_at = time.monotonic() + LEAVE_TIMEOUT_S
    while any(is_alive(process) for process in processes) and time.monotonic() < ends_at:
        time.sleep(0.005)
