"""The driver protocol: where things run.

Every call is idempotent by our replica id, which also lives outside the database (in the
process environment, in a job comment), so that what was started can always be found again.
"""

from typing import Protocol

from tramontane.domain.launch import LaunchSpec
from tramontane.domain.observation import ClusterView


class DriverUnavailableError(Exception):
    """The call may or may not have been carried out: ask `Driver.view` before concluding."""


class Driver(Protocol):
    """One cluster's machines.

    `view` never raises for an outage: it returns `Unreachable`. The other calls raise
    `DriverUnavailableError` when the outcome is not known; repeating them is always safe.
    """

    name: str

    def view(self) -> ClusterView:
        """Return the nodes and every process that carries one of our ids."""
        ...

    def ensure(self, replica_id: str, node_name: str, launch: LaunchSpec) -> None:
        """Start ``launch`` under ``replica_id`` on the node, unless it was ever started there."""
        ...

    def stop(self, replica_id: str, *, drain: bool = True) -> None:
        """Ask the process to drain and end (``drain=False``: to end now); unknown ids are fine."""
        ...

    def forget(self, replica_id: str) -> None:
        """Drop what is kept of an ended process: its report and its logs."""
        ...

    def logs(self, replica_id: str, lines_max: int) -> list[str]:
        """Return the last lines that the process wrote, oldest first; empty if there are none."""
        ...
