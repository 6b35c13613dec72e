"""What the driver asks of Slurm, in the version that the cluster speaks.

The version is agreed on at the first call, and again when an address is not there any more.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote

from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm.dialects import problems, reading
from tramontane.drivers.slurm.dialects.base import Dialect
from tramontane.drivers.slurm.dialects.negotiation import UnsupportedVersionError, choose
from tramontane.drivers.slurm.dialects.records import (
    JobOrder,
    SlurmJob,
    SlurmNode,
    SlurmPartition,
)
from tramontane.drivers.slurm.rest.client import NoAddressError, RestClient, TokenRefusedError

NAMES_MAX: Final = 100  # in one question: they stand in its address
_TOKEN_HINT: Final = "is jwt_key the cluster's own, and do the clocks agree?"  # noqa: S105 (words)

_HIDDEN: Final = (
    "user {user} does not see jobs of tenants: with PrivateData in slurm.conf it needs"
    " AdminLevel=Operator"
)

Read = TypeVar("Read")


class SlurmApi:
    """One cluster's slurmrestd; for any number of threads.

    Reads as ``admin_user``; submits and cancels as the job's own user. Any call may raise
    `DriverUnavailableError`.
    """

    def __init__(self, client: RestClient, admin_user: str) -> None:
        self._client = client
        self._admin_user = admin_user
        self._lock = threading.Lock()
        self._agreed: tuple[Dialect, bool] | None = None

    @property
    def dialect(self) -> Dialect:
        """The version that is spoken; `DriverUnavailableError` when there is none."""
        return self._agree()[0]

    @property
    def has_accounting(self) -> bool:
        """Tell whether slurmrestd serves slurmdbd too."""
        return self._agree()[1]

    def jobs(self, is_wanted: Callable[[Mapping[str, Any]], bool]) -> list[SlurmJob]:
        """Return the listed jobs whose records are wanted."""
        document = self._controller("GET", "jobs")
        return _read(
            lambda: [reading.job(r) for r in reading.records(document, "jobs") if is_wanted(r)]
        )

    def job(self, job_id: int, user: str) -> SlurmJob | None:
        """Return a job as its own ``user`` sees it, None when slurmctld does not know it."""
        try:
            document = self._controller("GET", f"job/{job_id}", user)
        except problems.SlurmRefusalError as error:
            if error.number == problems.INVALID_JOB_ID:
                return None
            raise DriverUnavailableError(f"job {job_id} is not shown: {error}") from error
        listed = _read(lambda: [reading.job(r) for r in reading.records(document, "jobs")])
        return next((job for job in listed if job.job_id == job_id), None)

    @property
    def hidden_hint(self) -> str:
        """What to do when a job's own user sees it and ``admin_user`` does not."""
        return _HIDDEN.format(user=self._admin_user)

    def nodes(self) -> list[SlurmNode]:
        """Return all nodes."""
        document = self._controller("GET", "nodes")
        return _read(lambda: [reading.node(r) for r in reading.records(document, "nodes")])

    def partitions(self) -> list[SlurmPartition]:
        """Return all partitions."""
        dialect, document = self.dialect, self._controller("GET", "partitions")
        return _read(
            lambda: [dialect.partition(r) for r in reading.records(document, "partitions")]
        )

    def accounted(self, names: Sequence[str], since_s: int) -> list[SlurmJob]:
        """Return what slurmdbd knows of jobs with those names; none where it is not served.

        It reads all jobs ``since_s`` for that.
        """
        dialect, has_accounting = self._agree()
        found: list[SlurmJob] = []
        for begin in range(0, len(names) if has_accounting else 0, NAMES_MAX):
            some = names[begin : begin + NAMES_MAX]
            query = dialect.accounting(some, since_s)
            document = self._call("GET", "slurmdb", "jobs", self._admin_user, query=query)
            wanted = frozenset(some)
            listed = _read(lambda d=document: _accounted(reading.records(d, "jobs")))
            found += [job for job in listed if job.name in wanted]
        return found

    def submit(self, order: JobOrder, user: str) -> int:
        """Submit once and return Slurm's number.

        Raises `SlurmRefusalError`; `NotSentError` when nothing was submitted, and any other
        `DriverUnavailableError` when that is not known.
        """
        dialect = self.dialect
        path = f"/slurm/{dialect.version}/job/submit"
        reply = self._client.call("POST", path, user, body=dialect.submission(order))
        job_id = reading.number(reply.document.get("job_id"))
        if job_id is None:
            job_id = reading.number(reading.part(reply.document, "result", "job_id"))
        if job_id:  # there may be warnings beside it, such as that no node is free now
            return job_id
        try:
            problems.check(reply)
        except TokenRefusedError as error:
            raise TokenRefusedError(f"{error}: {_TOKEN_HINT}") from error
        raise DriverUnavailableError("slurmrestd answered a submission without a job number")

    def cancel(self, job_id: int, user: str, signal: int | None = None) -> None:
        """End a job, or only send it a signal. One that is over or unknown is fine."""
        query = self.dialect.cancellation(signal)
        try:
            self._controller("DELETE", f"job/{job_id}", user, query=query)
        except problems.SlurmRefusalError as error:
            if error.number not in problems.ALREADY_DONE | {problems.INVALID_JOB_ID}:
                raise DriverUnavailableError(f"job {job_id} was not ended: {error}") from error

    def drain(self, node_name: str, reason: str | None) -> None:
        """Drain a node or undrain it; where the dialect can."""
        body = self.dialect.drain(reason)
        self._controller("POST", f"node/{quote(node_name, safe='')}", body=body)

    def _controller(
        self,
        method: str,
        rest: str,
        user: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        return self._call(method, "slurm", rest, user or self._admin_user, query=query, body=body)

    def _call(
        self,
        method: str,
        daemon: str,
        rest: str,
        user: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        path = f"/{daemon}/{self.dialect.version}/{rest}"
        try:
            return problems.check(self._client.call(method, path, user, query=query, body=body))
        except TokenRefusedError as error:
            raise TokenRefusedError(f"{error}: {_TOKEN_HINT}") from error
        except problems.NoAnswerError as error:
            # slurmdbd tells a refused token from an outage where slurmctld's answer does not.
            if daemon == "slurm" and self.has_accounting:
                self._ask_about_token(user)
            raise DriverUnavailableError(str(error)) from error
        except NoAddressError as error:
            with self._lock:
                self._agreed = None
            raise DriverUnavailableError(str(error)) from error

    def _ask_about_token(self, user: str) -> None:
        """Raise `TokenRefusedError` if it is the token that keeps Slurm from answering."""
        try:
            query = self.dialect.accounting(["none"], int(time.time()))
            self._call("GET", "slurmdb", "jobs", user, query=query)
        except TokenRefusedError:
            raise
        except (DriverUnavailableError, problems.SlurmRefusalError):
            return

    def _agree(self) -> tuple[Dialect, bool]:
        with self._lock:
            if self._agreed is None:
                reply = self._client.call("GET", "/openapi/v3", self._admin_user)
                try:
                    self._agreed = choose(reply.document)
                except UnsupportedVersionError as error:
                    raise DriverUnavailableError(str(error)) from error
            return self._agreed


def _accounted(records: Iterable[reading.Record]) -> list[SlurmJob]:
    return [reading.accounted(record) for record in records]


def _read(reading_of: Callable[[], Read]) -> Read:
    try:
        return reading_of()
    except reading.UNREADABLE as error:
        raise DriverUnavailableError(f"slurmrestd answered something else: {error}") from error
