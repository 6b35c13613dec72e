"""The process driver: replicas as processes of this machine, each under a runner of its own.

What runs is found outside the database: in the run directories (``HOME/replicas/<id>``) and in
the environment of processes. A runner outlives the control plane, so a new driver finds what an
earlier one started. It must never start an id twice, and never call something gone that may live.
"""

import dataclasses
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tramontane.domain import ids
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.observation import (
    ClusterView,
    NodeObservation,
    Observation,
    Reachable,
    RunState,
    Unreachable,
)
from tramontane.domain.resources import Resources
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.process_node import NvidiaDevices, machine_capacity
from tramontane.drivers.process_scan import (
    INSTALLATION_ENV,
    Process,
    ProcessScan,
    is_alive,
    send,
)
from tramontane.runner import linux, output
from tramontane.runner.replica import REPLICA_ENV, SECRET_ENV
from tramontane.runtime.clock import Clock, SystemClock

START_TIMEOUT_S: Final = 20  # a runner reports after 0.1 s; a machine at its limits takes longer
LEAVE_TIMEOUT_S: Final = 2  # an interpreter ends within milliseconds
LOG_LINES_MAX: Final = 10_000
LOG_BYTES_MAX: Final = 4 << 20
# All that a runner and its engine inherit: never a key of the operator's shell.
INHERITED: Final = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "USER")
# Run by its path, quicker than from a zip: what it imports is compiled once for all.
_RUNNER: Final = str(Path(linux.__file__).with_name("__main__.py"))
_FORGOTTEN: Final = ".forgotten-"  # a run directory that is being removed

log = logging.getLogger(__name__)


