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

# No pathlib in this package: it costs 2 MB, and there is one runner per engine. What escapes
# PR_SET_PDEATHSIG, the driver ends.
from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
from collections.abc import Callable
from typing import Final

from tramontane.runner import linux
from tramontane.runner.child import AWAITED
from tramontane.runner.output import say
from tramontane.runner.replica import ReplicaRun

HEALTH_LOST_S: Final = 30.0  # a hung device call seldom comes back after that long


def main(argv: list[str]) -> int:
    """Run the runner with command-line arguments ``argv``; return its exit status."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="runner", description=__doc__, formatter_class=shape)
    add = parser.add_argument
    add("--run-dir", required=True, type=os.path.abspath, help="directory of this replica")
    add("--replica", required=True, help="id of the replica, rep_...")
    add("--host", default="127.0.0.1", help="address that the engine listens on")
    add("--survive", action="store_true", help="outlive the process that started it")
    add("--detach", action="store_true", help="survive; return when the first report is written")
    add("--health-lost-s", type=float, default=HEALTH_LOST_S, help="limit (default %(default)g)")
    args = parser.parse_args(argv)
    os.umask(0o077)
    return _detach(args) if args.detach else _run(args, say)


def _detach(args: argparse.Namespace) -> int:
    """Go on in a process of its own session; return when that one has reported or failed."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with os.fdopen(reader) as pipe:
            told = pipe.read() or f"{os.EX_SOFTWARE} the runner died early; see runner.log"
        status, _, message = told.partition(" ")
        return say(message, int(status))
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
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run = ReplicaRun(args)
    try:
        lock = os.open(f"{args.run_dir}/lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(f"{args.run_dir}/report.json"):
            return announce("it already ran")
        with open(f"{args.run_dir}/launch.json", encoding="utf-8") as file:
            text = file.read()
        run.report(strict=True)
    except BlockingIOError:
        return announce("another runner has it")
    except FileNotFoundError as error:
        return announce(f"{error.filename} is missing", os.EX_NOINPUT)
    except OSError as error:
        return announce(f"cannot write {args.run_dir}: {error.strerror}", os.EX_CANTCREAT)
    announce("started")
    linux.adopt_orphans()
    if not args.survive and not linux.die_with(os.getppid(), signal.SIGINT):
        signal.raise_signal(signal.SIGINT)  # it died before the request took effect
    return run.run(text)
