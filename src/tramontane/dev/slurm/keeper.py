"""Keeps the processes of one cluster below one process, and ends them with it.

It runs as a process of its own (standard library only) and starts what it reads from standard
input, one JSON object a line; the answer is a line with the pid. As the child subreaper it stays
the ancestor of whatever its children start, jobs of tenants too. When standard input ends or the
parent is gone, however it died, it kills all that is below it and removes the folder.

It must never signal a process that is not below it.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

LOOK_S: Final = 0.5  # how soon a parent is missed whose pipe another process holds open
END_LIMIT_S: Final = 20.0  # a process may hang in the kernel; the folder is removed all the same
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_prctl: Final = ctypes.CDLL(None).prctl


def main(folder: Path, parent: int, *, is_kept: bool) -> None:
    """Start what is asked for until the parent ends, then end everything."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the parent's
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _raise_exit)
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    try:
        _serve(parent)
    except BrokenPipeError:
        pass  # the parent ended between a question and its answer
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_all()
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def _serve(parent: int) -> None:
    pending = b""
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], LOOK_S)
        if not readable:
            continue
        part = os.read(0, 65_536)
        if not part:
            return
        *lines, pending = (pending + part).split(b"\n")
        for line in lines:
            os.write(1, json.dumps(_started(json.loads(line))).encode() + b"\n")


def _started(asked: dict[str, Any]) -> dict[str, Any]:
    account = asked["account"]
    who = {"user": account[0], "group": account[1], "extra_groups": []} if account else {}
    try:
        with Path(asked["log"]).open("ab") as log:
            process = subprocess.Popen(
                asked["argv"],
                env=asked["env"],
                cwd=asked["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_tie(os.getpid()),  # noqa: PLW1509 - this process has one thread
                **who,
            )
    except OSError as error:
        return {"error": str(error)}
    process.returncode = 0  # `_reap` waits for it
    return {"pid": process.pid}


def _tie(keeper: int) -> Callable[[], None]:
    def tie() -> None:
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != keeper:
            os._exit(1)

    return tie


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _end_all() -> None:
    give_up_at = time.monotonic() + END_LIMIT_S
    while (below := descendants(os.getpid())) and time.monotonic() < give_up_at:
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)
        _reap()


def descendants(ancestor: int) -> list[int]:
    """Return the pids of all processes below ``ancestor``."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - a few thousand names, in a loop
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_bytes()
            except OSError:
                continue
            parent = int(stat[stat.rindex(b")") + 2 :].split()[1])
            children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _raise_exit(*_: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), is_kept=sys.argv[3] == "keep")
