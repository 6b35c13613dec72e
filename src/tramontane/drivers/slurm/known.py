"""What the driver knows of each id, beyond the newest listing.

Slurm forgets: an ended job leaves slurmctld's memory, and what was submitted a moment ago is not
in a listing that was asked for before. So the driver remembers, in memory only: a new one learns
the same from listings and accounting. An end is final.
"""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from tramontane.drivers.slurm.dialects.records import SlurmJob
from tramontane.drivers.slurm.jobs import first_run, is_alive, surplus
from tramontane.drivers.slurm.listing import Seen
from tramontane.drivers.slurm.reasons import LOST, SECOND_RUN, attempt_state

ENDED_MAX: Final = 10_000  # ids, looked at each second; accounting knows the older ones
FORGOTTEN_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class Entry:
    """The newest word on one id, and when the question was asked that it answers.

    ``missing_since``: neither listed nor known to be over. ``is_guess``: it follows from what was
    done, until a listing that was asked for later shows it.
    """

    job: SlurmJob
    at: float
    missing_since: float | None = None
    was_asked_to_end: bool = False
    is_guess: bool = False

    @property
    def is_over(self) -> bool:
        """Tell whether nothing can change any more."""
        return attempt_state(self.job).is_over


class Known:
    """All ids of one cluster; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._forgotten: dict[str, None] = {}
        self._version = 0

    @property
    def version(self) -> int:
        """A number that changes whenever something was learned but by a listing."""
        return self._version

    def get(self, id_: str) -> Entry | None:
        """Return what is known of one id."""
        with self._lock:
            return self._entries.get(id_)

    def alive(self) -> Mapping[int, SlurmJob]:
        """Return the jobs that are not known to be over, by number."""
        with self._lock:
            jobs = (entry.job for entry in self._entries.values() if not entry.is_over)
            return {job.job_id: job for job in jobs}

    def is_forgotten(self, id_: str) -> bool:
        """Tell whether the id was forgotten on purpose: it is never started again."""
        with self._lock:
            return id_ in self._forgotten

    def learn(self, id_: str, job: SlurmJob, at: float, *, is_guess: bool = False) -> None:
        """Keep what is known of an id by another way than a listing."""
        with self._lock:
            self._version += 1
            before = self._entries.get(id_)
            was_asked = before is not None and before.was_asked_to_end
            self._entries[id_] = Entry(job, at, was_asked_to_end=was_asked, is_guess=is_guess)

    def ask_to_end(self, id_: str) -> None:
        """Keep that an id was asked to end."""
        with self._lock:
            self._version += 1
            if entry := self._entries.get(id_):
                self._entries[id_] = replace(entry, was_asked_to_end=True)

    def forget(self, id_: str) -> None:
        """Drop an id for good."""
        with self._lock:
            self._version += 1
            self._entries.pop(id_, None)
            self._forgotten[id_] = None
            while len(self._forgotten) > FORGOTTEN_MAX:
                self._forgotten.pop(next(iter(self._forgotten)))

    def merge(self, seen: Seen, now: float) -> tuple[Mapping[str, Entry], tuple[SlurmJob, ...]]:
        """Return what is known after ``seen``, and the listed jobs that should not be there."""
        with self._lock:
            unwanted: list[SlurmJob] = []
            for id_, same in seen.jobs.items():
                if id_ in self._forgotten:
                    unwanted += [job for job in same if not attempt_state(job).is_over]
                    continue
                unwanted += surplus(same)
                unwanted += self._risen(id_, same, seen.jobs_at)
                self._merge_one(id_, same[0], seen.jobs_at)
            for id_, entry in self._entries.items():
                is_final = entry.is_over and not entry.is_guess
                if id_ not in seen.jobs and entry.at < seen.jobs_at and not is_final:
                    since = entry.missing_since or now
                    self._entries[id_] = replace(entry, missing_since=since)
            self._drop_oldest(seen.jobs)
            return dict(self._entries), tuple(dict.fromkeys(unwanted))

    def _risen(self, id_: str, same: tuple[SlurmJob, ...], at: float) -> list[SlurmJob]:
        """Return the jobs of an id that is over which a later listing shows alive.

        A controller that is killed before it saved its state takes ended jobs for running ones,
        and keeps their devices.
        """
        entry = self._entries.get(id_)
        if entry is None or not entry.is_over or entry.is_guess or entry.at >= at:
            return []
        return [] if _did_nothing(entry.job) else [job for job in same if is_alive(job)]

    def _merge_one(self, id_: str, job: SlurmJob, at: float) -> None:
        before = self._entries.get(id_)
        job = first_run(job, before.job if before else None)
        if before is None:
            self._entries[id_] = Entry(job, at)
        elif before.at > at:
            return  # what was done since is known better
        elif before.job.user != job.user:
            return  # somebody else's job under its name
        elif before.is_over and not before.is_guess and not _did_nothing(before.job):
            return  # a second job of an id that is over
        else:
            self._entries[id_] = replace(before, job=job, at=at, missing_since=None, is_guess=False)

    def _drop_oldest(self, listed: Collection[str]) -> None:
        surplus = len(self._entries) - ENDED_MAX
        if surplus <= 0:
            return
        ended = [i for i, entry in self._entries.items() if entry.is_over and i not in listed]
        for id_ in ended[:surplus]:
            del self._entries[id_]


def lost(job: SlurmJob, now_s: int) -> SlurmJob:
    """Return the end of a job of which Slurm has no record: it was listed, and is no more."""
    return replace(job, states=frozenset({"FAILED"}), reason=LOST, end_s=now_s)


def _did_nothing(job: SlurmJob) -> bool:
    return job.exit_status.code == SECOND_RUN
