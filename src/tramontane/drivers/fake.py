"""A cluster that exists only in memory, with every fault a real one can show.

Everything follows from the clock, the calls and the faults it was given, so a run can be
replayed. It is shipped: tests, simulations and whoever writes a reconciler use the same one. It
passes the conformance suite that real drivers pass.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from tramontane.domain.fleet import Device
from tramontane.domain.jobs.attempt import AttemptRecord, JobLaunch
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
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.fake_attempts import RUN_MS, FakeAttempts
from tramontane.drivers.faults import (
    CallFault,
    Crash,
    DelayCall,
    DrainNode,
    DropCall,
    FailStart,
    Fault,
    LateReports,
    LoseNode,
    LoseReply,
    RepeatCall,
    Silence,
    SlowStart,
    Walltime,
)
from tramontane.runtime.clock import Clock

START_MS: Final = 2_000
DRAIN_MS: Final = 1_000
_T = TypeVar("_T", LoseNode, DrainNode, Silence, LateReports)
_FIRST_PORT: Final = 20_000
LOG_LINES_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class FakeNode:
    """One machine of the fake cluster."""

    name: str
    capacity: Resources
    devices: tuple[Device, ...] = ()
    is_drained: bool = False
    rack: str | None = None


@dataclass(frozen=True, slots=True)
class FakeProcess:
    """One process, as it really is, whatever a view says of it.

    ``ready_at_ms`` and ``ended_at_ms`` may lie in the future: then it will be so, unless something
    happens to it before.
    """

    replica_id: str
    node_name: str
    launch: LaunchSpec
    address: str
    started_at_ms: int
    ready_at_ms: int
    drained_from_ms: int | None = None
    ended_at_ms: int | None = None
    reason: str | None = None
    ends_at_ms: int | None = None  # as the cluster says, whatever happens to it before

    def state_at(self, now_ms: int) -> RunState:
        """Return where in its life it is at ``now_ms``."""
        if self.ended_at_ms is not None and self.ended_at_ms <= now_ms:
            return RunState.EXITED
        if self.drained_from_ms is not None and self.drained_from_ms <= now_ms:
            return RunState.DRAINING
        return RunState.READY if self.ready_at_ms <= now_ms else RunState.STARTING


class FakeDriver:
    """A driver of simulated processes.

    A process is ready ``start_ms`` after its start, give or take a quarter of that, which
    ``seed`` decides. It drains for ``drain_ms``. ``starts`` counts, per id, how often a process
    was really started; more than once is a bug of whoever called. ``attempts`` are those at jobs;
    with ``queues`` the cluster itself chooses when and where they start.
    """

    def __init__(
        self,
        clock: Clock,
        nodes: Iterable[FakeNode],
        *,
        name: str = "fake",
        faults: Sequence[Fault] = (),
        seed: int = 0,
        start_ms: int = START_MS,
        drain_ms: int = DRAIN_MS,
        queues: bool = False,
        run_ms: int = RUN_MS,
    ) -> None:
        self.name = name
        self.starts: Counter[str] = Counter()
        self._clock = clock
        self._nodes = {node.name: node for node in nodes}
        self._faults = list(faults)
        self._random = random.Random(seed)  # noqa: S311 - a simulation must be replayable
        self._start_ms = start_ms
        self._drain_ms = drain_ms
        self._made_at_ms = clock.now_ms()
        self._calls = 0
        self._late: list[tuple[int, Callable[[], None]]] = []
        self._processes: dict[str, FakeProcess] = {}
        self.queues = queues
        self.drained: dict[str, str] = {}
        self.attempts = FakeAttempts(
            clock,
            self._random,
            tuple(self._nodes),
            lambda: self._faults,
            queues=queues,
            run_ms=run_ms,
        )
        self._was_started: set[str] = set()
        self._lock = threading.RLock()

    def view(self) -> ClusterView:
        """Return the nodes and every process, or that the cluster does not answer."""
        with self._lock:
            self._catch_up()
            silence = next(self.active(Silence), None)
            if silence is not None:
                return Unreachable(silence.reason)
            lost = {fault.node_name for fault in self.active(LoseNode)}
            drained = {it.node_name: it.reason for it in self.active(DrainNode)} | self.drained
            late = max((fault.by_ms for fault in self.active(LateReports)), default=0)
            nodes = [
                NodeObservation(
                    n.name,
                    n.capacity,
                    n.devices,
                    is_lost=n.name in lost,
                    is_drained=n.is_drained or n.name in drained,
                    reason=drained.get(n.name),
                    rack=n.rack,
                )
                for n in self._nodes.values()
            ]
            seen = [p for p in self._processes.values() if p.node_name not in lost]
            observations = tuple(self._observe(p, late) for p in seen)
            return Reachable(tuple(nodes), observations, self.attempts.observe(lost, late))

    def ensure(
        self, replica_id: str, node_name: str, launch: LaunchSpec, peers: Sequence[str] = ()
    ) -> None:
        """Start the process, unless one was ever started under this id."""
        del peers  # the first node stands for all
        self._call(node_name, lambda: self.start(replica_id, node_name, launch))

    def submit(self, attempt_id: str, launch: JobLaunch, node_name: str | None = None) -> None:
        """Start the attempt, or queue it, unless that was ever done."""
        self._call(node_name, lambda: self.attempts.submit(attempt_id, launch, node_name))

    def stop(self, id_: str, *, drain: bool = True) -> None:
        """Have the process or attempt drain and end, or end now."""
        self._call(self._node_of(id_), lambda: self.end(id_, drain=drain))

    def forget(self, id_: str) -> None:
        """Drop what is kept of an ended process or attempt."""
        self._call(None, lambda: self._forget(id_))

    def remove_job(self, job_id: str, attempt_ids: Sequence[str], tenancy: Tenancy) -> bool:
        """Remove a piece of what the job keeps, unless one of its attempts lives."""
        del tenancy  # one folder for all
        self._call(None, lambda: self.attempts.remove_job(job_id, attempt_ids))
        with self._lock:
            if self.attempts.lives(job_id):
                raise DriverUnavailableError(f"an attempt at {job_id} still runs")
            return self.attempts.pieces[job_id] == 0

    def account(self, attempt_ids: Sequence[str]) -> Mapping[str, AttemptRecord]:
        """Return what is known of those attempts that are over; no answer during a silence."""
        with self._lock:
            self._catch_up()
            if any(self.active(Silence)):
                raise DriverUnavailableError("the accounting does not answer")
            return self.attempts.account(attempt_ids)

    def set_drained(self, node_name: str, reason: str | None) -> None:
        """Start nothing more on the node, for ``reason``; None takes that back."""
        with self._lock:
            if reason is None:
                self.drained.pop(node_name, None)
            else:
                self.drained[node_name] = reason

    def read_log(self, attempt_id: str, rank: int, offset: int, bytes_max: int) -> bytes:
        """Return what the attempt would have written by now."""
        with self._lock:
            text = self.attempts.log_of(attempt_id).encode() if rank == 0 else b""
            return text[offset : offset + bytes_max]

    def logs(self, id_: str, lines_max: int) -> list[str]:
        """Return a few lines that the process would have written."""
        with self._lock:
            process = self._processes.get(id_)
            if process is None:
                lines = self.attempts.log_of(id_).splitlines()
                return lines[-lines_max:] if lines_max > 0 else []
            lines = [f"starting {' '.join(process.launch.argv)}"]
            lines += ["ready"] if process.ready_at_ms <= self._clock.now_ms() else []
            lines += (process.reason or "").splitlines()
            wanted = min(lines_max, LOG_LINES_MAX)
            return lines[-wanted:] if wanted > 0 else []

    def processes(self) -> tuple[FakeProcess, ...]:
        """Return every process as it really is, ended ones too, seen or unseen."""
        with self._lock:
            self._catch_up()
            return tuple(self._processes.values())

    def add_fault(self, fault: Fault) -> None:
        """Add a fault to come, such as ``DropCall(driver.next_call)``."""
        with self._lock:
            self._faults.append(fault)

    def heal(self) -> None:
        """Drop every fault that is active or to come; what was done stays done."""
        with self._lock:
            self._catch_up()
            self._faults.clear()
            now_ms = self._clock.now_ms()
            for process in list(self._processes.values()):
                is_to_come = process.ended_at_ms is not None and process.ended_at_ms > now_ms
                healed = replace(process, ends_at_ms=None)
                if is_to_come and process.drained_from_ms is None:
                    healed = replace(healed, ended_at_ms=None, reason=None)
                self._processes[process.replica_id] = healed

    def active(self, kind: type[_T]) -> Iterator[_T]:
        """Yield the timed faults of one kind that are at work now."""
        return (fault for fault in self.begun(kind) if self.elapsed_ms < fault.until_ms)

    def begun(self, kind: type[_T]) -> Iterator[_T]:
        """Yield the timed faults of one kind that are at work now or have been."""
        elapsed_ms = self.elapsed_ms
        for fault in self._faults:
            if isinstance(fault, kind) and fault.at_ms <= elapsed_ms:
                yield fault

    @property
    def node_names(self) -> tuple[str, ...]:
        """Return the names of the nodes."""
        return tuple(self._nodes)

    @property
    def next_call(self) -> int:
        """Return the number that the next call will have."""
        return self._calls + 1

    @property
    def elapsed_ms(self) -> int:
        """Return the time since the driver was made, which faults are dated in."""
        return self._clock.now_ms() - self._made_at_ms

    def crash(self, replica_id: str, reason: str = "signal 9") -> None:
        """End a process from outside, now."""
        with self._lock:
            process = self._processes.get(replica_id)
            if process is not None:
                self._end_at(process, self._clock.now_ms(), reason)

    def start(self, replica_id: str, node_name: str, launch: LaunchSpec) -> None:
        """Carry out `ensure`: the idempotent part, on the node itself."""
        if replica_id not in self._was_started and node_name in self._nodes:
            self._was_started.add(replica_id)
            self.spawn(replica_id, node_name, launch)

    def spawn(self, replica_id: str, node_name: str, launch: LaunchSpec) -> None:
        """Really start a process."""
        self.starts[replica_id] += 1
        number = self.starts.total()
        now_ms = self._clock.now_ms()
        quarter = self._start_ms // 4
        process = FakeProcess(
            replica_id,
            node_name,
            launch,
            f"127.0.0.1:{_FIRST_PORT + number}",
            now_ms,
            now_ms + self._start_ms + self._random.randint(-quarter, quarter),
        )
        for fault in self._faults:
            match fault:
                case SlowStart(start=start) if start == number:
                    process = replace(process, ready_at_ms=process.ready_at_ms + fault.by_ms)
                case FailStart(start=start) | Crash(start=start) if start == number:
                    process = replace(
                        process, ended_at_ms=now_ms + fault.after_ms, reason=fault.reason
                    )
                case Walltime(start=start) if start == number:
                    end_ms = now_ms + fault.after_ms
                    process = replace(
                        process, ended_at_ms=end_ms, ends_at_ms=end_ms, reason=fault.reason
                    )
                case _:
                    pass
        self._processes[replica_id] = process

    def end(self, replica_id: str, *, drain: bool) -> None:
        """Carry out `stop`, on the node itself."""
        now_ms = self._clock.now_ms()
        process = self._processes.get(replica_id)
        if self.attempts.knows(replica_id):
            self.attempts.end(replica_id, self._drain_ms if drain else 0)
        if process is None or process.state_at(now_ms) is RunState.EXITED:
            return
        if not drain:
            self._end_at(process, now_ms, "ended as asked")
        elif process.drained_from_ms is None:
            self._processes[replica_id] = replace(process, drained_from_ms=now_ms)
            limit_ms = process.launch.drain_timeout_s * 1_000
            due_ms = now_ms + min(self._drain_ms, limit_ms)
            self._end_at(self._processes[replica_id], due_ms, "drained as asked")

    def _forget(self, replica_id: str) -> None:
        process = self._processes.get(replica_id)
        if process is not None and process.state_at(self._clock.now_ms()) is RunState.EXITED:
            del self._processes[replica_id]
        self.attempts.forget(replica_id)

    def _end_at(self, process: FakeProcess, ended_at_ms: int, reason: str) -> None:
        if process.ended_at_ms is None or process.ended_at_ms > ended_at_ms:
            ended = replace(process, ended_at_ms=ended_at_ms, reason=reason)
            self._processes[process.replica_id] = ended

    def _call(self, node_name: str | None, carry_out: Callable[[], None]) -> None:
        with self._lock:
            self._catch_up()
            self._calls += 1
            if any(self.active(Silence)):
                raise DriverUnavailableError("the cluster does not answer")
            if node_name in {fault.node_name for fault in self.active(LoseNode)}:
                raise DriverUnavailableError(f"node {node_name} does not answer")
            fault = self._call_fault()
            if not isinstance(fault, (DropCall, DelayCall)):
                carry_out()
            match fault:
                case RepeatCall():
                    carry_out()
                case DelayCall(by_ms=by_ms):
                    self._late.append((self._clock.now_ms() + by_ms, carry_out))
                    raise DriverUnavailableError("the call timed out")
                case LoseReply() | DropCall():
                    raise DriverUnavailableError("the call timed out")
                case None:
                    pass

    def _call_fault(self) -> CallFault | None:
        for fault in self._faults:
            is_call_fault = isinstance(fault, (LoseReply, DropCall, RepeatCall, DelayCall))
            if is_call_fault and fault.call == self._calls:
                return fault
        return None

    def _observe(self, process: FakeProcess, late_ms: int) -> Observation:
        # Late reports are about states only: a process is listed as long as it is known.
        at_ms = max(process.started_at_ms, self._clock.now_ms() - late_ms)
        state = process.state_at(at_ms)
        is_answering = state in {RunState.READY, RunState.DRAINING}
        return Observation(
            process.replica_id,
            process.node_name,
            state,
            address=process.address if is_answering else None,
            reason=process.reason if state is RunState.EXITED else None,
            requests_running=0 if is_answering else None,
            requests_waiting=0 if is_answering else None,
            ends_at_ms=process.ends_at_ms,
        )

    def _node_of(self, replica_id: str) -> str | None:
        process = self._processes.get(replica_id)
        return process.node_name if process else None

    def _catch_up(self) -> None:
        """Carry out what became due since the last look."""
        now_ms = self._clock.now_ms()
        due = [call for call in self._late if call[0] <= now_ms]
        self._late = [call for call in self._late if call[0] > now_ms]
        for _, carry_out in sorted(due, key=lambda call: call[0]):
            carry_out()
        for fault in self.active(LoseNode):
            if fault.is_fatal:
                self.attempts.lose_node(fault.node_name)
                for process in list(self._processes.values()):
                    if process.node_name == fault.node_name:
                        del self._processes[process.replica_id]
