"""Slurm's records as plain values: the same for every version of its REST API.

Numbers keep Slurm's units, told by their names: seconds since 1970, minutes, mebibytes.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a batch script ended: its exit code, or the signal that ended it (0: none)."""

    code: int = 0
    signal: int = 0

    @classmethod
    def of_wait(cls, status: int) -> "ExitStatus":
        """Return what a wait(2) status says."""
        return cls(code=(status >> 8) & 0xFF, signal=status & 0x7F)


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """One job as slurmctld lists it, or as slurmdbd remembers it.

    ``states`` are upper-case words, the base state among them (``RUNNING``, ``COMPLETING``).
    ``start_s`` of a pending job is Slurm's estimate. ``time_limit_min`` None: unlimited, or not
    told. Amounts are those of all its nodes. ``end_s`` of a running job is when its time is over.
    ``restarts`` is how often Slurm put it back into the queue after it had run, ``suspended_s`` for
    how long accounting says that it was suspended. ``is_renamed``: its name or comment is not what
    it was submitted with; both are told as they were then.
    """

    job_id: int
    name: str
    user: str
    comment: str
    states: frozenset[str]
    reason: str = ""
    nodes: tuple[str, ...] = ()
    node_count: int = 0
    cpus: int = 0
    memory_mb: int = 0
    gpus: int = 0
    qos: str = ""
    partition: str = ""
    is_held: bool = False
    folder: str = ""
    submit_s: int = 0
    start_s: int = 0
    end_s: int = 0
    time_limit_min: int | None = None
    exit_status: ExitStatus = ExitStatus()
    restarts: int = 0
    suspended_s: int = 0
    is_renamed: bool = False


@dataclass(frozen=True, slots=True)
class SlurmNode:
    """One node. ``states`` as in `SlurmJob`; ``gpus`` maps types to counts, "" when untyped."""

    name: str
    states: frozenset[str]
    reason: str
    partitions: frozenset[str]
    cpus: int
    memory_mb: int
    gpus: tuple[tuple[str, int], ...]
    used_cpus: int
    used_memory_mb: int
    used_gpus: int


@dataclass(frozen=True, slots=True)
class SlurmPartition:
    """One partition; None: without limit. ``max_nodes`` is per job."""

    name: str
    is_default: bool
    max_time_min: int | None
    max_nodes: int | None


@dataclass(frozen=True, slots=True)
class JobOrder:
    """A batch job to submit. Amounts are those of each node.

    ``node_names`` are required, and then as many as ``nodes``; ``excluded_nodes`` are not taken.
    ``time_limit_min`` None asks for no limit. ``grace_s`` is how long before the limit the script
    is told, where the version can.
    """

    name: str
    comment: str
    script: str
    folder: str
    environment: tuple[tuple[str, str], ...]
    nodes: int
    node_names: tuple[str, ...]
    cpus: int
    memory_mb: int
    gpus: int
    partition: str | None
    account: str | None
    qos: str | None
    time_limit_min: int | None
    in_one_rack: bool = False
    is_spread: bool = False
    excluded_nodes: tuple[str, ...] = ()
    is_held: bool = False
    grace_s: int = 0


@dataclass(frozen=True, slots=True)
class SlurmProblem:
    """One entry of an ``errors`` list: Slurm's number (0: none was given) and its words."""

    number: int
    words: str
