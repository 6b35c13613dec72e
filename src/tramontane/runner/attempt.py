"""One attempt at a job on one of its nodes: lay its files, run its command, say how it ended."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import time
from typing import Any, Final

from tramontane.runner import gang, work
from tramontane.runner.child import ASKED, AWAITED, TERM_GRACE_S, Child, was_asked
from tramontane.runner.linux import described
from tramontane.runner.output import cap_log, explain, replace_file, say
from tramontane.runner.report import Report
from tramontane.runner.timing import Lasting

LOG_BYTES_MAX: Final = 64 << 20  # of log.N, and as much again of the older log.N.1
LOOK_EVERY_S: Final = 1.0
HANG_LOOKS: Final = 10  # how often progress is looked for in the time that it may be missing
STOPPED_S: Final = 2.0  # silent for so much longer than meant: its processes were suspended
REPORT_EVERY_S: Final = 30.0  # though nothing changed: it shows that the runner lives

ATTEMPT_ENV: Final = "TRAMONTANE_ATTEMPT"
ARRAY_INDEX_ENV: Final = "TRAMONTANE_ARRAY_INDEX"
SUCCEEDED, FAILED, CANCELLED, TIMED_OUT = "succeeded", "failed", "cancelled", "timed_out"
_STATUS_TIMED_OUT: Final = 124  # as timeout(1) says it
_STATUS_BROKEN: Final = 70
_FIELDS: Final = frozenset(
    {"argv", "env", "files", "time_limit_s", "hang_after_s", "grace_s", "secret"}
)


class AttemptRun:
    """The run of one attempt. Its job's folder is two above the run directory."""

    def __init__(self, args: argparse.Namespace, gang_: gang.Gang) -> None:
        self.attempt_id, self.run_dir, self.gang = args.attempt, args.run_dir, gang_
        self.report_url = args.report_url
        self.job_dir = os.path.dirname(os.path.dirname(self.run_dir))
        self.log = f"{self.run_dir}/log.{gang_.rank}"
        self.heartbeat = f"{self.run_dir}/heartbeat"
        self.child = Child()
        self.run_state = "starting"
        self.launch: dict[str, Any] = {}
        self.started_at_ms: int | None = None
        self.outcome: str | None = None
        self.reason: str | None = None
        self.exit_code: int | None = None
        self.log_begin = 0  # how much of what was written left the log
        self._grace_s = TERM_GRACE_S
        self._unmoved = Lasting()
        self._marks: tuple[object, ...] = ()
        name = gang.report_name(gang_.rank)
        self._report = Report(self.run_dir, name, "attempt_id", self.attempt_id)

    def run(self, text: str) -> int:
        """Run the command that ``text`` (the launch) says; return the status to leave with."""
        try:
            self.launch = json.loads(text)
            self._check()
            self._begin_posting()
            if self._prepare():
                self._start()
                self.outcome, self.reason = self._watch()
            else:
                self.outcome, self.reason = CANCELLED, "ended as asked, before it was started"
        except (KeyError, TypeError, ValueError, OSError) as error:
            what = str(error) or type(error).__name__
            self.outcome, self.reason = FAILED, f"it could not be started: {what}"
        if self.child.pid is not None:
            self._end()
        if self.outcome == CANCELLED and (failure := self.gang.failure()):
            # srun ends the other nodes when one failed: nobody else asked.
            rank, report = failure
            self.outcome, self.exit_code = FAILED, report.get("exit_code")
            self.reason = f"node {rank} of {self.gang.nodes}: {report.get('reason')}"
        self.run_state = "exited"
        say(f"{self.outcome}: {(self.reason or 'with status 0').splitlines()[0]}")
        self._report.write_last(self._news())
        return self._status()

    def report(self, *, strict: bool = False) -> bool:
        """Write the report as things are now; tell whether that worked."""
        return self._report.write(self._news(), strict=strict)

    def _news(self) -> dict[str, Any]:
        is_over = self.run_state == "exited"
        return {
            "engine_pid": self.child.pid,
            "run_state": self.run_state,
            "reason": self.reason if is_over else None,
            "exit_code": self.exit_code if is_over else None,
            "outcome": self.outcome if is_over else None,
            "started_at_ms": self.started_at_ms,
        }

    def _check(self) -> None:
        if not isinstance(self.launch, dict):
            raise ValueError("launch.json is no object")
        missing = sorted(_FIELDS - self.launch.keys())
        if missing:
            raise ValueError(f"launch.json has no {', '.join(missing)}")
        self._grace_s = float(self.launch["grace_s"])

    def _begin_posting(self) -> None:
        if self.report_url and self.gang.is_first:
            from tramontane.runner.post import Poster  # noqa: PLC0415 (4 MB, for it alone)

            self._report.poster = Poster(self.report_url, self.attempt_id, self.launch["secret"])

    def _prepare(self) -> bool:
        """Make the folders and lay the files; False when asked to end before that is done."""
        if self.gang.is_first:
            folder = work.make_folder(self.job_dir, "work")
            checkpoint = work.make_folder(self.job_dir, "checkpoint")
            if index := dict(self.launch["env"]).get(ARRAY_INDEX_ENV):
                work.make_folder(checkpoint, index)
            work.lay_files(folder, self.launch["files"])
        return self.gang.meet()  # the others wait until the files are there

    def _start(self) -> None:
        argv = [*self.launch.get("prefix", ()), *self.launch["argv"]]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        log = os.open(self.log, flags, 0o600)
        pid = self.child.start(argv, self._environment(), log, f"{self.job_dir}/work")
        os.close(log)
        self.started_at_ms = time.time_ns() // 1_000_000
        self.run_state = "ready"
        say(f"started command {pid} on node {self.gang.rank} of {self.gang.nodes}")
        self.report()

    def _environment(self) -> dict[str, str]:
        head, port = self.gang.head[0], str(self.gang.head[1])
        nodes, rank = str(self.gang.nodes), str(self.gang.rank)
        here = max(1, int(self.launch.get("resources", {}).get("devices", 0)))
        index = dict(self.launch["env"]).get(ARRAY_INDEX_ENV)
        # Indexes of an array run at the same time: each keeps its own.
        checkpoint = f"{self.job_dir}/checkpoint" + (f"/{index}" if index else "")
        ours = {
            "MASTER_ADDR": head,
            "MASTER_PORT": port,
            "NNODES": nodes,
            "NODE_RANK": rank,
            "NPROC_PER_NODE": str(here),
            "WORLD_SIZE": str(self.gang.nodes * here),
            # torchrun reads its options from these.
            "PET_NNODES": nodes,
            "PET_NODE_RANK": rank,
            "PET_NPROC_PER_NODE": str(here),
            "PET_MASTER_ADDR": head,
            "PET_MASTER_PORT": port,
            "RAY_HEAD_ADDRESS": f"{head}:{port}",
            "TRAMONTANE_JOB": str(self.launch.get("job_id", "")),
            ATTEMPT_ENV: self.attempt_id,
            "TRAMONTANE_ATTEMPT_NUMBER": str(self.launch.get("number", 1)),
            "TRAMONTANE_CHECKPOINT_DIR": checkpoint,
            "TRAMONTANE_HEARTBEAT_FILE": self.heartbeat,
        }
        return {**dict(self.launch["env"]), **_inherited(dict(self.launch["env"])), **ours}

    def _watch(self) -> tuple[str, str | None]:
        """Wait until the command ended or has to end; return what became of it, and why."""
        started_at = time.monotonic()
        limit_s, hang_s = self.launch["time_limit_s"], self.launch["hang_after_s"]
        marks_at = 0.0
        while True:
            next_s = min(LOOK_EVERY_S, (hang_s or 60) / HANG_LOOKS)
            asleep_at = time.monotonic()
            pause_s = max(0.0, min(next_s, started_at + limit_s - asleep_at))
            seen = signal.sigtimedwait(AWAITED, pause_s)
            stopped_s = time.monotonic() - asleep_at - pause_s
            if stopped_s > STOPPED_S:  # it counts neither as time used nor as a time of silence
                started_at += stopped_s
                self._unmoved = Lasting()
            self.child.reap()
            if (code := self.child.status) is not None:
                self.exit_code = code
                if code and was_asked(code, seen.si_signo if seen else None):
                    return CANCELLED, "ended as asked"
                told = explain(f"the command {described(code)}", self.log, self.launch["secret"])
                return (FAILED, told) if code else (SUCCEEDED, None)
            if seen is not None and seen.si_signo in ASKED:
                if seen.si_signo == signal.SIGINT:
                    self._grace_s = min(self._grace_s, TERM_GRACE_S)
                poster = self._report.poster
                is_unwanted = poster is not None and poster.is_unwanted
                return CANCELLED, "it is not wanted any more" if is_unwanted else "ended as asked"
            now = time.monotonic()
            if now - started_at >= limit_s:
                return TIMED_OUT, self._explained(f"its time limit of {limit_s} s is over")
            self._cap_log()
            if hang_s and self.gang.is_first and now - marks_at >= hang_s / HANG_LOOKS:
                marks_at = now
                if self._is_stuck(hang_s):
                    return FAILED, self._explained(f"no progress for {hang_s} s")
            if now - self._report.written_at >= REPORT_EVERY_S:
                self.report()

    def _explained(self, headline: str) -> str:
        return explain(headline, self.log, self.launch["secret"])

    def _is_stuck(self, hang_s: float) -> bool:
        """Tell whether neither the heartbeat nor any node's log has changed for too long."""
        marks: list[object] = []
        with contextlib.suppress(OSError):
            marks.append(os.stat(self.heartbeat).st_mtime_ns)
        with contextlib.suppress(OSError), os.scandir(self.run_dir) as entries:
            for entry in entries:
                if entry.name.startswith("log."):
                    marks.append((entry.name, entry.stat(follow_symlinks=False).st_size))
        marks.sort(key=str)
        is_same, self._marks = tuple(marks) == self._marks, tuple(marks)
        return self._unmoved.held_s(is_so=is_same) >= hang_s

    def _cap_log(self) -> None:
        if moved := cap_log(self.log, LOG_BYTES_MAX):
            self.log_begin += moved
            with contextlib.suppress(OSError):
                # Whoever reads by offset counts from the first byte ever written.
                replace_file(f"{self.log}.begin", str(self.log_begin).encode())
                with open(self.log, "ab") as file:
                    older = os.path.basename(self.log) + ".1"
                    file.write(f"[tramontane: what came before is in {older}]\n".encode())

    def _end(self) -> None:
        self.run_state = "draining" if self.child.status is None else self.run_state
        self.report()
        self.child.end_all(self._tick, self._grace_s, frozenset({signal.SIGINT}))
        self.exit_code = self.child.status if self.exit_code is None else self.exit_code

    def _tick(self) -> None:
        self._cap_log()
        if time.monotonic() - self._report.written_at >= REPORT_EVERY_S:
            self.report()

    def _status(self) -> int:
        """Return the status that srun or a shell is to see: the command's where it has one."""
        if self.outcome == SUCCEEDED:
            return 0
        if self.outcome == TIMED_OUT:
            return _STATUS_TIMED_OUT
        if self.outcome == CANCELLED:
            return 128 + signal.SIGTERM
        code = self.exit_code or _STATUS_BROKEN
        return code if code > 0 else 128 - code


def _inherited(wished: dict[str, str]) -> dict[str, str]:
    """Return what the command gets of our environment: all, but what its own replaces.

    What marks it as ours is never replaced: by it, processes are found again.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name not in wished or name.startswith("TRAMONTANE_")
    }
