"""Supervise one engine process: start it once, report, drain, end it with all that it started.

Reads RUN_DIR/launch.json, writes report.json (every 2 s), engine.log and runner.log there. It
holds the file "lock" while it runs: a second runner of the directory starts nothing and exits 0,
and so does one that finds the report of an earlier run. A killed runner takes its engine with it.

signals:
  SIGUSR1   drain: let the engine finish what it has, then end it; may be sent again
  SIGTERM   the same; a second one ends the engine now
  SIGINT    end the engine now: SIGTERM to its group, SIGKILL after 5 s

exit status: 0 the engine ran and ended, or had run before; 66 there is no launch.json;
70 it died early; 73 the report could not be written, so nothing was started.
"""

# One file of the standard library only, so that it can be copied to any node. No pathlib: it costs
# 2 MB, and there is one runner per engine. What escapes PR_SET_PDEATHSIG, the driver ends.
# ruff: noqa: PTH102, PTH105, PTH110, PTH112, PTH115, PTH116, PTH120, PTH123, PTH208
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
from collections.abc import Callable, Iterator
from typing import Any, Final

REPORT_EVERY_S: Final = 2.0  # also how often health and load are asked for
REPLY_TIMEOUT_S: Final = 2.0  # a healthy engine answers both in milliseconds
REPLY_BYTES_MAX: Final = 4 << 20  # vLLM's metrics page has a few hundred kB
HEALTH_LOST_S: Final = 30.0  # a hung device call seldom comes back after that long
BUSY_TICKS: Final = 10  # of processor time between two looks: 5 % of a core and more is work
BUSY_PATIENCE: Final = 20  # times longer: with too many callers it may be silent while it works
QUIET_S: Final = 1.0  # no load for so long: nothing is on its way to the engine any more
DRAIN_POLL_S: Final = 0.25
TERM_GRACE_S: Final = 5.0  # between SIGTERM and SIGKILL
PORT_TRIES_MAX: Final = 5  # one loss of a port to another process is already unlikely
LOG_BYTES_MAX: Final = 8 << 20  # of engine.log, and as much again of the older engine.log.1
REASON_LINES_MAX: Final = 20
REASON_BYTES_MAX: Final = 4096
HOME_GONE_S: Final = 5.0  # longer than a remount takes
LAST_REPORT_TRIES_MAX: Final = 20  # half a second apart: a full disk may get room again

SECRET_ENV: Final = "TRAMONTANE_REPLICA_SECRET"  # noqa: S105 (a name, not a secret)
REPLICA_ENV: Final = "TRAMONTANE_REPLICA"

_prctl: Final = ctypes.CDLL(None).prctl
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_ASKED: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
_AWAITED: Final = {*_ASKED, signal.SIGCHLD}
_PLACES: Final = re.compile(r"\{(?:python|host|port)\}")
_TAKEN: Final = re.compile(r"address already in use|couldn't bind|EADDRINUSE", re.IGNORECASE)
_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f]"
)


def main(argv: list[str]) -> int:
    """Run the runner with command-line arguments ``argv``; return its exit status."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="runner.py", description=__doc__, formatter_class=shape)
    add = parser.add_argument
    add("--run-dir", required=True, type=os.path.abspath, help="directory of this replica")
    add("--replica", required=True, help="id of the replica, rep_...")
    add("--host", default="127.0.0.1", help="address that the engine listens on")
    add("--survive", action="store_true", help="outlive the process that started it")
    add("--detach", action="store_true", help="survive; return when the first report is written")
    add("--health-lost-s", type=float, default=HEALTH_LOST_S, help="limit (default %(default)g)")
    args = parser.parse_args(argv)
    os.umask(0o077)
    return _detach(args) if args.detach else _run(args, _log)


def start_ticks(pid: int) -> int | None:
    """Return when ``pid`` started, in clock ticks since boot; None when it is no more.

    Together with the pid this names a process until the next boot (field 22 of proc(5)'s stat).
    """
    fields = stat_fields(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def stat_fields(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on, or None when it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().decode(errors="replace").rpartition(")")[2].split()
    return None


def boot_id() -> str:
    """Return the name of this boot of the machine: a pid means nothing after the next."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def tail_lines(path: str, lines_max: int, bytes_max: int = 1 << 16) -> list[str]:
    """Return the last lines of a log, without escape sequences; empty when there is no log."""
    text = ""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - bytes_max))
        text = file.read(bytes_max).decode(errors="replace")
    lines = (_ESCAPES.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in text.split("\n"))
    return [line.rstrip() for line in lines if line.strip()][-lines_max:] if lines_max > 0 else []


