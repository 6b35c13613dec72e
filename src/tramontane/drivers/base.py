"""The driver protocol: where things run.

Every call is idempotent by our id of a replica or of a job's attempt. The id also lives outside
the database (in the process environment, in a job's comment), so that what was started can always
be found again.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from tramontane.domain.jobs.attempt import AttemptRecord, JobLaunch
from tramontane.domain.launch import LaunchSpec, Tenancy
from tramontane.domain.observation import ClusterView


class DriverUnavailableError(Exception):
    """The call may or may not have been carried out: ask `Driver.view` before concluding."""


class Driver(Protocol):
    """One cluster's machines.

    `view` never raises for an outage: it returns `Unreachable`. The other calls raise
    `DriverUnavailableError` when the outcome is not known; repeating them is always safe. A
    ValueError says that it will never work, and why.
    """

    name: str

    @property
    def queues(self) -> bool:
        """Tell whether the cluster itself decides when and where an attempt starts."""
        ...

    def view(self) -> ClusterView:
        """Return the nodes and everything that carries one of our ids."""
        ...

    def ensure(
        self, replica_id: str, node_name: str, launch: LaunchSpec, peers: Sequence[str] = ()
    ) -> None:
        """Start ``launch`` under ``replica_id``, unless it was ever started.

        ``peers`` are the further nodes of a replica on several.
        """
        ...

    def submit(self, attempt_id: str, launch: JobLaunch, node_name: str | None = None) -> None:
        """Start ``launch`` under ``attempt_id``, or queue it, unless that was ever done.

        ``node_name`` is given where the cluster does not queue.
        """
        ...

    def stop(self, id_: str, *, drain: bool = True) -> None:
        """Ask the replica or attempt to end (``drain=False``: now); unknown ids are fine."""
        ...

    def forget(self, id_: str) -> None:
        """Drop what is kept of an ended replica or attempt: its report and its logs."""
        ...

    def remove_job(self, job_id: str, attempt_ids: Sequence[str], tenancy: Tenancy) -> bool:
        """Remove all files of a job that is over, a bounded piece of them at a time.

        Those are what its commands left, its checkpoints, and what is kept of ``attempt_ids``, all
        of its attempts. Returns whether nothing is left; call it again until then.
        `DriverUnavailableError` while one of them lives.
        """
        ...

    def logs(self, id_: str, lines_max: int) -> list[str]:
        """Return the last lines that it wrote, oldest first; empty if there are none."""
        ...

    def read_log(self, attempt_id: str, rank: int, offset: int, bytes_max: int) -> bytes:
        """Return what an attempt wrote on its node number ``rank``, from ``offset`` on."""
        ...

    def account(self, attempt_ids: Sequence[str]) -> Mapping[str, AttemptRecord]:
        """Return what the cluster's accounting knows of those attempts that are over."""
        ...

    def set_drained(self, node_name: str, reason: str | None) -> None:
        """Start nothing more on the node, for ``reason``; None takes that back."""
        ...
