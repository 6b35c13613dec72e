"""The Slurm driver: replicas on the nodes that the planner chose, attempts where Slurm puts them.

One id of ours is one Slurm job. Before a submission the id is looked for where it could be, and a
submission whose outcome is not known is not repeated before the cluster had time to show it; in
the end the run directory itself can be claimed by one job only.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from tramontane.domain import ids
from tramontane.domain.jobs.attempt import AttemptRecord, AttemptState, JobLaunch
from tramontane.domain.launch import LaunchSpec, PriorityClass, Tenancy
from tramontane.domain.observation import ClusterView, Reachable, Unreachable
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm import jobs, nodes, orders, spread
from tramontane.drivers.slurm.commands import Commands
from tramontane.drivers.slurm.dialects.problems import NO_ACCOUNT, SlurmRefusalError
from tramontane.drivers.slurm.dialects.records import JobOrder, SlurmJob
from tramontane.drivers.slurm.folders import Folders
from tramontane.drivers.slurm.known import Entry, Known, lost
from tramontane.drivers.slurm.listing import Listing, Seen
from tramontane.drivers.slurm.reasons import attempt_state, is_suspended
from tramontane.drivers.slurm.rest.api import SlurmApi
from tramontane.drivers.slurm.rest.client import NotSentError, RestClient
from tramontane.drivers.slurm.rest.jwt import TokenSource
from tramontane.drivers.slurm.scontrol import Scontrol
from tramontane.runner import bundle
from tramontane.runtime.clock import Clock, SystemClock
from tramontane.runtime.clusters import SlurmSettings

LOG_LINES_MAX: Final = 10_000
POLL_INTERVAL_S: Final = 1.0
SETTLE_S: Final = 30.0  # a submission that slurmrestd had when it went silent is through by then
MISSING_S: Final = 60.0  # accounting is behind by seconds; then Slurm has lost the job
RESOLVE_EVERY_S: Final = 5.0
ACCOUNTING_S: Final = 7 * 86_400  # how far back a start is looked for: slurmdbd reads all of it
KEPT_S: Final = 90 * 86_400  # and a run directory, which is seldom
ACCOUNTING_PAUSE_S: Final = 5.0
# What accounting does not know was never submitted, unless by a process that lost its lease since.
ABSENT_S: Final = 30.0
ACTS_MAX: Final = 100_000
TIDY_EVERY_S: Final = 10.0  # per job
HURRY_S: Final = 10.0  # from asking a runner to end now to having Slurm end it
HIDDEN_EVERY_S: Final = 600.0
_DRAIN, _END_NOW = 10, 2  # SIGUSR1 and SIGINT, the same on every Linux

log = logging.getLogger(__name__)


class SlurmDriver:
    """One Slurm cluster.

    ``report_url`` is where runners report unless the settings say so. ``racks`` returns rack by
    node; without it, Slurm's topology is read.
    """

    queues = True

    def __init__(
        self,
        settings: SlurmSettings,
        installation_id: str,
        *,
        report_url: str | None = None,
        clock: Clock | None = None,
        racks: Callable[[], Mapping[str, str]] | None = None,
        poll_interval_s: float = POLL_INTERVAL_S,
        settle_s: float = SETTLE_S,
    ) -> None:
        self.name = "slurm"
        self._cluster = settings.name
        self._settings = settings
        self._clock = clock or SystemClock()
        self._settle_s = settle_s
        tokens = TokenSource(settings.jwt_key, self._clock)
        client = RestClient(settings.url, tokens, settings.timeout_s)
        self._api = SlurmApi(client, settings.admin_user)
        self._users = orders.users_of(settings)
        self._known = Known()
        self._listing = Listing(
            self._api,
            installation_id,
            self._users,
            partition=settings.partition,
            poll_interval_s=poll_interval_s,
            known=self._known.alive,
        )
        self._office = orders.Office(
            settings, installation_id, settings.report_url or report_url, bundle.zip_bytes()
        )
        self._folders = Folders(settings.work_root)
        commands = Commands(
            slurm_conf=settings.slurm_conf,
            token=lambda: tokens.token(settings.admin_user),
            timeout_s=settings.timeout_s,
        )
        self._scontrol = Scontrol(commands, racks)
        self._lock = threading.Lock()
        self._stripes = tuple(threading.RLock() for _ in range(64))
        self._unsettled: dict[str, float] = {}
        self._accounting_outage = (float("-inf"), "")
        self._kept_view: tuple[Seen, int, Reachable] | None = None
        self._absent_at: dict[str, float] = {}
        self._acted_at: dict[tuple[str, str], float] = {}

    def view(self) -> ClusterView:
        """Return the cluster as it was within the last poll intervals, with what was done since."""
        try:
            seen = self._listing.current()
        except DriverUnavailableError as error:
            return Unreachable(str(error))
        version = self._known.version
        kept = self._kept_view
        if kept is not None and kept[0] is seen and kept[1] == version:
            return kept[2]
        entries = self._look(seen)
        view = self._view_of(seen, entries)
        if all(entry.missing_since is None for entry in entries.values()):
            self._kept_view = seen, version, view
        return view

    def _view_of(self, seen: Seen, entries: Mapping[str, Entry]) -> Reachable:
        replicas = ((i, e) for i, e in entries.items() if ids.prefix_of(i) == ids.REPLICA)
        attempts = ((i, e) for i, e in entries.items() if ids.prefix_of(i) == ids.ATTEMPT)
        spot_qos = orders.qos_of(self._settings, PriorityClass.SPOT)
        return Reachable(
            nodes=nodes.observations(
                seen.nodes,
                partition=seen.partition.name if seen.partition else self._settings.partition,
                held=jobs.held_by(seen.jobs_with_nodes, spot_qos),
                racks=self._scontrol.racks(),
            ),
            observations=tuple(jobs.observation(i, e.job) for i, e in sorted(replicas)),
            attempts=tuple(
                jobs.attempt(i, e.job, was_asked_to_end=e.was_asked_to_end)
                for i, e in sorted(attempts)
            ),
        )

    def ensure(
        self, replica_id: str, node_name: str, launch: LaunchSpec, peers: Sequence[str] = ()
    ) -> None:
        """Submit the replica with its nodes required, unless that was ever done."""
        ids.check(replica_id, ids.REPLICA)

        def order(seen: Seen) -> tuple[JobOrder, str]:
            listed = {node.name for node in seen.nodes}
            if absent := [name for name in (node_name, *peers) if name not in listed]:
                msg = f"cluster {self._cluster} has no node {', '.join(absent)}"
                raise DriverUnavailableError(msg)
            placed = (node_name, *peers)
            return orders.replica_order(self._office, replica_id, placed, launch, seen.partition)

        self._start_once(replica_id, order)

    def submit(self, attempt_id: str, launch: JobLaunch, node_name: str | None = None) -> None:  # noqa: ARG002 (Slurm chooses)
        """Submit the attempt, unless that was ever done; Slurm queues it and chooses its nodes."""
        ids.check(attempt_id, ids.ATTEMPT)

        def order(seen: Seen) -> tuple[JobOrder, str]:
            made, user = orders.attempt_order(self._office, attempt_id, launch, seen.partition)
            has_wish = made.in_one_rack or made.is_spread
            racks = self._scontrol.racks() if has_wish else {}
            orders.check_room(made, seen.nodes, seen.partition, racks)
            if made.in_one_rack:
                self._scontrol.check_patience()
            if made.is_spread:
                replicas = jobs.held_by(seen.jobs_with_nodes, None)
                left_out = spread.left_out(made, seen.nodes, seen.partition, racks, replicas)
                made = replace(made, excluded_nodes=left_out)
            return made, user

        self._start_once(attempt_id, order)

    def stop(self, id_: str, *, drain: bool = True) -> None:
        """Have the runner drain or end now; what still waits in the queue is cancelled.

        A runner that was asked to end now and has not after `HURRY_S` is ended by Slurm, and so is
        one that is suspended: it hears nothing.
        """
        entry = self._find(id_)
        if entry is None or entry.is_over:
            return
        self._known.ask_to_end(id_)
        job = entry.job
        if attempt_state(job) is AttemptState.QUEUED:
            self._api.cancel(job.job_id, job.user)
            now_s = self._clock.now_ms() // 1000
            ended = replace(job, states=frozenset({"CANCELLED"}), start_s=0, end_s=now_s)
            self._known.learn(id_, ended, time.monotonic(), is_guess=True)
        elif "COMPLETING" in job.states:
            return
        elif drain and not is_suspended(job):
            self._api.cancel(job.job_id, job.user, _DRAIN)
        elif not is_suspended(job) and self._is_time("end", id_, float("inf")):
            self._api.cancel(job.job_id, job.user, _END_NOW)
        elif self._is_time("end", id_, HURRY_S):
            self._api.cancel(job.job_id, job.user)

    def forget(self, id_: str) -> None:
        """Remove the run directory of what is over; what lives keeps it, a second run too."""
        entry = self._find(id_)
        listed = self._listing.current().jobs.get(id_, ())
        if (entry is not None and not entry.is_over) or any(map(jobs.is_alive, listed)):
            return
        if entry is not None or ids.prefix_of(id_) != ids.REPLICA:
            place = self._place(id_)
            places = [place] if place else []
        else:
            places = [orders.replica_folders(user, id_) for user in sorted(self._users)]
        try:
            for place in places:
                self._folders.remove(place)
        except OSError as error:
            msg = f"cannot forget {id_}: {error.strerror}"
            raise DriverUnavailableError(msg) from error
        self._known.forget(id_)

    def remove_job(self, job_id: str, attempt_ids: Sequence[str], tenancy: Tenancy) -> bool:
        """Remove a piece of the job's folder; a cluster that is silent may still run it."""
        ids.check(job_id, ids.JOB)
        seen = self._listing.current()
        self._look(seen)
        living = [id_ for id_ in attempt_ids if self._may_live(id_, seen)]
        if living:
            raise DriverUnavailableError(f"{living[0]} of {job_id} may still run")
        try:
            places = orders.job_places(self._settings, job_id, tenancy)
            is_gone = self._folders.remove_first(places)
        except OSError as error:
            msg = f"cannot remove the files of {job_id}: {error.strerror}"
            raise DriverUnavailableError(msg) from error
        for id_ in attempt_ids if is_gone else ():
            self._known.forget(id_)
        return is_gone

    def logs(self, id_: str, lines_max: int) -> list[str]:
        """Return the last lines of the engine, or of an attempt's first node."""
        place = self._place(id_)
        if place is None or lines_max < 1:
            return []
        try:
            return self._folders.last_lines(id_, place, min(lines_max, LOG_LINES_MAX))
        except OSError as error:
            msg = f"the log of {id_} cannot be read: {error.strerror or error}"
            raise DriverUnavailableError(msg) from error

    def read_log(self, attempt_id: str, rank: int, offset: int, bytes_max: int) -> bytes:
        """Return what an attempt wrote on its node number ``rank``, from ``offset`` on."""
        place = self._place(attempt_id)
        if place is None or rank < 0:
            return b""
        try:
            return self._folders.read(place, rank, offset, bytes_max)
        except OSError as error:
            msg = f"the log of {attempt_id} cannot be read: {error.strerror or error}"
            raise DriverUnavailableError(msg) from error

    def account(self, attempt_ids: Sequence[str]) -> Mapping[str, AttemptRecord]:
        """Return what slurmdbd knows of those that are over; without one, what was seen.

        A question takes a tenth of a second, however many it is about: who starts several asks
        for all of them first.
        """
        if self._api.has_accounting:
            found = self._accounted(attempt_ids)
        else:
            entries = ((id_, self._known.get(id_)) for id_ in attempt_ids)
            found = {id_: entry.job for id_, entry in entries if entry is not None}
        records = ((id_, jobs.record(id_, job)) for id_, job in found.items())
        return {id_: record for id_, record in records if record is not None}

    def set_drained(self, node_name: str, reason: str | None) -> None:
        """Drain the node in Slurm, for everybody, or undrain it."""
        if node_name not in {node.name for node in self._listing.current().nodes}:
            msg = f"cluster {self._cluster} has no node {node_name}"
            raise ValueError(msg)
        words = None if reason is None else " ".join(reason.split()) or "no reason was given"
        if self._api.dialect.can_update_nodes:
            self._api.drain(node_name, words)
        else:
            self._scontrol.drain(node_name, words)
        self._listing.nodes_changed()

    # -- starting something once ----------------------------------------------------------------

    def _start_once(self, id_: str, make: Callable[[Seen], tuple[JobOrder, str]]) -> None:
        with self._alone(id_):
            if self._known.is_forgotten(id_):
                return
            seen = self._settled(id_)
            self._look(seen)
            if self._known.get(id_) is not None or id_ in seen.jobs:
                self._unsettled.pop(id_, None)
                return
            if self._was_accounted(id_):
                return
            order, user = make(seen)
            self._submit(id_, order, user)

    def _settled(self, id_: str) -> Seen:
        """Return a listing that shows every earlier submission of an id.

        Raises `DriverUnavailableError` while there can be none.
        """
        failed_at = self._unsettled.get(id_)
        if failed_at is None:
            return self._listing.current()
        settled_at = failed_at + self._settle_s
        if time.monotonic() < settled_at:
            seen = self._listing.current()
            if id_ in seen.jobs:
                return seen
            msg = f"whether Slurm took {id_} is not known yet; it is looked for"
            raise DriverUnavailableError(msg)
        return self._listing.since(settled_at)

    def _was_accounted(self, id_: str) -> bool:
        """Tell whether the id ever was a job that slurmctld has forgotten since.

        With slurmdbd away things start all the same: the run directory can be claimed only once.
        """
        is_unsettled, absent_at = id_ in self._unsettled, self._absent_at.get(id_, float("-inf"))
        if not is_unsettled and time.monotonic() - absent_at < ABSENT_S:
            return False
        try:
            found = self._accounted([id_])
        except DriverUnavailableError as error:
            log.warning("%s: accounting does not answer: %s", self._cluster, error)
            return False
        if id_ not in found:
            return False
        self._known.learn(id_, found[id_], time.monotonic())
        self._unsettled.pop(id_, None)
        return True

    def _submit(self, id_: str, order: JobOrder, user: str) -> None:
        asks_for_rack = order.in_one_rack and not self._api.dialect.can_require_one_rack
        order = replace(order, is_held=asks_for_rack)
        try:
            job_id = self._api.submit(order, user)
        except NotSentError:
            self._unsettled.pop(id_, None)
            raise
        except SlurmRefusalError as error:
            self._unsettled.pop(id_, None)
            if error.number in NO_ACCOUNT and self._settings.manage_accounts:
                msg = f"its account on {self._cluster} is not there yet: {error}"
                raise DriverUnavailableError(msg) from error
            raise
        except DriverUnavailableError:
            self._unsettled[id_] = time.monotonic()
            raise
        self._unsettled.pop(id_, None)
        job = orders.submitted(order, job_id, user, self._clock.now_ms() // 1000)
        self._known.learn(id_, job, time.monotonic(), is_guess=True)
        if asks_for_rack:
            self._scontrol.require_one_rack(job_id)

    # -- knowing what became of it --------------------------------------------------------------

    def _look(self, seen: Seen) -> Mapping[str, Entry]:
        """Return all that is known, and put right what should not be."""
        entries, unwanted = self._known.merge(seen, time.monotonic())
        missing = [id_ for id_, entry in entries.items() if entry.missing_since is not None]
        if missing and self._is_time("resolve", "", RESOLVE_EVERY_S):
            self._resolve(missing, entries)
            entries, _ = self._known.merge(seen, time.monotonic())
        for job in unwanted:
            if self._is_time("unwanted", str(job.job_id), TIDY_EVERY_S):
                log.warning(
                    "%s: cancelling job %d, %s runs once", self._cluster, job.job_id, job.name
                )
                self._try(lambda job=job: self._api.cancel(job.job_id, job.user))
        for id_, entry in entries.items():
            if jobs.waits_for_rack(entry.job):
                self._release(id_, entry.job)
            if entry.job.is_renamed and not entry.is_over:
                self._name_again(id_, entry.job)
        return entries

    def _resolve(self, missing: Sequence[str], entries: Mapping[str, Entry]) -> None:
        """Find out how jobs ended that slurmctld does not list any more."""
        try:
            found = self._accounted(missing)
        except DriverUnavailableError as error:
            log.warning("%s: accounting does not answer: %s", self._cluster, error)
            return  # unknown is not gone
        now = time.monotonic()
        for id_ in missing:
            entry, ended = entries[id_], found.get(id_)
            if ended is None and now - (entry.missing_since or now) >= MISSING_S:
                ended = self._look_as_owner(id_, entry.job)
            if ended is not None and attempt_state(ended).is_over:
                self._known.learn(id_, ended, now)

    def _look_as_owner(self, id_: str, job: SlurmJob) -> SlurmJob | None:
        """Return the job as its own user sees it, or its end when Slurm has lost it."""
        try:
            seen = self._api.job(job.job_id, job.user)
        except DriverUnavailableError:
            return None  # unknown is not gone
        if seen is None:
            log.warning("%s: Slurm lost job %d of %s", self._cluster, job.job_id, id_)
            return lost(job, self._clock.now_ms() // 1000)
        if self._is_time("hidden", "", HIDDEN_EVERY_S):
            log.error("%s: %s", self._cluster, self._api.hidden_hint)
        return seen

    def _release(self, id_: str, job: SlurmJob) -> None:
        """Finish a submission that was interrupted before its rack was asked for."""
        with self._alone(id_, wait=False) as is_mine:
            if is_mine and self._is_time("release", id_, TIDY_EVERY_S):
                self._try(lambda: self._scontrol.require_one_rack(job.job_id))

    def _name_again(self, id_: str, job: SlurmJob) -> None:
        """Undo a change of name or comment: by them a job is found after a restart, and billed."""
        if self._is_time("name", id_, TIDY_EVERY_S):
            log.warning("%s: job %d gets its name back: %s", self._cluster, job.job_id, id_)
            self._try(lambda: self._scontrol.rename(job.job_id, job.name, job.comment))

    def _accounted(self, wanted: Sequence[str], back_s: int = ACCOUNTING_S) -> dict[str, SlurmJob]:
        """Return the jobs that slurmdbd knows by those names.

        After an outage it is left alone for a while: what starts meanwhile should not wait for it.
        """
        failed_at, words = self._accounting_outage
        if time.monotonic() - failed_at < ACCOUNTING_PAUSE_S:
            raise DriverUnavailableError(words)
        try:
            listed = self._api.accounted(wanted, self._clock.now_ms() // 1000 - back_s)
        except DriverUnavailableError as error:
            self._accounting_outage = time.monotonic(), str(error)
            raise
        found = jobs.best_of([job for job in listed if job.user in self._users])
        self._note_absent(set(wanted) - found.keys())
        return found

    def _note_absent(self, absent: Iterable[str]) -> None:
        now = time.monotonic()
        with self._lock:
            kept = {id_: at for id_, at in self._absent_at.items() if now - at < ABSENT_S}
            self._absent_at = kept | dict.fromkeys(absent, now)

    def _find(self, id_: str) -> Entry | None:
        """Return what is known of an id, from a listing if it must be."""
        self._look(self._listing.current())
        return self._known.get(id_)

    def _place(self, id_: str) -> tuple[str, ...] | None:
        """Return the run directory of an id below the work root."""
        entry = self._known.get(id_) or self._find(id_)
        job = entry.job if entry else self._accounted([id_], KEPT_S).get(id_)
        return self._folders.of(id_, job) if job else None

    def _may_live(self, id_: str, seen: Seen) -> bool:
        """Tell whether something of the id runs or may start: a second run of it too."""
        entry, listed = self._known.get(id_), seen.jobs.get(id_, ())
        if id_ in self._unsettled or (entry is not None and not entry.is_over):
            return True
        return any(not attempt_state(job).is_over for job in listed)

    # -- small tools ----------------------------------------------------------------------------

    @contextmanager
    def _alone(self, id_: str, *, wait: bool = True) -> Iterator[bool]:
        """Do nothing else with an id meanwhile; yields False if ``wait`` is and it is taken."""
        lock = self._stripes[hash(id_) % len(self._stripes)]
        is_mine = lock.acquire(blocking=wait)
        try:
            yield is_mine
        finally:
            if is_mine:
                lock.release()

    def _is_time(self, what: str, whom: str, every_s: float) -> bool:
        now = time.monotonic()
        with self._lock:
            if now - self._acted_at.get((what, whom), float("-inf")) < every_s:
                return False
            if len(self._acted_at) > ACTS_MAX:
                self._acted_at.clear()
            self._acted_at[what, whom] = now
            return True

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except (DriverUnavailableError, ValueError) as error:
            log.warning("%s: %s; tried again later", self._cluster, error)
