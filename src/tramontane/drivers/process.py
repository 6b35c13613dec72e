"""The process driver: replicas and attempts as processes of this machine, each under a runner.

What runs is found outside the database: in the run directories (``HOME/replicas/<id>``,
``HOME/jobs/<job>/attempts/<id>``) and in the environment of processes. A runner outlives the
control plane, so a new driver finds what an earlier one started. It must never start an id twice,
and never call something gone that may live.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tramontane.domain import ids
from tramontane.domain.jobs.attempt import AttemptObservation, AttemptRecord, JobLaunch
from tramontane.domain.launch import LaunchSpec, Tenancy
from tramontane.domain.observation import (
    ClusterView,
    NodeObservation,
    Observation,
    Reachable,
    RunState,
    Unreachable,
)
from tramontane.domain.resources import Resources
from tramontane.drivers import attempt_logs, process_runs
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.process_attempts import AttemptFolders, Entry, observed, recorded
from tramontane.drivers.process_node import NvidiaDevices, machine_capacity
from tramontane.drivers.process_runs import Run, write_private
from tramontane.drivers.process_scan import (
    INSTALLATION_ENV,
    Process,
    ProcessScan,
    is_alive,
    send,
)
from tramontane.runner import linux, output
from tramontane.runner.attempt import ATTEMPT_ENV
from tramontane.runner.replica import REPLICA_ENV
from tramontane.runtime.clock import Clock, SystemClock
from tramontane.runtime.in_time import InTime

START_TIMEOUT_S: Final = 20  # a runner reports after 0.1 s; a machine at its limits takes longer
REMOVAL_S: Final = 10.0  # of one piece of a job's files: milliseconds, unless its disk hangs
LOG_LINES_MAX: Final = 10_000
LOG_BYTES_MAX: Final = 4 << 20
# All that a runner and its engine inherit: never a key of the operator's shell.
INHERITED: Final = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "USER")
# Run by its path, quicker than from a zip: what it imports is compiled once for all.
_RUNNER: Final = str(Path(linux.__file__).with_name("__main__.py"))
_UNKNOWN: Final = Entry("", 0)  # of an attempt whose note is gone


class ProcessDriver:
    """One machine as a cluster of one node.

    ``capacity`` None means all processors and most of the memory; a larger value over-commits the
    machine on purpose. Its ``devices`` limits how many of the detected ones are used.
    """

    queues = False

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
        self._attempts = AttemptFolders(home.absolute())
        self._drained = home.absolute() / "drained"
        self._installation_id = installation_id
        self._clock = clock or SystemClock()
        self._node_name = node_name or socket.gethostname()
        self._capacity = capacity
        self._scan = ProcessScan(installation_id)
        self._nvidia = NvidiaDevices(self._clock)
        self._removal = InTime(str(self._attempts.root), REMOVAL_S)
        self._over: dict[str, AttemptObservation] = {}

    def view(self) -> ClusterView:
        """Return this machine and every process of ours on it.

        What a killed runner left behind serves nobody and is ended here.
        """
        try:
            # Processes first: a runner that ends in between has then left its last report.
            processes = self._scan.run()
            names = {*self._replica_ids(), *self._attempts.ids(), *processes}
            if len(self._over) > len(names):
                self._over = {id_: it for id_, it in self._over.items() if id_ in names}
            replicas: list[Observation] = []
            attempts: list[AttemptObservation] = []
            for name in sorted(names):
                seen = self._observe(name, processes.get(name, []))
                if isinstance(seen, Observation):
                    replicas.append(seen)
                elif seen is not None:
                    attempts.append(seen)
            return Reachable((self._observe_node(),), tuple(replicas), tuple(attempts))
        except (OSError, ValueError) as error:
            return Unreachable(f"this machine's processes cannot be read: {error}")

    def ensure(
        self, replica_id: str, node_name: str, launch: LaunchSpec, peers: Sequence[str] = ()
    ) -> None:
        """Start ``launch`` under ``replica_id``, unless that was ever done.

        The runner makes sure of "ever": it holds a lock, and its report outlives it. Raises
        `DriverUnavailableError` when it could not be started, for instance on a full disk.
        """
        run = self._run_of(replica_id)
        self._check_place(node_name, 1 + len(peers))
        if run.has_report:
            return
        try:
            run.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(run.dir / "launch.json", _plain(launch))
        except OSError as error:
            raise _unwritable(run, error) from error
        self._start_runner(run, "--replica", REPLICA_ENV)

    def submit(self, attempt_id: str, launch: JobLaunch, node_name: str | None = None) -> None:
        """Start ``launch`` under ``attempt_id``, unless that was ever done; see `ensure`."""
        self._check_place(node_name or self._node_name, launch.nodes)
        found = self._attempts.find(attempt_id)
        if found is not None and found[0].has_report:
            return
        run = self._run_of(attempt_id)
        try:
            run = self._attempts.prepare(attempt_id, launch)
            write_private(run.dir / "launch.json", _plain(launch))
        except OSError as error:
            self._attempts.drop(attempt_id)
            raise _unwritable(run, error) from error
        self._start_runner(run, "--attempt", ATTEMPT_ENV)

    def stop(self, id_: str, *, drain: bool = True) -> None:
        """Have it drain and end, or end now; may be repeated at will."""
        run = self._run_of(id_)
        signum = signal.SIGUSR1 if drain else signal.SIGINT
        try:
            processes = self._scan.run().get(id_, [])
            runners = [process for process in processes if process.is_runner]
            for process in runners:
                send(process, signum)
                send(process, signal.SIGCONT)  # it may be stopped
            if not runners:
                process_runs.end_leftovers(processes)
                process_runs.never_start(run, self._clock.now_ms())
        except OSError as error:
            msg = f"cannot stop {id_}: {error.strerror}"
            raise DriverUnavailableError(msg) from error

    def forget(self, id_: str) -> None:
        """Remove the run directory of what ended; of what lives it stays."""
        run = self._run_of(id_)
        try:
            if process_runs.forget(run, self._scan.run().get(id_, [])) and run.is_attempt:
                self._attempts.drop(id_)
        except OSError as error:
            msg = f"cannot forget {id_}: {error.strerror}"
            raise DriverUnavailableError(msg) from error

    def remove_job(self, job_id: str, attempt_ids: Sequence[str], tenancy: Tenancy) -> bool:
        """Remove a piece of the job's folder and all that is noted of its attempts."""
        del tenancy  # one folder for all
        try:
            found = self._scan.run()
            left = [process for id_ in attempt_ids for process in found.get(id_, ())]
            process_runs.await_end(left)  # runners that only have to leave
            if any(is_alive(process) for process in left):
                raise DriverUnavailableError(f"something of {job_id} still runs")
            return self._removal.run(lambda: self._attempts.remove_job(job_id, attempt_ids))
        except OSError as error:
            msg = f"cannot remove the files of {job_id}: {error.strerror}"
            raise DriverUnavailableError(msg) from error

    def logs(self, id_: str, lines_max: int) -> list[str]:
        """Return the last lines, oldest first, without the secret of the replica or attempt."""
        run = self._run_of(id_)
        wanted = min(lines_max, LOG_LINES_MAX)
        lines: list[str] = []
        if run.is_attempt:
            root, folder = self._attempts.root, self._attempts.relative_dir(run)
            lines = attempt_logs.read_last_lines(root, folder, os.getuid(), 0, wanted)
        else:
            for path in (str(run.log), f"{run.log}.1"):
                lines = output.tail_lines(path, wanted - len(lines), LOG_BYTES_MAX) + lines
        secret = process_runs.secret_of(run)
        return [line.replace(secret, "***") if secret else line for line in lines]

    def read_log(self, attempt_id: str, rank: int, offset: int, bytes_max: int) -> bytes:
        """Return what the attempt wrote from ``offset`` on; nothing on other nodes than the first.

        What is no longer kept reads as zero bytes.
        """
        run = self._run_of(attempt_id)
        if rank or not run.is_attempt:
            return b""
        root, folder = self._attempts.root, self._attempts.relative_dir(run)
        try:
            return attempt_logs.read_log(
                root, folder, os.getuid(), rank, offset=offset, bytes_max=bytes_max
            )
        except FileNotFoundError:
            return b""
        except OSError as error:
            msg = f"cannot read what {attempt_id} wrote: {error.strerror}"
            raise DriverUnavailableError(msg) from error

    def account(self, attempt_ids: Sequence[str]) -> Mapping[str, AttemptRecord]:
        """Return what is known of those attempts that are over: their reports are the account."""
        found: dict[str, AttemptRecord] = {}
        view = self.view()
        if isinstance(view, Unreachable):
            raise DriverUnavailableError(view.reason)
        for seen in view.attempts:
            record = recorded(seen)
            if record is not None and seen.attempt_id in attempt_ids:
                found[seen.attempt_id] = record
        return found

    def set_drained(self, node_name: str, reason: str | None) -> None:
        """Show the node as drained for ``reason``; None takes that back."""
        if node_name != self._node_name:
            msg = f"cluster {self.name} has the node {self._node_name}, not {node_name}"
            raise ValueError(msg)
        try:
            if reason is None:
                self._drained.unlink(missing_ok=True)
            else:
                self._drained.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_private(self._drained, json.dumps({"reason": reason}))
        except OSError as error:
            msg = f"cannot write {self._drained}: {error.strerror}"
            raise DriverUnavailableError(msg) from error

    def _run_of(self, id_: str) -> Run:
        kind = ids.prefix_of(id_)
        if kind == ids.REPLICA:
            return Run(id_, self._replicas / id_)
        if kind == ids.ATTEMPT:
            found = self._attempts.find(id_)
            # Without its note nothing of it can be found by its path.
            return found[0] if found else Run(id_, self._attempts.root / "unknown" / id_)
        msg = f"{id_!r} is not a replica id, nor that of an attempt"
        raise ValueError(msg)

    def _replica_ids(self) -> Iterator[str]:
        with suppress(FileNotFoundError):
            yield from (n for n in os.listdir(self._replicas) if ids.prefix_of(n) == ids.REPLICA)  # noqa: PTH208 (twice as fast)

    def _check_place(self, node_name: str, nodes: int) -> None:
        if node_name != self._node_name:
            msg = f"cluster {self.name} has the node {self._node_name}, not {node_name}"
            raise DriverUnavailableError(msg)
        if nodes > 1:
            msg = f"cluster {self.name} has one node, and {nodes} are asked for"
            raise ValueError(msg)

    def _observe_node(self) -> NodeObservation:
        devices = self._nvidia.list()
        capacity = self._capacity or machine_capacity()
        if self._capacity is not None:
            devices = devices[: self._capacity.devices]
        capacity = dataclasses.replace(capacity, devices=len(devices))
        try:
            reason = str(json.loads(self._drained.read_text(encoding="utf-8"))["reason"])
        except FileNotFoundError:
            return NodeObservation(self._node_name, capacity, devices)
        except (ValueError, KeyError, TypeError):
            reason = "it was drained"
        return NodeObservation(self._node_name, capacity, devices, is_drained=True, reason=reason)

    def _observe(
        self, id_: str, processes: list[Process]
    ) -> Observation | AttemptObservation | None:
        """Return what is known of one id; None when it was prepared but never started."""
        if not processes and id_ in self._over:
            return self._over[id_]  # an end is final
        found = self._attempts.find(id_) if ids.prefix_of(id_) == ids.ATTEMPT else None
        run, entry = found or (self._run_of(id_), _UNKNOWN)
        report = process_runs.report_of(run, processes, self._scan, self._clock.now_ms())
        if report is None:
            return None
        if run.is_attempt:
            seen = observed(id_, entry, report, self._node_name)
            if seen.state.is_over and not processes:
                self._over[id_] = seen
            return seen
        return Observation(
            replica_id=id_,
            node_name=self._node_name,
            run_state=RunState(report["run_state"]),
            address=report.get("address"),
            reason=report.get("reason"),
            requests_running=report.get("requests_running"),
            requests_waiting=report.get("requests_waiting"),
        )

    def _start_runner(self, run: Run, option: str, mark: str) -> None:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        marks = {mark: run.id, INSTALLATION_ENV: self._installation_id}
        script = [sys.executable, "-I", "-S", _RUNNER, "--run-dir", str(run.dir)]
        try:
            done = subprocess.run(
                [*script, option, run.id, "--survive", "--detach"],
                env={**inherited, **marks},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=START_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            msg = f"the runner of {run.id} did not start: {error}"
            raise DriverUnavailableError(msg) from error
        if done.returncode:
            process_runs.discard_unstarted(run)
            msg = f"the runner of {run.id} did not start: {done.stderr.strip()}"
            raise DriverUnavailableError(msg)


def _plain(launch: LaunchSpec | JobLaunch) -> str:
    devices = ",".join(str(index) for index in launch.device_indexes)
    # Without the order, CUDA counts the fastest device first, and nvidia-smi by the bus.
    visible = (("CUDA_DEVICE_ORDER", "PCI_BUS_ID"), ("CUDA_VISIBLE_DEVICES", devices))
    return json.dumps(dataclasses.asdict(dataclasses.replace(launch, env=(*launch.env, *visible))))


def _unwritable(run: Run, error: OSError) -> DriverUnavailableError:
    with suppress(OSError):
        run.dir.rmdir()  # if nothing is in it yet
    msg = f"{run.id} was not started: cannot write {run.dir}: {error.strerror}"
    return DriverUnavailableError(msg)
