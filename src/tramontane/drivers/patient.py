"""A driver that answers in time: beside others, a cluster that hangs costs them nothing."""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from tramontane.domain.jobs.attempt import AttemptRecord, JobLaunch
from tramontane.domain.launch import LaunchSpec, Tenancy
from tramontane.domain.observation import ClusterView, Unreachable
from tramontane.drivers.base import Driver

PATIENCE_S: Final = 3.0  # a cluster that serves answers within milliseconds


class PatientDriver:
    """Another driver, except that `view` returns within ``patience_s``.

    A view that comes later is thrown away: it would be older than the rows it is compared with.
    Until it came, nothing more is asked. For any number of threads.
    """

    def __init__(self, driver: Driver, patience_s: float = PATIENCE_S) -> None:
        self.name = driver.name
        self._driver = driver
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._hanging: _Question | None = None

    @property
    def queues(self) -> bool:
        """Tell whether the cluster itself decides when and where an attempt starts."""
        return self._driver.queues

    def view(self) -> ClusterView:
        """Return the driver's view, or that it hangs."""
        with self._lock:
            if self._hanging is not None and not self._hanging.is_over:
                return self._hanging.silence()
            self._hanging = None
        question = _Question(self._driver)
        if question.wait(self._patience_s):
            return question.answer()
        with self._lock:
            self._hanging = question
        return question.silence()

    def ensure(
        self, replica_id: str, node_name: str, launch: LaunchSpec, peers: Sequence[str] = ()
    ) -> None:
        """Start a replica once."""
        self._driver.ensure(replica_id, node_name, launch, peers)

    def submit(self, attempt_id: str, launch: JobLaunch, node_name: str | None = None) -> None:
        """Start or queue an attempt once."""
        self._driver.submit(attempt_id, launch, node_name)

    def stop(self, id_: str, *, drain: bool = True) -> None:
        """Ask a replica or attempt to end."""
        self._driver.stop(id_, drain=drain)

    def forget(self, id_: str) -> None:
        """Drop what is kept of what ended."""
        self._driver.forget(id_)

    def remove_job(self, job_id: str, attempt_ids: Sequence[str], tenancy: Tenancy) -> bool:
        """Remove a piece of an ended job's files."""
        return self._driver.remove_job(job_id, attempt_ids, tenancy)

    def logs(self, id_: str, lines_max: int) -> list[str]:
        """Return the last lines."""
        return self._driver.logs(id_, lines_max)

    def read_log(self, attempt_id: str, rank: int, offset: int, bytes_max: int) -> bytes:
        """Return what one node of an attempt wrote."""
        return self._driver.read_log(attempt_id, rank, offset, bytes_max)

    def account(self, attempt_ids: Sequence[str]) -> Mapping[str, AttemptRecord]:
        """Return what accounting knows."""
        return self._driver.account(attempt_ids)

    def set_drained(self, node_name: str, reason: str | None) -> None:
        """Start nothing more on a node, or take that back."""
        self._driver.set_drained(node_name, reason)


class _Question:
    """One call of `Driver.view`, in a thread of its own."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._began_at = time.monotonic()
        self._view: ClusterView | None = None
        self._error: Exception | None = None
        # A daemon: a cluster that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="ask-driver", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, patience_s: float) -> bool:
        """Wait at most so long; tell whether it is over."""
        self._thread.join(patience_s)
        return self.is_over

    def answer(self) -> ClusterView:
        """Return what came of it, or raise it."""
        if self._error is not None:
            raise self._error
        assert self._view is not None
        return self._view

    def silence(self) -> Unreachable:
        # In words that stay the same for a minute: a status is written when it changes.
        waited_min = int(time.monotonic() - self._began_at) // 60
        since = f"{waited_min} min" if waited_min else "some seconds"
        return Unreachable(f"it has not answered for {since}")

    def _run(self) -> None:
        try:
            self._view = self._driver.view()
        except Exception as error:  # noqa: BLE001 - raised again by whoever asked
            self._error = error
