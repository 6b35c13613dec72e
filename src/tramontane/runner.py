"""The runner: supervises one replica's engine on the machine where it runs.

It starts the engine once, waits until it is healthy, writes ``report.json`` every two seconds,
drains when asked and ends every process that the engine left behind. It knows no database and no
network but the engine's own port, needs only the standard library and is one file, so that it can
be copied to any node. It must never start a replica id twice and never outlive its purpose: a
killed runner takes its engine with it (PR_SET_PDEATHSIG, see prctl(2); an engine that executes a
set-user-id program would escape that, and `drivers/process.py` would then end it).
"""
# No pathlib: it costs 2 MB of memory, and there is a runner beside every engine.
# ruff: noqa: PTH100, PTH102, PTH105, PTH110, PTH115, PTH116, PTH120, PTH123, PTH208

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final

REPORT_EVERY_S: Final = 2.0  # also how often health and load are asked for
REPLY_TIMEOUT_S: Final = 2.0  # a healthy engine answers both in milliseconds
REPLY_BYTES_MAX: Final = 4 << 20  # vLLM's metrics page has a few hundred kB
HEALTH_LOST_S: Final = 30.0  # a hung GPU call seldom comes back after that long
QUIET_S: Final = 1.0  # no load for so long: nothing is on its way to the engine any more
DRAIN_POLL_S: Final = 0.25
TERM_GRACE_S: Final = 5.0  # between SIGTERM and SIGKILL
PORT_TRIES_MAX: Final = 5  # each loss of a port to another process is already unlikely
LOG_BYTES_MAX: Final = 8 << 20  # of engine.log, and as much again of the older engine.log.1
REASON_LINES_MAX: Final = 20
REASON_BYTES_MAX: Final = 4096
HOME_GONE_S: Final = 10.0  # longer than a remount takes
LAST_REPORT_TRIES_MAX: Final = 20  # half a second apart: a full disk may get room again

SECRET_ENV: Final = "TRAMONTANE_REPLICA_SECRET"  # noqa: S105 (a name, not a secret)
REPLICA_ENV: Final = "TRAMONTANE_REPLICA"

# Exit statuses of sysexits.h.
EX_NOINPUT: Final = 66
EX_SOFTWARE: Final = 70
EX_CANTCREAT: Final = 73

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_ASKED: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
_AWAITED: Final = {*_ASKED, signal.SIGCHLD}
_LISTENING: Final = "0A"  # the state column of /proc/net/tcp
_TAKEN: Final = re.compile(r"address already in use|couldn't bind|EADDRINUSE", re.IGNORECASE)
_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f]"
)
_DESCRIPTION: Final = """\
Supervise one engine process: start it once, report, drain, end it with all it started.

Reads RUN_DIR/launch.json; writes report.json, engine.log and runner.log there. The file "lock"
is held while it runs: a second runner of the same directory starts nothing and exits 0, as does
one that finds a report of an earlier run."""
_SIGNALS: Final = """\
signals:
  SIGUSR1          drain: finish what the engine has, then end it; may be sent again
  SIGTERM          the same; a second one ends the engine now
  SIGINT           end the engine now (SIGTERM to its group, SIGKILL after 5 s)

exit status: 0 the engine ran and ended, or an earlier run was found; 66 no launch.json;
73 the report could not be written, nothing was started."""


def main(argv: list[str]) -> int:
    """Run the runner with command-line arguments ``argv``; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="runner.py",
        description=_DESCRIPTION,
        epilog=_SIGNALS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run-dir", required=True, help="directory of this replica")
    parser.add_argument("--replica", required=True, help="id of the replica, rep_...")
    parser.add_argument("--host", default="127.0.0.1", help="address that the engine listens on")
    parser.add_argument(
        "--survive", action="store_true", help="outlive the process that started it"
    )
    parser.add_argument(
        "--detach",
        action="store_true",
        help="go to the background; returns once the first report is on disk (implies --survive)",
    )
    parser.add_argument(
        "--health-lost-s",
        type=float,
        default=HEALTH_LOST_S,
        help="end an engine that does not answer for so many seconds (default %(default)g)",
    )
    args = parser.parse_args(argv)
    os.umask(0o077)
    run_dir = os.path.abspath(args.run_dir)
    if not args.detach:
        return _run(args, run_dir, _say)
    return _detach(args, run_dir)


def start_ticks(pid: int) -> int | None:
    """Return when ``pid`` started, in clock ticks since boot; None when it is no more.

    Together with the pid this names a process for ever (field 22 of /proc/PID/stat, proc(5)).
    """
    fields = stat_fields(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def stat_fields(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the command's name, or None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().decode(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def tail_lines(path: str, lines_max: int, bytes_max: int = 1 << 16) -> list[str]:
    """Return the last lines of a log, without escape sequences; empty when there is no log."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - bytes_max))
            text = file.read(bytes_max).decode(errors="replace")
    except OSError:
        return []
    lines = (_ESCAPES.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in text.split("\n"))
    return [line.rstrip() for line in lines if line.strip()][-lines_max:] if lines_max > 0 else []


