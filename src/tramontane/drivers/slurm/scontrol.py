"""What slurmrestd cannot do, done by Slurm's own ``scontrol``, and the racks that it knows."""

import logging
import re
import threading
from collections.abc import Callable, Mapping
from typing import Final

from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm.commands import Commands, racks

CONFIG_AGE_S: Final = 600.0
PATIENCE_S: Final = 7 * 86_400  # of Slurm, until it splits a gang over several racks after all
_WAIT: Final = "365-00:00:00"
_PATIENCE: Final = re.compile(r"\bmax_switch_wait=(\d+)")
_PATIENCE_UNSET_S: Final = 300  # slurm.conf(5), SchedulerParameters

log = logging.getLogger(__name__)


class Scontrol:
    """One cluster's scontrol. ``racks_by_node`` replaces what Slurm says of its topology."""

    def __init__(
        self, commands: Commands, racks_by_node: Callable[[], Mapping[str, str]] | None = None
    ) -> None:
        self._commands = commands
        self._ask = racks_by_node or (lambda: racks(commands))
        self._lock = threading.Lock()
        self._racks: Mapping[str, str] = {}
        self._trouble = ""  # told last

    def racks(self) -> Mapping[str, str]:
        """Return rack by node; what was known last while Slurm does not say."""
        try:
            found = self._ask()
        except (DriverUnavailableError, ValueError) as error:
            with self._lock:
                is_news, self._trouble = str(error) != self._trouble, str(error)
                known = self._racks
            log.log(logging.WARNING if is_news else logging.DEBUG, "racks are not known: %s", error)
            return known
        with self._lock:
            self._racks, self._trouble = found, ""
        return found

    def check_patience(self) -> None:
        """Raise ValueError when Slurm would give up on one rack before long."""
        try:
            told = self._commands.kept("scontrol", "show", "config", age_s=CONFIG_AGE_S)
        except (DriverUnavailableError, ValueError):
            return  # without scontrol the operator has to know
        found = _PATIENCE.search(told)
        patience_s = int(found[1]) if found else _PATIENCE_UNSET_S
        if patience_s < PATIENCE_S:
            msg = (
                f"Slurm waits only {patience_s} s for nodes of one rack and then takes others: set"
                f" SchedulerParameters=max_switch_wait=31536000 in slurm.conf"
            )
            raise ValueError(msg)

    def require_one_rack(self, job_id: int) -> None:
        """Have a held job wait for nodes below one switch, then let it go; may be repeated."""
        self._commands.run("scontrol", "update", f"JobId={job_id}", f"Switches=1@{_WAIT}")
        self._commands.run("scontrol", "release", str(job_id))

    def rename(self, job_id: int, name: str, comment: str) -> None:
        """Give a job back its name and its comment."""
        words = (f"JobName={name}", f"Comment={comment}")
        self._commands.run("scontrol", "update", f"JobId={job_id}", *words)

    def drain(self, node_name: str, reason: str | None) -> None:
        """Drain a node for ``reason``, or undrain it."""
        if reason is None:
            self._commands.run("scontrol", "update", f"NodeName={node_name}", "State=UNDRAIN")
        else:
            state = ("State=DRAIN", f"Reason={reason}")
            self._commands.run("scontrol", "update", f"NodeName={node_name}", *state)
