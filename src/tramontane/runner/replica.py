"""One engine's life under its runner: start it once, report, drain, end it with all it started."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from typing import Any, Final

from tramontane.runner import engine, gang
from tramontane.runner.child import ASKED, AWAITED, Child, was_asked
from tramontane.runner.linux import described, stat_fields
from tramontane.runner.output import cap_log, explain, say, tail_lines
from tramontane.runner.report import REPORT_EVERY_S, Report
from tramontane.runner.timing import Lasting

BUSY_TICKS: Final = 10  # of processor time between two looks: 5 % of a core and more is work
BUSY_PATIENCE: Final = 20  # times longer: with too many callers it may be silent while it works
QUIET_S: Final = 1.0  # no load for so long: nothing is on its way to the engine any more
DRAIN_POLL_S: Final = 0.25
PORT_TRIES_MAX: Final = 5  # one loss of a port to another process is already unlikely
LOG_BYTES_MAX: Final = 8 << 20  # of engine.log, and as much again of the older engine.log.1
HOME_GONE_S: Final = 5.0  # longer than a remount takes
REPEAT_S: Final = 2.0  # Slurm may deliver one SIGTERM by two ways
ADVICE_LINES: Final = 5  # a missing module is the last that an interpreter complains of
FOLLOW_S: Final = 10.0  # after a drain at its limit: until the first node has ended

SECRET_ENV: Final = "TRAMONTANE_REPLICA_SECRET"  # noqa: S105 (a name, not a secret)
REPLICA_ENV: Final = "TRAMONTANE_REPLICA"

_PLACES: Final = re.compile(r"\{(?:python|host|port|head|head_port|rank)\}")
_NO_MODULE: Final = re.compile(r"No module named '?(tramontane|vllm|xllamacpp)\b")
_TAKEN: Final = re.compile(r"address already in use|couldn't bind|EADDRINUSE", re.IGNORECASE)


class ReplicaRun:
    """The run of one replica, on its only or its first node."""

    argv_field = "argv"

    def __init__(self, args: argparse.Namespace, gang_: gang.Gang) -> None:
        self.replica_id, self.run_dir, self.host = args.replica, args.run_dir, args.host
        self.is_own_host: bool = args.is_own_host
        self.gang = gang_
        self.python = args.python or sys.executable
        self.report_url = args.report_url
        self.is_on_cluster = bool(args.claim)
        self.repeat_s = REPEAT_S if args.claim else 0.0
        self.engine_log = f"{self.run_dir}/{_log_name(gang_.rank)}"
        self.health_lost_s = args.health_lost_s
        self.child = Child(is_shielded=bool(args.claim))
        self.run_state = "starting"
        self.reason: str | None = None
        self.launch: dict[str, Any] = {}
        self.secret = ""
        self.port = 0
        self.requests: tuple[int | None, int | None] = (None, None)
        self.is_asked_to_end = False
        self.ticks = 0  # of the engine's processor time
        self.still, self.silent = Lasting(), Lasting()
        self.quiet, self.draining, self.homeless = Lasting(), Lasting(), Lasting()
        self._asked_at = 0.0
        name = gang.report_name(gang_.rank)
        self._report = Report(self.run_dir, name, "replica_id", self.replica_id)

    def run(self, text: str) -> int:
        """Start what ``text`` (the launch specification) says and see it through to its end."""
        try:
            self.launch = json.loads(text)
            self.secret = dict(self.launch["env"]).get(SECRET_ENV, "")
            self._begin_posting()
            self.is_asked_to_end = not self.gang.meet()
            self.reason = "ended as asked"
            for _ in range(0 if self.is_asked_to_end else PORT_TRIES_MAX):
                self._start_engine()
                self.reason = self._watch()
                if self.run_state != "draining" and not self.is_asked_to_end:
                    headline = self.reason + self._advice()
                    self.reason = explain(headline, self.engine_log, self.secret)
                self._end_all()
                served = self.run_state != "starting"
                is_last = served or self.is_asked_to_end or self.gang.nodes > 1
                if is_last or not _TAKEN.search(self.reason):
                    break
                say(f"port {self.port} was taken by another process, trying a new one")
        except (KeyError, TypeError, ValueError, OSError) as error:
            self.reason = f"launch.json cannot be carried out: {type(error).__name__}: {error}"
            self._end_all()
        was_asked = self.is_asked_to_end or self._asked_at > 0
        self.run_state, self.requests = "exited", (None, None)
        say(f"ended: {(self.reason or '').splitlines()[0]}")
        self._report.write_last(self._news(), may_give_up=self.homeless.since is not None)
        # With another status than 0, srun ends the other nodes too.
        return 0 if self.gang.nodes == 1 or was_asked else 1

    def report(self, *, strict: bool = False) -> bool:
        """Write the report as things are now; tell whether that worked."""
        return self._report.write(self._news(), strict=strict)

    def _news(self) -> dict[str, Any]:
        is_serving = self.run_state in {"ready", "draining"}
        return {
            "engine_pid": self.child.pid,
            "run_state": self.run_state,
            "address": engine.address_of(self.host, self.port) if is_serving else None,
            "reason": self.reason if self.run_state == "exited" else None,
            "requests_running": self.requests[0],
            "requests_waiting": self.requests[1],
        }

    def _begin_posting(self) -> None:
        if self.report_url and self.gang.is_first:
            from tramontane.runner.post import Poster  # noqa: PLC0415 (4 MB, for it alone)

            source = self.host if self.is_own_host else None
            self._report.poster = Poster(self.report_url, self.replica_id, self.secret, source)

    def _start_engine(self) -> None:
        self.port = engine.free_port(self.host)
        known = {
            "{python}": self.python,
            "{host}": self.host,
            "{port}": str(self.port),
            "{head}": self.gang.head[0],
            "{head_port}": str(self.gang.head[1]),
            "{rank}": str(self.gang.rank),
        }
        argv = [*self.launch.get("prefix", ()), *self.launch[self.argv_field]]
        argv = [_PLACES.sub(lambda place: known[place[0]], item) for item in argv]
        env = {**os.environ, **dict(self.launch["env"]), REPLICA_ENV: self.replica_id}
        env = {name: _PLACES.sub(lambda place: known[place[0]], env[name]) for name in env}
        log = os.open(self.engine_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
        pid = self.child.start(argv, env, log, self.run_dir)
        os.close(log)
        say(f"started engine {pid} on port {self.port}")
        self.report()

    def _watch(self) -> str:
        """Wait until the engine ended or has to end; return why."""
        started_at = next_look_at = time.monotonic()
        while True:
            seen = signal.sigtimedwait(AWAITED, max(0.0, next_look_at - time.monotonic()))
            self.child.reap()
            if (code := self.child.status) is not None:
                if self.repeat_s and was_asked(code, seen.si_signo if seen else None):
                    self.is_asked_to_end = True
                    return "ended as asked"
                return f"engine {described(code)}"
            now = time.monotonic()
            if seen is not None and seen.si_signo in ASKED:
                self._ask(seen.si_signo)
                if self.is_asked_to_end:
                    poster = self._report.poster
                    is_unwanted = poster is not None and poster.is_unwanted
                    return "it is not wanted any more" if is_unwanted else "ended as asked"
                next_look_at = now
            if now < next_look_at:
                continue
            if self.run_state == "starting":
                reason, pause_s = self._look_starting(now - started_at), (now - started_at) / 10
            elif self.run_state == "ready":
                reason, pause_s = self._look_ready(), REPORT_EVERY_S
            else:
                reason, pause_s = self._look_draining(), DRAIN_POLL_S
            reason = reason or self._broken()
            if reason is not None:
                return reason
            next_look_at = now + min(REPORT_EVERY_S, max(0.05, pause_s))
            if self._report.is_due:
                self.report()
                cap_log(self.engine_log, LOG_BYTES_MAX)

    def _advice(self) -> str:
        """Return what an operator can do about a cluster's Python that lacks the engine."""
        is_missing = _NO_MODULE.search("\n".join(tail_lines(self.engine_log, ADVICE_LINES)))
        if not self.is_on_cluster or not is_missing:
            return ""
        return f" ({self.python} lacks the engine: name its environment, venv in the settings)"

    def _ask(self, signum: int) -> None:
        """Begin to drain or to end; what does not serve yet has nothing to drain."""
        now = time.monotonic()
        first_at = self._asked_at or now
        self._asked_at = first_at
        if self.run_state == "ready" and signum != signal.SIGINT:
            self.run_state = "draining"
            say("draining")
            self.report()
        elif self.run_state == "draining" and signum == signal.SIGTERM:
            self.is_asked_to_end = now - first_at >= self.repeat_s
        elif self.run_state != "draining" or signum != signal.SIGUSR1:
            self.is_asked_to_end = True

    def _broken(self) -> str | None:
        """Return why another node's end is the end of this one."""
        return self.gang.broken()

    def _look_starting(self, elapsed_s: float) -> str | None:
        is_open = self._get("")[0] is not None
        if is_open and not engine.owns_port(self.child.pid, self.port):
            return f"address already in use: another process answers on port {self.port}"
        if is_open and self._is_healthy():
            self.run_state = "ready"
            say(f"ready after {elapsed_s:.2f} s")
            self._look_at_load()
            self.report()
        elif elapsed_s > self.launch["ready_timeout_s"]:
            return f"did not become healthy within {self.launch['ready_timeout_s']} s"
        return None

    def _look_ready(self) -> str | None:
        home = os.path.dirname(self.run_dir)
        is_silent = not self._is_healthy()
        stat = stat_fields(self.child.pid or 0) or []
        before, self.ticks = self.ticks, sum(map(int, stat[11:13]))
        is_dead = is_silent and self.ticks - before < BUSY_TICKS
        still_s = self.still.held_s(is_so=is_dead)
        silent_s = self.silent.held_s(is_so=is_silent)
        if still_s >= self.health_lost_s or silent_s >= self.health_lost_s * BUSY_PATIENCE:
            return f"gave no healthy answer for {silent_s:.0f} s"
        if self.homeless.held_s(is_so=not os.path.isdir(home)) >= HOME_GONE_S:
            return f"its home was removed: {home} is gone"
        if not is_silent:
            self._look_at_load()
        return None

    def _look_draining(self) -> str | None:
        self._look_at_load()
        is_quiet = self.launch["load"] is None or self.requests == (0, 0)
        if self.quiet.held_s(is_so=is_quiet) >= QUIET_S:
            return "drained and ended as asked"
        if self.draining.held_s(is_so=True) >= self.launch["drain_timeout_s"]:
            running, waiting = ("?" if count is None else count for count in self.requests)
            return f"ended as asked, cutting {running} running and {waiting} waiting requests"
        return None

    def _look_at_load(self) -> None:
        if probe := self.launch["load"]:
            page = self._get(probe["path"])[1]
            running = engine.read_series(page, probe["running_series"])
            self.requests = (running, engine.read_series(page, probe["waiting_series"]))

    def _is_healthy(self) -> bool:
        return self._get(self.launch["health_path"])[0] == 200

    def _get(self, path: str) -> tuple[int | None, str]:
        return engine.get(self.host, self.port, path, self.secret)

    def _end_all(self) -> None:
        self.run_state = "starting" if self.run_state == "starting" else "draining"
        self.child.end_all(self._tick, deaf_s=self.repeat_s)

    def _tick(self) -> None:
        if time.monotonic() - self._report.written_at >= REPORT_EVERY_S:
            self.report()


class WorkerRun(ReplicaRun):
    """The run of a replica on one of its further nodes: it is healthy while it lives.

    It serves the first node, so that a request to drain waits for that one's end.
    """

    argv_field = "worker_argv"

    def _look_starting(self, elapsed_s: float) -> str | None:
        self.run_state = "ready"
        say(f"node {self.gang.rank} of {self.gang.nodes} works after {elapsed_s:.2f} s")
        self.report()
        return None

    def _look_ready(self) -> str | None:
        return None

    def _look_draining(self) -> str | None:
        limit_s = self.launch["drain_timeout_s"] + FOLLOW_S
        is_late = self.draining.held_s(is_so=True) >= limit_s
        return "ended as asked, before the first node" if is_late else None

    def _broken(self) -> str | None:
        if not self.gang.is_over():
            return None
        self._asked_at = self._asked_at or time.monotonic()
        return "the first node has ended"


def _log_name(rank: int) -> str:
    return f"engine.{rank}.log" if rank else "engine.log"
