"""One attempt at a job as its cluster knows it: what to start, what was seen, what it used.

An attempt id is submitted at most once ever. A second try, after a failure or an eviction, is
another attempt, so that its start, its end and its cost are its own.
"""

from dataclasses import dataclass
from enum import StrEnum

from tramontane.domain.launch import PriorityClass, Tenancy
from tramontane.domain.resources import Resources


class Topology(StrEnum):
    """Which nodes an attempt takes, when it takes several."""

    ANY = "any"
    RACK = "rack"  # all in one rack
    SPREAD = "spread"  # over as many racks as can be


class AttemptState(StrEnum):
    """Where an attempt is, as its cluster says."""

    QUEUED = "queued"  # the cluster has it and has not started it
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the command ended with another status than 0
    CANCELLED = "cancelled"  # it ended because it was asked to
    PREEMPTED = "preempted"  # evicted for another with a higher class
    NODE_FAILED = "node_failed"
    TIMED_OUT = "timed_out"  # at its time limit

    @property
    def is_over(self) -> bool:
        """Tell whether nothing of it runs any more."""
        return self not in {AttemptState.QUEUED, AttemptState.RUNNING}


@dataclass(frozen=True, slots=True)
class ShippedFile:
    """A file that is laid into the working folder; ``content`` is base64, ``path`` relative."""

    path: str
    content: str
    is_executable: bool = False


@dataclass(frozen=True, slots=True)
class JobLaunch:
    """What one attempt runs: ``argv``, once on each of ``nodes`` nodes, all at the same moment.

    ``resources`` are those of each node. ``folder`` is the job's folder below its tenant's, the
    same for all of its attempts: what they keep, such as checkpoints, lies there. ``secret``
    is what the runner shows when it reports.
    """

    job_id: str
    name: str
    number: int  # of the attempt, from 1
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    files: tuple[ShippedFile, ...]
    nodes: int
    resources: Resources
    topology: Topology
    priority_class: PriorityClass
    time_limit_s: int
    hang_after_s: int | None
    tenancy: Tenancy
    secret: str
    grace_s: int = 30  # between being asked to end and being ended
    device_indexes: tuple[int, ...] = ()  # where Tramontane chose them


@dataclass(frozen=True, slots=True)
class AttemptObservation:
    """What a cluster says about one attempt.

    ``reason`` is in words: why it waits, or how it ended. ``devices`` are all that it holds, on
    all nodes. ``starts_at_ms`` is the cluster's own estimate. ``external_id`` is the cluster's
    number for it. Times are those that the cluster's accounting will show.
    """

    attempt_id: str
    state: AttemptState
    reason: str | None = None
    node_names: tuple[str, ...] = ()
    devices: int = 0
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    exit_code: int | None = None
    starts_at_ms: int | None = None
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """What a cluster's accounting keeps of an attempt that is over; ``reason`` in words.

    ``suspended_ms`` is how much of its time the cluster had suspended it: that is not charged.
    """

    attempt_id: str
    state: AttemptState
    started_at_ms: int | None
    ended_at_ms: int
    devices: int
    external_id: str
    exit_code: int | None = None
    reason: str | None = None
    suspended_ms: int = 0
