"""What attempts at jobs write: the last lines, or all from some byte on, while they run too."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from tramontane.domain.jobs.job import Attempt
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import Principal
from tramontane.services.jobs.use_cases import job_named
from tramontane.services.scope import not_found
from tramontane.store.db import Database
from tramontane.store.jobs import attempts

CHUNK_BYTES_MAX: Final = 256 << 10  # of a log, in one piece


class AttemptLogs(Protocol):
    """Where the output of attempts is: the drivers, wired in the composition."""

    def tail(self, attempt: Attempt, lines_max: int) -> list[str] | None:
        """Return the last lines, oldest first; None when the cluster does not answer."""
        ...

    def read(self, attempt: Attempt, rank: int, offset: int, bytes_max: int) -> bytes | None:
        """Return a piece of the output of one node; None when the cluster does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class LogOf:
    """Which output is meant: of an attempt (None: the newest) at an index, on one of its nodes."""

    number: int | None = None
    array_index: int = 0
    rank: int = 0


class JobLogs:
    """Use cases of logs of jobs."""

    def __init__(self, db: Database, source: AttemptLogs) -> None:
        self._db = db
        self._source = source

    def find(
        self, principal: Principal, ref: str, project: str | None, which: LogOf
    ) -> Attempt | None:
        """Return the attempt that is meant, None while the job has made none."""
        with self._db.read() as tx:
            job = job_named(tx, principal, ref, project)
            found = attempts.get_numbered(tx, job.id, which.array_index, which.number)
        if which.array_index not in job.indexes:
            last = len(job.indexes) - 1
            message = f"index is {which.array_index}: this job has 0 to {last}"
            raise refuse(Code.INVALID_VALUE, message, param="index")
        if which.rank >= job.spec.nodes:
            message = f"rank is {which.rank}: this job has the nodes 0 to {job.spec.nodes - 1}"
            raise refuse(Code.INVALID_VALUE, message, param="rank")
        if found is None and which.number is not None:
            raise not_found("attempt", str(which.number), param="attempt")
        if job.files_expired_at_ms is not None and found is not None:
            on = datetime.fromtimestamp(job.files_expired_at_ms // 1_000, UTC)
            message = (
                f"the output of {job.id} is not kept any more since {on:%Y-%m-%d %H:%M} UTC, and "
                "neither are its other files: how its attempts ended is still listed"
            )
            raise refuse(Code.NOT_FOUND, message)
        return found

    def tail(self, attempt: Attempt, lines_max: int) -> list[str]:
        """Return its last lines; refused while its cluster does not answer."""
        lines = self._source.tail(attempt, lines_max)
        if lines is None:
            raise _silent()
        return lines

    def read(self, attempt: Attempt, rank: int, offset: int) -> bytes:
        """Return what it wrote from byte ``offset`` on, a bounded piece of it."""
        piece = self._source.read(attempt, rank, offset, CHUNK_BYTES_MAX)
        if piece is None:
            raise _silent()
        return piece

    def is_over(self, attempt: Attempt) -> bool:
        """Tell whether nothing more will be written."""
        with self._db.read() as tx:
            current = attempts.get(tx, attempt.id)
        return current is None or current.status.is_over


def _silent() -> Exception:
    message = "the cluster of this job does not answer, so its output cannot be read: try later"
    return refuse(Code.UNAVAILABLE, message, retry_after_s=5)