def explain(headline: str, log: str, secret: str) -> str:
    """Return ``headline`` and the last lines of a log, capped and without the secret."""
    text = "\n".join(tail_lines(log, REASON_LINES_MAX)).replace(secret or "\0", "***")
    room = REASON_BYTES_MAX - len(headline.encode()) - 2
    text = text.encode()[-room:].decode(errors="ignore")
    return f"{headline}:\n{text}" if text else headline


def read_series(page: str, name: str) -> int | None:
    """Return the sum of a series over its labels on a Prometheus page; None without it."""
    values = re.findall(rf"^{re.escape(name)}(?:{{.*}})?[ \t]+(\S+)", page, re.MULTILINE)
    try:
        total = sum(map(float, values))
    except ValueError:
        return None
    return int(total) if values and 0 <= total < 1 << 53 else None


def _detach(args: argparse.Namespace) -> int:
    """Go on in a process of its own session; return when that one has reported or failed."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with os.fdopen(reader) as pipe:
            told = pipe.read() or f"{os.EX_SOFTWARE} the runner died early; see runner.log"
        status, _, message = told.partition(" ")
        return _log(message, int(status))
    os.close(reader)
    os.setsid()
    args.survive = True

    def announce(message: str, status: int = 0) -> int:
        with contextlib.suppress(OSError):  # nobody waits for it any more
            os.write(writer, f"{status} {message}".encode(errors="replace"))
        os.close(writer)
        return status

    log = null = os.open(os.devnull, os.O_RDWR)
    with contextlib.suppress(OSError):  # `_run` will tell
        log = os.open(f"{args.run_dir}/runner.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    return _run(args, announce)


def _run(args: argparse.Namespace, announce: Callable[..., int]) -> int:
    """Take the lock, make sure that this is the first run ever, and supervise."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervisor = _Supervisor(args)
    try:
        lock = os.open(f"{args.run_dir}/lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(f"{args.run_dir}/report.json"):
            return announce("it already ran")
        with open(f"{args.run_dir}/launch.json", encoding="utf-8") as file:
            text = file.read()
        supervisor.report(strict=True)
    except BlockingIOError:
        return announce("another runner has it")
    except FileNotFoundError as error:
        return announce(f"{error.filename} is missing", os.EX_NOINPUT)
    except OSError as error:
        return announce(f"cannot write {args.run_dir}: {error.strerror}", os.EX_CANTCREAT)
    announce("started")
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

    def __init__(self, args: argparse.Namespace) -> None:
        self.replica_id, self.run_dir, self.host = args.replica, args.run_dir, args.host
        self.engine_log = f"{self.run_dir}/engine.log"
        self.health_lost_s = args.health_lost_s
        self.boot_id = boot_id()
        self.run_state = "starting"
        self.reason: str | None = None
        self.launch: dict[str, Any] = {}
        self.secret = ""
        self.port = 0
        self.engine_pid: int | None = None
        self.engine_status: int | None = None  # once it ended; below 0 by a signal
        self.requests: tuple[int | None, int | None] = (None, None)
        self.is_asked_to_end = False
        self.ticks = 0  # of the engine's processor time
        self.since: dict[str, float] = {}  # see `_held_s`
        self.reported_at = 0.0

    def run(self, text: str) -> None:
        """Start what ``text`` (the launch specification) says and see it through to its end."""
        try:
            self.launch = json.loads(text)
            self.secret = dict(self.launch["env"]).get(SECRET_ENV, "")
            for _ in range(PORT_TRIES_MAX):
                self._start_engine()
                self.reason = self._watch()
                if self.run_state != "draining" and not self.is_asked_to_end:
                    self.reason = explain(self.reason, self.engine_log, self.secret)
                self._end_all()
                served = self.run_state != "starting"
                if served or self.is_asked_to_end or not _TAKEN.search(self.reason):
                    break
                _log(f"port {self.port} was taken by another process, trying a new one")
        except (KeyError, TypeError, ValueError, OSError) as error:
            self.reason = f"launch.json cannot be carried out: {type(error).__name__}: {error}"
            self._end_all()
        self.run_state, self.requests = "exited", (None, None)
        _log(f"ended: {(self.reason or '').splitlines()[0]}")
        for _ in range(LAST_REPORT_TRIES_MAX):
            if self.report() or "homeless" in self.since:
                break
            time.sleep(0.5)

    def report(self, *, strict: bool = False) -> bool:
        """Replace ``report.json`` and tell whether that worked (a full disk must not stop it)."""
        self.reported_at = time.monotonic()
        is_serving = self.run_state in {"ready", "draining"}
        report = {
            "replica_id": self.replica_id,
            "pid": os.getpid(),
            "start_ticks": start_ticks(os.getpid()),
            "boot_id": self.boot_id,
            "engine_pid": self.engine_pid,
            "run_state": self.run_state,
            "address": f"{self.host}:{self.port}" if is_serving else None,
            "reason": self.reason if self.run_state == "exited" else None,
            "requests_running": self.requests[0],
            "requests_waiting": self.requests[1],
            "at_ms": time.time_ns() // 1_000_000,
        }
        try:
            _replace_file(f"{self.run_dir}/report.json", json.dumps(report).encode())
        except OSError as error:
            if strict:
                raise
            if self._held_s("unreported", is_so=True) == 0:
                _log(f"cannot write report.json: {error.strerror}; going on without")
            with contextlib.suppress(OSError):
                os.mkdir(self.run_dir, 0o700)  # if it was removed: by its report it is found
                return self.report()
            return False
        self._held_s("unreported", is_so=False)
        return True

    def _held_s(self, what: str, *, is_so: bool) -> float:
        """Return for how many seconds ``what`` has been so at each look; 0 at the first."""
        now = time.monotonic()
        if not is_so:
            self.since.pop(what, None)
        return now - self.since.setdefault(what, now) if is_so else 0.0

    def _start_engine(self) -> None:
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = probe.getsockname()[1]
        known = {"{python}": sys.executable, "{host}": self.host, "{port}": str(self.port)}
        argv = [_PLACES.sub(lambda place: known[place[0]], item) for item in self.launch["argv"]]
        env = {**os.environ, **dict(self.launch["env"]), REPLICA_ENV: self.replica_id}
        env = {name: _PLACES.sub(lambda place: known[place[0]], env[name]) for name in env}
        log = os.open(self.engine_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
        parent = os.getpid()
        self.engine_status = None
        self.engine_pid = os.fork()
        if self.engine_pid == 0:
            _become_engine(argv, env, log, self.run_dir, parent)
        os.close(log)
        _log(f"started engine {self.engine_pid} on port {self.port}")
        self.report()

    def _watch(self) -> str:
        """Wait until the engine ended or has to end; return why."""
        started_at = next_look_at = time.monotonic()
        while True:
            seen = signal.sigtimedwait(_AWAITED, max(0.0, next_look_at - time.monotonic()))
            self._reap()
            if (code := self.engine_status) is not None:
                ended = f"exited with status {code}"
                if code < 0:
                    hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
                    ended = f"was ended by signal {-code} ({signal.strsignal(-code)}{hint})"
                return f"engine {ended}"
            now = time.monotonic()
            if seen is not None and seen.si_signo in _ASKED:
                self._ask(seen.si_signo)
                if self.is_asked_to_end:
                    return "ended as asked"
                next_look_at = now
            if now < next_look_at:
                continue
            if self.run_state == "starting":
                reason, pause_s = self._look_starting(now - started_at), (now - started_at) / 10
            elif self.run_state == "ready":
                reason, pause_s = self._look_ready(), REPORT_EVERY_S
            else:
                reason, pause_s = self._look_draining(), DRAIN_POLL_S
            if reason is not None:
                return reason
            next_look_at = now + min(REPORT_EVERY_S, max(0.05, pause_s))
            if time.monotonic() - self.reported_at >= REPORT_EVERY_S * 0.9:
                self.report()
                self._cap_log()

    def _ask(self, signum: int) -> None:
        """Begin to drain or to end; what does not serve yet has nothing to drain."""
        if self.run_state == "ready" and signum != signal.SIGINT:
            self.run_state = "draining"
            _log("draining")
            self.report()
        elif self.run_state != "draining" or signum != signal.SIGUSR1:
            self.is_asked_to_end = True

    def _look_starting(self, elapsed_s: float) -> str | None:
        is_open = self._get("")[0] is not None
        if is_open and not self._owns_port():
            return f"address already in use: another process answers on port {self.port}"
        if is_open and self._get(self.launch["health_path"], self.secret)[0] == 200:
            self.run_state = "ready"
            _log(f"ready after {elapsed_s:.2f} s")
            self._look_at_load()
            self.report()
        elif elapsed_s > self.launch["ready_timeout_s"]:
            return f"did not become healthy within {self.launch['ready_timeout_s']} s"
        return None

    def _look_ready(self) -> str | None:
        home = os.path.dirname(self.run_dir)
        is_silent = self._get(self.launch["health_path"], self.secret)[0] != 200
        stat = stat_fields(self.engine_pid or 0) or []
        before, self.ticks = self.ticks, sum(map(int, stat[11:13]))
        is_dead = is_silent and self.ticks - before < BUSY_TICKS
        still_s = self._held_s("still", is_so=is_dead)
        silent_s = self._held_s("silent", is_so=is_silent)
        if still_s >= self.health_lost_s or silent_s >= self.health_lost_s * BUSY_PATIENCE:
            return f"gave no healthy answer for {silent_s:.0f} s"
        if self._held_s("homeless", is_so=not os.path.isdir(home)) >= HOME_GONE_S:
            return f"its home was removed: {home} is gone"
        if not is_silent:
            self._look_at_load()
        return None

    def _look_draining(self) -> str | None:
        self._look_at_load()
        is_quiet = self.launch["load"] is None or self.requests == (0, 0)
        if self._held_s("quiet", is_so=is_quiet) >= QUIET_S:
            return "drained and ended as asked"
        if self._held_s("draining", is_so=True) >= self.launch["drain_timeout_s"]:
            running, waiting = ("?" if count is None else count for count in self.requests)
            return f"ended as asked, cutting {running} running and {waiting} waiting requests"
        return None

    def _look_at_load(self) -> None:
        if probe := self.launch["load"]:
            page = self._get(probe["path"], self.secret)[1]
            running = read_series(page, probe["running_series"])
            self.requests = (running, read_series(page, probe["waiting_series"]))

    def _owns_port(self) -> bool:
        """Tell whether the engine itself listens: the secret is for no other process."""
        sockets: set[str] = set()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):  # see proc_net_tcp.rst of the kernel
            with contextlib.suppress(OSError), open(table, encoding="ascii") as file:
                for _, local, _, state, _, _, _, _, _, inode, *_ in map(str.split, file):
                    if state == "0A" and local.endswith(f":{self.port:04X}"):
                        sockets.add(f"socket:[{inode}]")
        for pid, fields in _processes():
            with contextlib.suppress(OSError):
                files = os.listdir(f"/proc/{pid}/fd") if int(fields[3]) == self.engine_pid else []
                if sockets & {os.readlink(f"/proc/{pid}/fd/{file}") for file in files}:
                    return True
        return not sockets  # it listens where this process cannot look

    def _get(self, path: str, secret: str = "") -> tuple[int | None, str]:
        """GET ``path``: status, None without an answer, and body. No path: only connect."""
        ask = f"GET {path} HTTP/1.0\r\nHost: {self.host}\r\nAuthorization: Bearer {secret}\r\n\r\n"
        ends_at = time.monotonic() + REPLY_TIMEOUT_S
        reply = b""
        try:
            with socket.create_connection((self.host, self.port), REPLY_TIMEOUT_S) as connection:
                if not path:
                    return 0, ""
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

    def _cap_log(self) -> None:
        """Keep engine.log below its limit; the engine holds it open in append mode."""
        with contextlib.suppress(OSError):
            if os.stat(self.engine_log).st_size > LOG_BYTES_MAX:
                with open(self.engine_log, "r+b") as file:
                    file.seek(-LOG_BYTES_MAX, os.SEEK_END)
                    kept = file.read(LOG_BYTES_MAX)
                    file.truncate(0)
                _replace_file(f"{self.engine_log}.1", kept)

    def _reap(self) -> bool:
        """Collect ended children; tell whether any child is left."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.engine_pid:
                    self.engine_status = os.waitstatus_to_exitcode(ended[1])
            return True
        return False

    def _end_all(self) -> None:
        """End the engine and whatever it started, and return only when all of it is gone.

        A device call that hangs keeps this waiting: its capacity is not free. Orphans become
        children of this subreaper, so killing children again and again reaches all.
        """
        self.run_state = "starting" if self.run_state == "starting" else "draining"
        kills_at = time.monotonic() + TERM_GRACE_S
        if self.engine_pid and self.engine_status is None:
            for signum in (signal.SIGTERM, signal.SIGCONT):
                with contextlib.suppress(OSError):
                    os.killpg(self.engine_pid, signum)
        while self._reap():
            now = time.monotonic()
            if self.engine_status is not None or now >= kills_at:
                for pid in [pid for pid, stat in _processes() if int(stat[1]) == os.getpid()]:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
            # SIGCHLD ends the pause early, and so does a request to hurry up.
            seen = signal.sigtimedwait(_AWAITED, 0.1 if now < kills_at + 1 else 1.0)
            if seen is not None and seen.si_signo in _ASKED - {signal.SIGUSR1}:
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
        for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.chdir(cwd)
        for signum in (signal.SIGHUP, signal.SIGPIPE, signal.SIGINT):
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        # Short of memory, an engine goes before the control plane.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
        os.execvpe(argv[0], argv, env)  # noqa: S606 (an argument list, never a shell)
    except (OSError, ValueError) as error:
        os.write(2, f"cannot start {argv[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _replace_file(path: str, data: bytes) -> None:
    with open(f"{path}.tmp", "wb") as file:
        file.write(data)
    os.replace(f"{path}.tmp", path)


def _processes() -> Iterator[tuple[int, list[str]]]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := stat_fields(int(name))) is not None:
            yield int(name), fields


def _log(message: str, status: int = 0) -> int:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(OSError):  # a full disk
        os.write(2, f"{now} {message}\n".encode(errors="replace"))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
