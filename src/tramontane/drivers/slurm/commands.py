"""Slurm's own commands, run as argument lists: for what slurmrestd cannot do, or not safely.

Never through a shell, bounded in time and output. An outage and a refusal are told apart by what
the command complains of: the exit status is 1 for both. The token travels in the environment
(`SLURM_JWT`), where only this user and root can read it; so neither munge nor an account of this
process's own user is needed.
"""

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tramontane.drivers.accounts import ClusterRefusedError
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm.dialects import hostlist

OUTPUT_CHARS_MAX: Final = 64 << 20  # a hundred bytes for each of half a million associations
TOPOLOGY_AGE_S: Final = 300.0  # racks are rebuilt by people with screwdrivers
_INHERITED: Final = ("PATH", "HOME", "LD_LIBRARY_PATH")
_LINE_MAX: Final = 500
# What sacctmgr prints when everything is as it was asked to be (src/sacctmgr of Slurm 22.05).
_NOTHING: Final = re.compile(r"^\s*Nothing (new added|modified|deleted)\b", re.MULTILINE)
# What it prints, with status 0, when it changed nothing: a user of the account lacks its default.
_NO_DEFAULT: Final = re.compile(r"don't have access to their default qos")
# Complaints about the way to a daemon rather than about what was asked.
_OUTAGE: Final = re.compile(
    r"unable to contact|persist|connection refused|connect failure|communication"
    r"|timed out|problem talking|database (is )?(down|busy|unreachable)|slurmdbd"
    r"|authentication error|invalid authentication|authentication plugin|could not establish"
    r"|in standby|dbd_\w+ failure|no route to host|unable to process configuration"
    r"|problem with query|could not load|unable to establish|unexpected message",
    re.IGNORECASE,
)


class Commands:
    """Runs commands of one cluster; for any number of threads.

    ``token`` makes the token that they carry; None: they authenticate as this process's own user.
    ``slurm_conf`` None is the machine's own configuration.
    """

    def __init__(
        self,
        *,
        slurm_conf: Path | None = None,
        token: Callable[[], str] | None = None,
        timeout_s: float = 10,
    ) -> None:
        self._slurm_conf = slurm_conf
        self._token = token
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, ...], tuple[float, str]] = {}

    def run(self, *argv: str) -> str:
        """Return what the command prints; that there was nothing to do is no failure.

        Raises `DriverUnavailableError` when it is not known whether it did anything, and
        `ClusterRefusedError` with the cluster's words when it was told no.
        """
        if self._slurm_conf is not None and not os.access(self._slurm_conf, os.R_OK):
            # Slurm's commands wait a minute for a file that is not there.
            msg = f"cannot read slurm_conf {self._slurm_conf}, which {argv[0]} needs"
            raise DriverUnavailableError(msg)
        try:
            done = subprocess.run(
                argv,
                env=self._env(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            msg = f"{argv[0]} did not answer within {self._timeout_s:g} s"
            raise DriverUnavailableError(msg) from error
        except OSError as error:
            msg = f"{argv[0]} cannot be run here: {error.strerror}"
            raise DriverUnavailableError(msg) from error
        told = f"{done.stderr}\n{done.stdout}"
        if len(done.stdout) > OUTPUT_CHARS_MAX:
            raise DriverUnavailableError(f"{argv[0]} printed more than {OUTPUT_CHARS_MAX} bytes")
        if _NO_DEFAULT.search(done.stderr):
            raise ClusterRefusedError(f"{argv[0]}: {_first_line(done.stderr)}")
        if done.returncode == 0 or _NOTHING.search(told):
            return done.stdout
        if done.returncode < 0 or _OUTAGE.search(told):
            raise DriverUnavailableError(f"{argv[0]}: {_first_line(told)}")
        raise ClusterRefusedError(f"{argv[0]}: {_first_line(told)}")

    def kept(self, *argv: str, age_s: float) -> str:
        """Return what the command printed at most ``age_s`` ago."""
        now_s = time.monotonic()
        with self._lock:
            at_s, printed = self._kept.get(argv, (now_s - age_s, ""))
        if now_s - at_s < age_s:
            return printed
        printed = self.run(*argv)
        with self._lock:
            self._kept[argv] = (time.monotonic(), printed)
        return printed

    def _env(self) -> dict[str, str]:
        """Return an environment of our own: UTC, English, and nothing more that Slurm reads."""
        env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        env |= {"LC_ALL": "C", "TZ": "UTC"}
        if self._slurm_conf is not None:
            env["SLURM_CONF"] = str(self._slurm_conf)
        if self._token is not None:
            env["SLURM_JWT"] = self._token()
        return env


def racks(commands: Commands) -> Mapping[str, str]:
    """Return the rack of each node by ``scontrol show topology``; empty without a topology.

    A rack is a switch without switches below it (topology/tree) or a block (topology/block). It
    is asked at most once in `TOPOLOGY_AGE_S`. Raises `DriverUnavailableError`.
    """
    try:
        printed = commands.kept("scontrol", "show", "topology", age_s=TOPOLOGY_AGE_S)
    except ClusterRefusedError:
        return {}  # topology/default: "No topology information available"
    return parse_topology(printed)


def parse_topology(printed: str) -> dict[str, str]:
    """Return rack by node. Raises ValueError for a list of nodes that cannot be read."""
    found: dict[str, str] = {}
    for line in printed.splitlines():
        fields = parse_fields(line)
        is_leaf = fields.get("Level") == "0" and "SwitchName" in fields
        rack = fields.get("SwitchName") if is_leaf else fields.get("BlockName")
        if rack:
            found.update(dict.fromkeys(hostlist.expand(fields.get("Nodes", "")), rack))
    return found


def parse_fields(line: str) -> dict[str, str]:
    """Return the fields of a line of scontrol, ``Name=value`` separated by spaces."""
    pairs = (word.partition("=") for word in line.split())
    return {name: value for name, equals, value in pairs if equals}


def _first_line(told: str) -> str:
    """Return the first complaint without its prefix, in one printable line of bounded length."""
    lines = (line.strip() for line in told.splitlines())
    line = next((line for line in lines if line), "no reason given")
    line = re.sub(r"^\w+: (error: )?", "", line)
    return "".join(char if char.isprintable() else "?" for char in line)[:_LINE_MAX]
