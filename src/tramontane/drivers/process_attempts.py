"""Attempts at jobs on this machine: where they are kept, and how their reports read.

An attempt lies in its job's folder, ``HOME/jobs/<job>/attempts/<attempt>``, beside what all
attempts of the job share. ``HOME/attempts/<attempt>`` says which job that is.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tramontane.domain import ids
from tramontane.domain.jobs.attempt import (
    AttemptObservation,
    AttemptRecord,
    AttemptState,
    JobLaunch,
)
from tramontane.domain.observation import RunState
from tramontane.drivers.process_runs import Report, Run, write_private
from tramontane.runtime.tenant_trees import remove_piece

LEAVING: Final = ".removed-"  # a job's folder that is being removed


@dataclass(frozen=True, slots=True)
class Entry:
    """What is noted of an attempt before it is started."""

    job_id: str
    devices: int


class AttemptFolders:
    """The attempts below one home."""

    def __init__(self, home: Path) -> None:
        self._jobs = home / "jobs"
        self._entries = home / "attempts"

    def ids(self) -> Iterator[str]:
        """Yield the ids of all attempts that were ever prepared and not forgotten."""
        with suppress(FileNotFoundError):
            names = os.listdir(self._entries)  # noqa: PTH208 (twice as fast)
            yield from (name for name in names if ids.prefix_of(name) == ids.ATTEMPT)

    def find(self, attempt_id: str) -> tuple[Run, Entry] | None:
        """Return the attempt's run and what was noted of it, None when nothing was."""
        try:
            plain = json.loads((self._entries / attempt_id).read_text(encoding="utf-8"))
            entry = Entry(str(plain["job_id"]), int(plain["devices"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return self._run(attempt_id, entry.job_id), entry

    def prepare(self, attempt_id: str, launch: JobLaunch) -> Run:
        """Note the attempt and make its folder; return its run. Raises OSError."""
        run = self._run(attempt_id, launch.job_id)
        devices = launch.nodes * launch.resources.devices
        for folder in (self._entries, run.dir):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        entry = dataclasses.asdict(Entry(launch.job_id, devices))
        write_private(self._entries / attempt_id, json.dumps(entry))
        return run

    def drop(self, attempt_id: str) -> None:
        """Forget that there was such an attempt; what its job keeps stays."""
        (self._entries / attempt_id).unlink(missing_ok=True)

    def remove_job(self, job_id: str, attempt_ids: Iterable[str]) -> bool:
        """Remove a piece of all that the job keeps; tell whether nothing is left. Raises OSError.

        It leaves its place at once, so that nothing ever sees half of it.
        """
        if ids.prefix_of(job_id) != ids.JOB:
            msg = f"{job_id!r} is no job"
            raise ValueError(msg)
        try:
            jobs = os.open(self._jobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        leaving = LEAVING + job_id
        try:
            if not remove_piece(jobs, leaving):
                return False
            with suppress(FileNotFoundError):
                os.rename(job_id, leaving, src_dir_fd=jobs, dst_dir_fd=jobs)
            for attempt_id in attempt_ids:
                self.drop(attempt_id)
            return remove_piece(jobs, leaving)
        finally:
            os.close(jobs)

    def relative_dir(self, run: Run) -> str:
        """Return the run directory as a path below the jobs' folder."""
        return str(run.dir.relative_to(self._jobs))

    @property
    def root(self) -> Path:
        """Return the folder of all jobs."""
        return self._jobs

    def _run(self, attempt_id: str, job_id: str) -> Run:
        if ids.prefix_of(attempt_id) != ids.ATTEMPT or ids.prefix_of(job_id) != ids.JOB:
            msg = f"{attempt_id!r} of {job_id!r} is no attempt of a job"
            raise ValueError(msg)
        return Run(attempt_id, self._jobs / job_id / "attempts" / attempt_id)


def observed(attempt_id: str, entry: Entry, report: Report, node_name: str) -> AttemptObservation:
    """Return what a report says of an attempt."""
    is_over = report["run_state"] == RunState.EXITED
    return AttemptObservation(
        attempt_id=attempt_id,
        state=_outcome(report) if is_over else AttemptState.RUNNING,
        reason=report.get("reason"),
        node_names=(node_name,),
        devices=entry.devices,
        started_at_ms=report.get("started_at_ms"),
        ended_at_ms=report["at_ms"] if is_over else None,
        exit_code=report.get("exit_code"),
        external_id=attempt_id,
    )


def recorded(seen: AttemptObservation) -> AttemptRecord | None:
    """Return what is to be accounted of an attempt, None while it is not over."""
    if not seen.state.is_over or seen.ended_at_ms is None:
        return None
    return AttemptRecord(
        attempt_id=seen.attempt_id,
        state=seen.state,
        started_at_ms=seen.started_at_ms,
        ended_at_ms=seen.ended_at_ms,
        devices=seen.devices,
        external_id=seen.external_id or seen.attempt_id,
    )


def _outcome(report: Report) -> AttemptState:
    try:
        state = AttemptState(report.get("outcome") or "")
    except ValueError:
        return AttemptState.FAILED
    return state if state.is_over else AttemptState.FAILED
