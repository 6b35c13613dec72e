"""The nodes of one run, seen from one of them: which one it is, and where the first one is."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import time
from typing import Any, Final

from tramontane.runner.child import ASKED
from tramontane.runner.engine import free_port
from tramontane.runner.output import replace_file

HEAD_WAIT_S: Final = 300.0  # nodes of one job start apart by the time that preparing them takes
HEAD_POLL_S: Final = 0.2
PEERS_EVERY_S: Final = 4.0
RANK_ENV: Final = "SLURM_PROCID"
_ANYWHERE: Final = (socket.AF_INET, ("192.0.2.1", 9))  # RFC 5737: reached by the default route


class Gang:
    """One or more nodes that run the same thing together; the first of them has rank 0."""

    def __init__(self, args: argparse.Namespace, rank: int) -> None:
        self.nodes: int = args.nodes
        self.rank = rank
        self.host: str = args.host
        self.head = (self.host, 0)
        self._run_dir: str = args.run_dir
        self._looked_at = 0.0

    @property
    def is_first(self) -> bool:
        """Tell whether this is the node that reports for all."""
        return self.rank == 0

    def meet(self) -> bool:
        """Learn, or tell the others, where the first node is; False when asked to end meanwhile.

        Raises OSError when the first node does not say so in time.
        """
        path = f"{self._run_dir}/head"
        if self.is_first:
            self.head = (self.host, free_port(self.host))
            if self.nodes > 1:
                replace_file(path, json.dumps(self.head).encode())
            return True
        ends_at = time.monotonic() + HEAD_WAIT_S
        while time.monotonic() < ends_at:
            os.listdir(self._run_dir)  # network file systems remember that a file was absent
            if told := _read(path):
                self.head = (str(told[0]), int(told[1]))
                return True
            if signal.sigtimedwait(ASKED, HEAD_POLL_S) is not None:
                return False
        raise OSError(f"the first of {self.nodes} nodes did not start within {HEAD_WAIT_S:.0f} s")

    def is_over(self) -> bool:
        """Tell whether the first node says that it is over; asked at most once in a while."""
        return self._is_time() and _has_ended(_read(f"{self._run_dir}/{report_name(0)}"))

    def broken(self) -> str | None:
        """Return why another node ended, if one did; asked at most once in a while."""
        if self.nodes == 1 or not self._is_time():
            return None
        for rank in range(self.nodes):
            report = _read(f"{self._run_dir}/{report_name(rank)}")
            if rank != self.rank and _has_ended(report):
                return f"node {rank} of {self.nodes} ended: {report.get('reason')}"
        return None

    def failure(self) -> tuple[int, dict[str, Any]] | None:
        """Return the number and the report of a node whose command failed by itself, if any did."""
        for rank in range(self.nodes if self.nodes > 1 else 0):
            report = _read(f"{self._run_dir}/{report_name(rank)}")
            if _has_ended(report) and report.get("outcome") == "failed":
                return rank, report
        return None

    def _is_time(self) -> bool:
        now = time.monotonic()
        is_time = now - self._looked_at >= PEERS_EVERY_S
        self._looked_at = now if is_time else self._looked_at
        return is_time


def report_name(rank: int) -> str:
    """Return the name of the report of one node; the first one's is the run's."""
    return f"report.{rank}.json" if rank else "report.json"


def own_rank(nodes: int) -> int:
    """Return this node's number; ValueError when there are several and it is not known."""
    if nodes == 1:
        return 0
    rank = os.environ.get(RANK_ENV, "")
    if not rank.isdecimal() or int(rank) >= nodes:
        raise ValueError(f"{RANK_ENV} must be a number below {nodes}, and it is {rank!r}")
    return int(rank)


def own_address(url: str | None) -> str:
    """Return this node's address as the host of ``url`` would see it; no packet is sent.

    Without an answer from the name service it is the address that the default route uses.
    """
    from urllib.parse import urlsplit  # noqa: PLC0415 (milliseconds, where nobody asks for it)

    places: list[Any] = []
    parts = urlsplit(url or "")
    if parts.hostname:
        try:
            found = socket.getaddrinfo(parts.hostname, parts.port or 9, type=socket.SOCK_DGRAM)
            places = sorted(((family, place) for family, *_, place in found), key=lambda p: p[0])
        except OSError:
            places = []
    for family, place in [*places, _ANYWHERE]:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(place)
                return str(probe.getsockname()[0])
        except OSError:
            continue
    raise OSError("this node has no address that could be told: give one with --host")


def _has_ended(report: Any) -> bool:
    return isinstance(report, dict) and report.get("run_state") == "exited"


def _read(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except (OSError, ValueError):
        return None
