"""What differs between versions of Slurm's REST API, and what asks for it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tramontane.drivers.slurm.dialects.records import JobOrder, SlurmPartition


class Dialect(Protocol):
    """One version. Records are read the same way for all of them (`reading`)."""

    version: str
    # Whether a job can be asked to stay below one switch when it is submitted.
    can_require_one_rack: bool
    # Whether nodes can be drained over REST.
    can_update_nodes: bool

    def submission(self, order: JobOrder) -> Mapping[str, Any]:
        """Return the body of a submission."""
        ...

    def partition(self, record: Mapping[str, Any]) -> SlurmPartition:
        """Return a partition."""
        ...

    def cancellation(self, signal: int | None) -> Mapping[str, str]:
        """Return the query of a cancellation; with ``signal`` it is sent and nothing else."""
        ...

    def accounting(self, names: Sequence[str], since_s: int) -> Mapping[str, str]:
        """Return the query for slurmdbd's jobs of those names, submitted or run ``since_s``."""
        ...

    def drain(self, reason: str | None) -> Mapping[str, Any]:
        """Return the body that drains a node, or undrains it; where `can_update_nodes`."""
        ...
