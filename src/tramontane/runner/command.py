"""Supervise one replica or one attempt of a job: start it once, report, end it with all it started.

Reads RUN_DIR/launch.json, writes report.json (of further nodes report.N.json) and runner.log
there, and what the command writes to engine.log (an attempt's: log.N). It holds the file "lock"
while it runs: a second runner of the directory starts nothing and exits 0, and so does one that
finds the report of an earlier run. A killed runner takes all that it started with it. With
--report-url it also posts its report, and ends when the answer says that it is not wanted.

signals:
  SIGUSR1   drain: let the engine finish what it has, then end it; may be sent again
  SIGTERM   the same; a second one ends the engine now
  SIGINT    end it now: SIGTERM to its group, SIGKILL after 5 s; with --claim SIGINT to its
            group: Slurm sends SIGTERM to all processes of a job, and engines never hear it
An attempt's command gets SIGTERM for any of them, and SIGKILL after its grace; after 5 s when
SIGINT asked.

exit status: 0 the engine ran and ended, or had run before; of an attempt the command's, 124 at its
time limit, 143 when it was asked to end; 64 the arguments do not fit; 66 there is no launch.json;
70 it died early; 73 the report could not be written, so nothing was started. With --claim, 91
nothing was started because it was claimed by another job, or had run before.
"""

# No pathlib in this package: it costs 2 MB, and there is one runner per engine. What escapes
# PR_SET_PDEATHSIG, the driver ends.
from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from tramontane.runner import gang, linux
from tramontane.runner.child import AWAITED
from tramontane.runner.output import say
from tramontane.runner.replica import ReplicaRun, WorkerRun

HEALTH_LOST_S: Final = 30.0  # a hung device call seldom comes back after that long
CLAIM_WAIT_S: Final = 5.0  # between making the file of a claim and writing it
AUTO: Final = "auto"
SECOND_RUN: Final = 91  # no success: a cluster that lost a job and starts it anew is told so


def main(argv: list[str]) -> int:
    """Run the runner with command-line arguments ``argv``; return its exit status."""
    args = _parser().parse_args(argv)
    os.umask(0o077)
    try:
        rank = gang.own_rank(args.nodes)
        args.is_own_host = args.host == AUTO
        if args.is_own_host:
            args.host = gang.own_address(args.report_url)
    except (ValueError, OSError) as error:
        return say(str(error), os.EX_USAGE)
    return _detach(args, rank) if args.detach else _run(args, rank, say)


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="runner", description=__doc__, formatter_class=shape)
    add = parser.add_argument
    add("--run-dir", required=True, type=os.path.abspath, help="directory of this run")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--replica", metavar="ID", help="id of the replica, rep_...")
    which.add_argument("--attempt", metavar="ID", help="id of the attempt, att_...")
    add("--host", default="127.0.0.1", help="address to listen on; auto: this node's own")
    add("--report-url", metavar="URL", help="where the control plane is told")
    add("--claim", metavar="TOKEN", help="start nothing if another token claimed the directory")
    add("--nodes", type=int, default=1, metavar="N", help="nodes of this run (default 1)")
    add("--python", metavar="PATH", help="fills {python} (default: what runs this)")
    add("--survive", action="store_true", help="outlive the process that started it")
    add("--detach", action="store_true", help="survive; return when the first report is written")
    add("--health-lost-s", type=float, default=HEALTH_LOST_S, help="limit (default %(default)g)")
    return parser


def _detach(args: argparse.Namespace, rank: int) -> int:
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
    return _run(args, rank, announce)


def _run(args: argparse.Namespace, rank: int, announce: Callable[..., int]) -> int:
    """Take the lock, make sure that this is the first run ever, and supervise."""
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    group = gang.Gang(args, rank)
    if args.attempt:
        from tramontane.runner.attempt import AttemptRun  # noqa: PLC0415 (not for engines)

        run = AttemptRun(args, group)
    else:
        run = WorkerRun(args, group) if rank else ReplicaRun(args, group)
    try:
        if args.claim and not _claim(args.run_dir, args.claim):
            return announce("another job has it", SECOND_RUN)
        _lock(args, rank)
        if os.path.exists(f"{args.run_dir}/{gang.report_name(rank)}"):
            return announce("it already ran", SECOND_RUN if args.claim else 0)
        with open(f"{args.run_dir}/launch.json", encoding="utf-8") as file:
            text = file.read()
        run.report(strict=True)
    except BlockingIOError:
        return announce("another runner has it", SECOND_RUN if args.claim else 0)
    except FileNotFoundError as error:
        return announce(f"{error.filename} is missing", os.EX_NOINPUT)
    except OSError as error:
        return announce(f"cannot write {args.run_dir}: {error.strerror}", os.EX_CANTCREAT)
    announce("started")
    linux.adopt_orphans()
    if not args.survive and not linux.die_with(os.getppid(), signal.SIGINT):
        signal.raise_signal(signal.SIGINT)  # it died before the request took effect
    return run.run(text)


def _lock(args: argparse.Namespace, rank: int) -> None:
    """Hold the lock as long as this process lives; BlockingIOError while another does."""
    name = f"lock.{rank}" if rank else "lock"
    descriptor = os.open(f"{args.run_dir}/{name}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        if not args.claim:  # then the claim is enough: not all shared file systems have locks
            raise


def _claim(run_dir: str, token: str) -> bool:
    """Claim the directory for ``token``; False when it was claimed for another one."""
    path = f"{run_dir}/claim"
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(token)
        return True
    ends_at = time.monotonic() + CLAIM_WAIT_S
    while True:
        with open(path, encoding="utf-8", errors="replace") as file:
            owner = file.read()
        if owner or time.monotonic() > ends_at:
            return owner == token
        time.sleep(0.1)