def read_series(page: str, name: str) -> int | None:
    """Return the sum of a series over its labels on a Prometheus page; None without it."""
    total: float | None = None
    for line in page.splitlines():
        rest = line[len(name) :]
        if line.startswith(name) and rest[:1] in {" ", "{"}:
            try:
                total = (total or 0) + float(rest.rpartition("}")[2].split()[0])
            except (ValueError, IndexError):
                return None
    return None if total is None or not 0 <= total < 1 << 53 else int(total)


def _say(status: int, message: str) -> None:
    """Tell the caller how the start went."""
    if status:
        sys.stderr.write(f"runner.py: {message}\n")


def _detach(args: argparse.Namespace, run_dir: str) -> int:
    """Go on in a process of its own session; return when that one has reported or failed."""
    args.survive = True
    reader, writer = os.pipe()
    if pid := os.fork():
        os.close(writer)
        with os.fdopen(reader) as pipe:
            told = pipe.read()
        if not told:
            os.waitpid(pid, 0)
            told = f"{EX_SOFTWARE} the runner died before its first report; see runner.log"
        status, _, message = told.partition(" ")
        _say(int(status), message)
        return int(status)
    os.close(reader)
    os.setsid()

    def announce(status: int, message: str) -> None:
        with contextlib.suppress(OSError):  # nobody waits for it any more
            os.write(writer, f"{status} {message}".encode(errors="replace"))
        os.close(writer)

    try:
        log = os.open(f"{run_dir}/runner.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        announce(EX_CANTCREAT, f"cannot write {run_dir}/runner.log: {error.strerror}")
        os._exit(EX_CANTCREAT)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
        os.close(source) if target != 1 else None
    return _run(args, run_dir, announce)


def _run(args: argparse.Namespace, run_dir: str, announce: Callable[[int, str], None]) -> int:
    """Take the lock, make sure that this is the first run ever, and supervise."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        lock = os.open(f"{run_dir}/lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        announce(0, "another runner has it")
        return 0
    except OSError as error:
        announce(EX_CANTCREAT, f"cannot lock {run_dir}/lock: {error.strerror}")
        return EX_CANTCREAT
    if os.path.exists(f"{run_dir}/report.json"):
        announce(0, "it already ran")
        return 0
    try:
        with open(f"{run_dir}/launch.json", encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        announce(EX_NOINPUT, f"cannot read {run_dir}/launch.json: {error.strerror}")
        return EX_NOINPUT
    supervisor = _Supervisor(args.replica, run_dir, args.host, args.health_lost_s)
    try:
        supervisor.report(strict=True)
    except OSError as error:
        announce(EX_CANTCREAT, f"cannot write {run_dir}/report.json: {error.strerror}")
        return EX_CANTCREAT
    announce(0, "started")
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if not args.survive:
        parent = os.getppid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:  # it died before the request took effect
            signal.raise_signal(signal.SIGINT)
    supervisor.run(text)
    return 0


class _Supervisor:
    """One engine's life. Single-threaded: PR_SET_PDEATHSIG follows the thread, not the process."""

    def __init__(self, replica_id: str, run_dir: str, host: str, health_lost_s: float) -> None:
        self.replica_id = replica_id
        self.run_dir = run_dir
        self.host = host
        self.health_lost_s = health_lost_s
        self.run_state = "starting"
        self.reason: str | None = None
        self.launch: dict[str, Any] = {}
        self.secret = ""
        self.port = 0
        self.engine_pid: int | None = None
        self.engine_status: int | None = None  # as waitpid(2) gives it, once the engine ended
        self.requests: tuple[int | None, int | None] = (None, None)
        self.lost_since: float | None = None  # the first failed health check in a row
        self.home_lost_since: float | None = None
        self.drain_ends_at = 0.0
        self.quiet_since: float | None = None
        self.reported_at = 0.0
        self.is_told_of_disk = False

    def run(self, text: str) -> None:
        """Start what ``text`` (the launch specification) says and see it through to its end."""
        try:
            self.launch = json.loads(text)
            self.secret = dict(self.launch["env"]).get(SECRET_ENV, "")
            for _ in range(PORT_TRIES_MAX):
                self._start_engine()
                self.reason = self._watch()
                self._end_all()
                if self.run_state != "starting" or not self._has_lost_port():
                    break
                _log(f"port {self.port} was taken by another process, trying a new one")
        except (KeyError, TypeError, ValueError, OSError) as error:
            self.reason = f"launch.json cannot be carried out: {type(error).__name__}: {error}"
            self._end_all()
        self.run_state = "exited"
        self.requests = (None, None)
        _log(f"ended: {(self.reason or '').partition(chr(10))[0]}")
        for _ in range(LAST_REPORT_TRIES_MAX):
            if self.report():
                break
            time.sleep(0.5)

    def report(self, *, strict: bool = False) -> bool:
        """Replace ``report.json`` and tell whether that worked (a full disk must not stop it)."""
        now = time.monotonic()
        self.reported_at = now
        text = json.dumps(
            {
                "replica_id": self.replica_id,
                "pid": os.getpid(),
                "start_ticks": start_ticks(os.getpid()),
                "engine_pid": self.engine_pid,
                "run_state": self.run_state,
                "address": f"{self.host}:{self.port}" if self.run_state != "starting" else None,
                "reason": self.reason if self.run_state == "exited" else None,
                "requests_running": self.requests[0],
                "requests_waiting": self.requests[1],
                "at_ms": time.time_ns() // 1_000_000,
            }
        )
        try:
            _replace_file(f"{self.run_dir}/report.json", text.encode())
        except OSError as error:
            if strict:
                raise
            if not self.is_told_of_disk:
                _log(f"cannot write report.json: {error.strerror}; going on without")
            self.is_told_of_disk = True
            if isinstance(error, FileNotFoundError):
                self._make_run_dir(now)
            return False
        self.is_told_of_disk = False
        self.home_lost_since = None
        return True

    def _make_run_dir(self, now: float) -> None:
        """Make a removed run directory anew: its report is how this runner is found."""
        try:
            os.mkdir(self.run_dir, 0o700)
        except FileNotFoundError:
            self.home_lost_since = self.home_lost_since or now
        except OSError:
            return

    def _start_engine(self) -> None:
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = probe.getsockname()[1]
        argv = [self._fill(item) for item in self.launch["argv"]]
        added = {name: self._fill(value) for name, value in self.launch["env"]}
        env = {**os.environ, **added, REPLICA_ENV: self.replica_id}
        log = os.open(
            f"{self.run_dir}/engine.log",
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC,
            0o600,
        )
        parent = os.getpid()
        self.engine_status = None
        self.engine_pid = os.fork()
        if self.engine_pid == 0:
            _become_engine(argv, env, log, self.run_dir, parent)
        os.close(log)
        _log(f"started engine {self.engine_pid} on port {self.port}")
        self.report()

    def _fill(self, text: str) -> str:
        filled = text.replace("{python}", sys.executable).replace("{host}", self.host)
        return filled.replace("{port}", str(self.port))

    def _watch(self) -> str:
        """Wait until the engine ended or has to end; return why."""
        started_at = time.monotonic()
        next_look_at = started_at
        while True:
            pause_s = max(0.0, next_look_at - time.monotonic())
            seen = signal.sigtimedwait(_AWAITED, pause_s)
            self._reap()
            if self.engine_status is not None:
                return self._with_last_lines(_describe_status(self.engine_status))
            if seen is not None and seen.si_signo in _ASKED:
                if reason := self._ask(seen.si_signo):
                    return reason
                next_look_at = time.monotonic()
            now = time.monotonic()
            if now < next_look_at:
                continue
            if self.run_state == "starting":
                reason = self._look_starting(now - started_at)
                next_look_at = now + min(1.0, max(0.05, (now - started_at) / 10))
            elif self.run_state == "ready":
                reason = self._look_ready(now)
                next_look_at = now + REPORT_EVERY_S
            else:
                reason = self._look_draining()
                next_look_at = now + DRAIN_POLL_S
            if reason is not None:
                return reason
            if time.monotonic() - self.reported_at >= REPORT_EVERY_S - 0.1:
                self.report()
                self._cap_log()

    def _ask(self, signum: int) -> str | None:
        """Begin to drain, or return the reason to end at once."""
        if self.run_state == "draining" and signum == signal.SIGUSR1:
            return None
        if self.run_state != "ready" or signum == signal.SIGINT:
            return "ended as asked"
        self.run_state = "draining"
        self.drain_ends_at = time.monotonic() + float(self.launch["drain_timeout_s"])
        _log("draining")
        self.report()
        return None

    def _look_starting(self, elapsed_s: float) -> str | None:
        limit_s = self.launch["ready_timeout_s"]
        if self._is_port_open():
            if not self._owns_port():
                return self._with_last_lines(f"another process answers on port {self.port}")
            if self._get(self.launch["health_path"])[0] == 200:
                self.run_state = "ready"
                _log(f"ready after {elapsed_s:.2f} s")
                self._look_at_load()
                self.report()
                return None
        if elapsed_s > limit_s:
            return self._with_last_lines(f"did not become healthy within {limit_s} s")
        return None

    def _look_ready(self, now: float) -> str | None:
        path = self.launch["health_path"]
        if self._get(path)[0] == 200:
            self.lost_since = None
            self._look_at_load()
            self.report()
        elif self.lost_since is None:
            self.lost_since = now
        elif now - self.lost_since >= self.health_lost_s:
            lost = f"did not answer GET {path} for {self.health_lost_s:g} s"
            return self._with_last_lines(lost)
        if self.home_lost_since is not None and now - self.home_lost_since >= HOME_GONE_S:
            return f"its home was removed: {os.path.dirname(self.run_dir)} is gone"
        return None

    def _look_draining(self) -> str | None:
        self._look_at_load()
        now = time.monotonic()
        has_probe = self.launch["load"] is not None
        if has_probe and self.requests != (0, 0):
            self.quiet_since = None
        else:
            self.quiet_since = self.quiet_since or now
            if now - self.quiet_since >= QUIET_S:
                return "drained and ended as asked"
        if now >= self.drain_ends_at:
            left = sum(count or 0 for count in self.requests)
            return (
                f"ended as asked with {left} requests left after {self.launch['drain_timeout_s']} s"
            )
        return None

    def _look_at_load(self) -> None:
        probe = self.launch["load"]
        if probe is None:
            return
        status, page = self._get(probe["path"])
        if status == 200:
            running = read_series(page, probe["running_series"])
            self.requests = (running, read_series(page, probe["waiting_series"]))
        else:
            self.requests = (None, None)

    def _is_port_open(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), REPLY_TIMEOUT_S).close()
        except OSError:
            return False
        return True

    def _owns_port(self) -> bool:
        """Tell whether the engine itself listens: the secret is for no other process."""
        inodes: set[str] = set()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            try:
                with open(table, encoding="ascii") as file:
                    rows = [line.split() for line in file]
            except OSError:
                continue
            inodes |= {
                f"socket:[{row[9]}]"
                for row in rows[1:]
                if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == self.port
            }
        return any(inodes & _open_files(pid) for pid in _descendants(os.getpid()))

    def _get(self, path: str) -> tuple[int | None, str]:
        """GET ``path`` of the engine: status (None when there was no answer) and body."""
        head = f"GET {path} HTTP/1.0\r\nHost: {self.host}\r\n"
        ask = f"{head}Authorization: Bearer {self.secret}\r\n\r\n"
        ends_at = time.monotonic() + REPLY_TIMEOUT_S
        reply = b""
        try:
            with socket.create_connection((self.host, self.port), REPLY_TIMEOUT_S) as connection:
                connection.sendall(ask.encode())
                while len(reply) < REPLY_BYTES_MAX:
                    connection.settimeout(max(0.01, ends_at - time.monotonic()))
                    chunk = connection.recv(1 << 16)
                    if not chunk:
                        break
                    reply += chunk
            head, _, body = reply.partition(b"\r\n\r\n")
            return int(head.split(None, 2)[1]), body.decode(errors="replace")
        except (OSError, ValueError, IndexError):
            return None, ""

    def _has_lost_port(self) -> bool:
        text = "\n".join(tail_lines(f"{self.run_dir}/engine.log", REASON_LINES_MAX))
        return bool(_TAKEN.search(text)) or "another process answers" in (self.reason or "")

    def _with_last_lines(self, headline: str) -> str:
        """Return ``headline`` and the engine's last lines, without its secret."""
        text = "\n".join(tail_lines(f"{self.run_dir}/engine.log", REASON_LINES_MAX))
        if self.secret:
            text = text.replace(self.secret, "***")
        room = REASON_BYTES_MAX - len(headline.encode()) - 2
        text = text.encode()[-room:].decode(errors="ignore")
        return f"{headline}:\n{text}" if text else headline

    def _cap_log(self) -> None:
        """Keep engine.log below its limit; the engine holds it open in append mode."""
        path = f"{self.run_dir}/engine.log"
        try:
            if os.stat(path).st_size <= LOG_BYTES_MAX:
                return
            with open(path, "r+b") as file:
                file.seek(-LOG_BYTES_MAX, os.SEEK_END)
                kept = file.read(LOG_BYTES_MAX)
                file.truncate(0)
            _replace_file(f"{path}.1", kept)
        except OSError as error:
            _log(f"cannot shorten engine.log: {error.strerror}")

    def _reap(self) -> bool:
        """Collect ended children; tell whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.engine_pid:
                self.engine_status = status

    def _end_all(self) -> None:
        """End the engine and whatever it started, and return only when all of it is gone.

        Its capacity is free only then, so a process that the kernel cannot end (a device call
        that hangs) keeps this waiting. Whoever loses its parent becomes a child of this process
        (PR_SET_CHILD_SUBREAPER), so killing children again and again reaches everything.
        """
        kills_at = time.monotonic() + TERM_GRACE_S
        if self.engine_pid and self.engine_status is None:
            for signum in (signal.SIGTERM, signal.SIGCONT):
                _kill(os.killpg, self.engine_pid, signum)
        while self._reap():
            now = time.monotonic()
            if self.engine_status is not None or now >= kills_at:
                for pid in _children(os.getpid()):
                    _kill(os.kill, pid, signal.SIGKILL)
            # SIGCHLD ends the pause early, and so does a request to hurry up.
            seen = signal.sigtimedwait(_AWAITED, 0.1 if now < kills_at + 1 else 1.0)
            if seen is not None and seen.si_signo in {signal.SIGINT, signal.SIGTERM}:
                kills_at = now
            if now - self.reported_at >= REPORT_EVERY_S:
                self.report()


def _become_engine(argv: list[str], env: dict[str, str], log: int, cwd: str, parent: int) -> None:
    """Turn this forked child into the engine; never returns."""
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(cwd)
        for signum in (signal.SIGHUP, signal.SIGPIPE, signal.SIGINT):
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("500")  # short of memory, an engine goes before the control plane
        os.execvpe(argv[0], argv, env)  # noqa: S606 (an argument list, never a shell)
    except (OSError, ValueError) as error:
        os.write(2, f"cannot start {argv[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _replace_file(path: str, data: bytes) -> None:
    """Replace ``path`` at once and as a whole; a reader sees the old or the new file."""
    with open(f"{path}.tmp", "wb") as file:
        file.write(data)
    os.replace(f"{path}.tmp", path)


def _describe_status(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"engine exited with status {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    hint = " (the machine may be out of memory)" if -code == signal.SIGKILL else ""
    return f"engine was killed by {name}{hint}"


def _kill(kill: Callable[[int, int], None], target: int, signum: int) -> None:
    try:
        kill(target, signum)
    except (ProcessLookupError, PermissionError):
        return


def _children(pid: int) -> list[int]:
    fields = {int(name): stat_fields(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return [child for child, stat in fields.items() if stat is not None and int(stat[1]) == pid]


def _descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := stat_fields(int(name))) is not None:
            parents.setdefault(int(stat[1]), []).append(int(name))
    found = list(parents.get(root, []))
    for pid in found:
        found.extend(parents.get(pid, []))
    return found


def _open_files(pid: int) -> set[str]:
    try:
        return {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    except OSError:
        return set()


def _log(message: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