class ProcessDriver:
    """One machine as a cluster of one node.

    ``capacity`` None means all processors and most of the memory; a larger value over-commits the
    machine on purpose. Its ``devices`` limits how many of the detected ones are used.
    """

    def __init__(
        self,
        name: str,
        home: Path,
        installation_id: str,
        *,
        node_name: str | None = None,
        capacity: Resources | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self._replicas = home.absolute() / "replicas"
        self._installation_id = installation_id
        self._clock = clock or SystemClock()
        self._node_name = node_name or socket.gethostname()
        self._capacity = capacity
        self._scan = ProcessScan(installation_id)
        self._nvidia = NvidiaDevices(self._clock)

    def view(self) -> ClusterView:
        """Return this machine and every process of ours on it.

        What a killed runner left behind serves nobody and is ended here.
        """
        try:
            # Processes first: a runner that ends in between has then left its last report.
            processes = self._scan.run()
            names = set(self._run_dirs()) | set(processes)
            seen = (self._observe(name, processes.get(name, [])) for name in sorted(names))
            observations = tuple(observation for observation in seen if observation is not None)
            return Reachable((self._observe_node(),), observations)
        except (OSError, ValueError) as error:
            return Unreachable(f"this machine's processes cannot be read: {error}")

    def ensure(
        self, replica_id: str, node_name: str, launch: LaunchSpec, peers: Sequence[str] = ()
    ) -> None:
        """Start ``launch`` under ``replica_id``, unless that was ever done.

        The runner makes sure of "ever": it holds a lock, and its report outlives it. Raises
        `DriverUnavailableError` when it could not be started, for instance on a full disk.
        """
        if node_name != self._node_name:
            msg = f"cluster {self.name} has the node {self._node_name}, not {node_name}"
            raise DriverUnavailableError(msg)
        if peers:
            msg = f"cluster {self.name} has one node, and {1 + len(peers)} are asked for"
            raise ValueError(msg)
        run_dir = self._run_dir(replica_id)
        if (run_dir / "report.json").exists():
            return
        try:
            run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_private(run_dir / "launch.json", self._plain(launch))
        except OSError as error:
            _remove_if_empty(run_dir)
            msg = f"{replica_id} was not started: cannot write {run_dir}: {error.strerror}"
            raise DriverUnavailableError(msg) from error
        self._start_runner(replica_id, run_dir)

    def stop(self, replica_id: str, *, drain: bool = True) -> None:
        """Have the engine drain and end, or end now; may be repeated at will."""
        run_dir = self._run_dir(replica_id)
        signum = signal.SIGUSR1 if drain else signal.SIGINT
        try:
            processes = self._scan.run().get(replica_id, [])
            runners = [process for process in processes if process.is_runner]
            for process in runners:
                send(process, signum)
                send(process, signal.SIGCONT)  # it may be stopped
            if not runners:
                _end_leftovers(processes)
                _never_start(run_dir, replica_id, self._clock.now_ms())
        except OSError as error:
            msg = f"cannot stop {replica_id}: {error.strerror}"
            raise DriverUnavailableError(msg) from error

    def forget(self, replica_id: str) -> None:
        """Remove the run directory of an ended process; a living one keeps it."""
        run_dir = self._run_dir(replica_id)
        try:
            report = _read_report(run_dir)
            processes = self._scan.run().get(replica_id, [])
            if report is not None and report["run_state"] == RunState.EXITED:
                _await_end(processes)
            elif processes:
                return
            hidden = run_dir.with_name(_FORGOTTEN + replica_id)
            with suppress(FileNotFoundError):
                run_dir.rename(hidden)  # at once: half a directory could start again
            for path in self._replicas.glob(f"{_FORGOTTEN}*"):
                shutil.rmtree(path, ignore_errors=True)
        except OSError as error:
            msg = f"cannot forget {replica_id}: {error.strerror}"
            raise DriverUnavailableError(msg) from error

    def logs(self, replica_id: str, lines_max: int) -> list[str]:
        """Return the engine's last lines, oldest first, without the replica's secret."""
        run_dir = self._run_dir(replica_id)
        wanted = min(lines_max, LOG_LINES_MAX)
        lines: list[str] = []
        for name in ("engine.log", "engine.log.1"):
            path = str(run_dir / name)
            lines = output.tail_lines(path, wanted - len(lines), LOG_BYTES_MAX) + lines
        secret = _secret_of(run_dir)
        return [line.replace(secret, "***") if secret else line for line in lines]

    def _run_dir(self, replica_id: str) -> Path:
        if ids.prefix_of(replica_id) != ids.REPLICA:
            msg = f"{replica_id!r} is not a replica id"
            raise ValueError(msg)
        return self._replicas / replica_id

    def _run_dirs(self) -> Iterator[str]:
        with suppress(FileNotFoundError):
            yield from (n for n in os.listdir(self._replicas) if ids.prefix_of(n) == ids.REPLICA)  # noqa: PTH208 (twice as fast)

    def _observe_node(self) -> NodeObservation:
        devices = self._nvidia.list()
        capacity = self._capacity or machine_capacity()
        if self._capacity is not None:
            devices = devices[: self._capacity.devices]
        capacity = dataclasses.replace(capacity, devices=len(devices))
        return NodeObservation(self._node_name, capacity, devices)

    def _observe(self, replica_id: str, processes: list[Process]) -> Observation | None:
        """Return what is known of one id; None when it was prepared but never started."""
        run_dir = self._replicas / replica_id
        report = _read_report(run_dir)
        if report is not None and report["run_state"] == RunState.EXITED:
            return self._from_report(replica_id, report)
        if report is not None and is_alive(_runner_of(report)):
            return self._from_report(replica_id, report)
        if any(process.is_runner and is_alive(process) for process in processes):
            # It has not reported yet, or its directory was removed and it makes a new one.
            return Observation(replica_id, self._node_name, RunState.STARTING)
        left = [process for process in processes if is_alive(process)]
        if report is not None and not left:
            left = self._find_session(report)
        if left:
            log.warning("%s: its runner is gone, ending %d processes", replica_id, len(left))
            _end_leftovers(left)
            return Observation(replica_id, self._node_name, RunState.DRAINING)
        if report is None:
            return None
        return self._from_report(replica_id, _close_report(run_dir, report, self._clock.now_ms()))

    def _find_session(self, report: dict[str, Any]) -> list[Process]:
        session, ticks = report.get("engine_pid"), report.get("start_ticks")
        if report.get("boot_id") != linux.boot_id() or not session or not ticks:
            return []
        return self._scan.run_session(session, ticks, report["replica_id"])

    def _from_report(self, replica_id: str, report: dict[str, Any]) -> Observation:
        return Observation(
            replica_id=replica_id,
            node_name=self._node_name,
            run_state=RunState(report["run_state"]),
            address=report.get("address"),
            reason=report.get("reason"),
            requests_running=report.get("requests_running"),
            requests_waiting=report.get("requests_waiting"),
        )

    def _plain(self, launch: LaunchSpec) -> str:
        devices = ",".join(str(index) for index in launch.device_indexes)
        # Without the order, CUDA counts the fastest device first, and nvidia-smi by the bus.
        visible = (("CUDA_DEVICE_ORDER", "PCI_BUS_ID"), ("CUDA_VISIBLE_DEVICES", devices))
        return json.dumps(
            dataclasses.asdict(dataclasses.replace(launch, env=(*launch.env, *visible)))
        )

    def _start_runner(self, replica_id: str, run_dir: Path) -> None:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        marks = {REPLICA_ENV: replica_id, INSTALLATION_ENV: self._installation_id}
        script = [sys.executable, "-I", "-S", _RUNNER, "--run-dir", str(run_dir)]
        try:
            done = subprocess.run(
                [*script, "--replica", replica_id, "--survive", "--detach"],
                env={**inherited, **marks},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=START_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            msg = f"the runner of {replica_id} did not start: {error}"
            raise DriverUnavailableError(msg) from error
        if done.returncode:
            _discard_unstarted(run_dir)
            msg = f"the runner of {replica_id} did not start: {done.stderr.strip()}"
            raise DriverUnavailableError(msg)


def _runner_of(report: dict[str, Any]) -> Process:
    """Return the process that wrote a report; of an earlier boot, one that is never alive."""
    ticks = report.get("start_ticks") if report.get("boot_id") == linux.boot_id() else None
    return Process(report["pid"], ticks or -1, str(report.get("replica_id")), is_runner=True)


def _read_report(run_dir: Path) -> dict[str, Any] | None:
    """Return the report of a run, None when there was none."""
    try:
        text = (run_dir / "report.json").read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        report: dict[str, Any] = json.loads(text)
        RunState(report["run_state"])
        int(report["pid"])
    except (ValueError, KeyError, TypeError):
        return _ended_report(run_dir.name, 0, "its report cannot be read")
    return report


def _ended_report(replica_id: str, at_ms: int, reason: str) -> dict[str, Any]:
    empty = dict.fromkeys(
        ("start_ticks", "engine_pid", "address", "requests_running", "requests_waiting")
    )
    ended = {"run_state": RunState.EXITED, "reason": reason, "at_ms": at_ms, "pid": 0}
    return {"replica_id": replica_id, **empty, **ended}


def _close_report(run_dir: Path, report: dict[str, Any], now_ms: int) -> dict[str, Any]:
    """Return the last word on a run whose runner is gone, and keep it."""
    with _lock_of(run_dir) as is_free:
        newer = _read_report(run_dir)
        if newer is None or newer["run_state"] == RunState.EXITED or not is_free:
            return newer or report
        headline = "its runner was killed, and the engine with it"
        reason = output.explain(headline, str(run_dir / "engine.log"), _secret_of(run_dir))
        ended = _ended_report(run_dir.name, now_ms, reason)
        with suppress(OSError):  # a full disk: the same is concluded next time
            _write_private(run_dir / "report.json", json.dumps(ended))
        return ended


def _never_start(run_dir: Path, replica_id: str, now_ms: int) -> None:
    """Make sure that what was prepared and not started is not started by a late call."""
    if not run_dir.is_dir():
        return
    with _lock_of(run_dir) as is_free:
        if is_free and not (run_dir / "report.json").exists():
            ended = _ended_report(replica_id, now_ms, "stopped before it was started")
            _write_private(run_dir / "report.json", json.dumps(ended))


def _discard_unstarted(run_dir: Path) -> None:
    """Remove a run directory that nothing was started from, once its runner has left."""
    ends_at = time.monotonic() + LEAVE_TIMEOUT_S
    while run_dir.is_dir() and time.monotonic() < ends_at:
        with suppress(OSError), _lock_of(run_dir) as is_free:
            if is_free and not (run_dir / "report.json").exists():
                shutil.rmtree(run_dir, ignore_errors=True)
            if is_free:
                return
        time.sleep(0.005)


@contextmanager
def _lock_of(run_dir: Path) -> Iterator[bool]:
    """Hold the lock that a runner holds; yields False while one does."""
    descriptor = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _await_end(processes: list[Process]) -> None:
    """Wait for runners that have reported their end and only have to leave."""
    ends_at = time.monotonic() + LEAVE_TIMEOUT_S
    while any(is_alive(process) for process in processes) and time.monotonic() < ends_at:
        time.sleep(0.005)


def _end_leftovers(processes: list[Process]) -> None:
    for process in processes:
        send(process, signal.SIGKILL)


def _secret_of(run_dir: Path) -> str:
    try:
        launch = json.loads((run_dir / "launch.json").read_text(encoding="utf-8"))
        return str(dict(launch["env"]).get(SECRET_ENV, ""))
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write_private(path: Path, text: str) -> None:
    """Replace ``path`` as a whole by a file that only its owner can read."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).replace(path)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise


def _remove_if_empty(path: Path) -> None:
    with suppress(OSError):
        path.rmdir()
