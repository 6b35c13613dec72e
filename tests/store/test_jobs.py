"""Rows of jobs and attempts: round trips, one project's own, guards, what is live."""

from dataclasses import fields, replace
from typing import Any

import pytest

from tests.store import samples
from tests.store.samples import CLUSTER, NOW_MS, OTHER_PROJECT, PROJECT
from tests.store.test_indexes import is_slow, plans
from tests.support.jobs import attempt_of, job_of
from tests.support.planning import typed_id
from tramontane.domain import ids
from tramontane.domain.jobs.attempt import ShippedFile, Topology
from tramontane.domain.jobs.job import Attempt, AttemptStatus, Job, JobStatus
from tramontane.domain.launch import PriorityClass
from tramontane.store.db import Database, StaleError
from tramontane.store.jobs import attempts, jobs, retained
from tramontane.store.jobs import tables as made

FILES = (ShippedFile("a/b", "eA==", is_executable=True),)


@pytest.fixture
def populated(database: Database) -> Database:
    samples.populate(database)
    return database


def put(database: Database, *new: Job, files: tuple[ShippedFile, ...] = ()) -> None:
    for job in new:
        assert database.write(lambda tx, job=job: jobs.insert(tx, job, files))


def try_on(database: Database, *new: Attempt) -> None:
    for attempt in new:
        database.write(lambda tx, attempt=attempt: attempts.insert(tx, attempt))


def read(database: Database, fn: Any, *arguments: Any, **options: Any) -> Any:
    with database.read() as tx:
        return fn(tx, *arguments, **options)


def test_every_field_has_its_column() -> None:
    assert {f.name for f in fields(Job)} == set(made.jobs.c.keys())
    assert {f.name for f in fields(Attempt)} == set(made.attempts.c.keys())


def test_a_job_is_read_as_it_was_written(populated: Database) -> None:
    job = job_of(
        env=(("A", "ü\n"),),
        file_paths=("a/b",),
        priority_class=PriorityClass.SPOT,
        depends_on=(typed_id(ids.JOB, 9),),
        array=3,
        topology=Topology.RACK,
        hang_after_s=5,
        cluster="alps",
        idempotency_key="k",
        digest="d",
        reason="so",
    )
    put(populated, job, files=FILES)
    assert read(populated, jobs.get_for, PROJECT, job.id) == job
    assert read(populated, jobs.get_for, None, job.id) == job
    assert read(populated, jobs.get_for, OTHER_PROJECT, job.id) is None
    assert read(populated, jobs.files_of, job.id) == FILES
    assert read(populated, jobs.get_by_key, PROJECT, "k") == job
    assert read(populated, jobs.get_by_key, OTHER_PROJECT, "k") is None


def test_a_name_means_the_newest(populated: Database) -> None:
    old, new = job_of(1, name="train"), job_of(2, name="train")
    put(populated, old, new)
    assert read(populated, jobs.get_named, PROJECT, "train") == new
    assert read(populated, jobs.get_named, OTHER_PROJECT, "train") is None


def test_an_idempotency_key_is_used_once_in_a_project(populated: Database) -> None:
    put(populated, job_of(1, idempotency_key="k"), job_of(2), job_of(3))
    again = job_of(4, idempotency_key="k")
    assert not populated.write(lambda tx: jobs.insert(tx, again, FILES))
    assert read(populated, jobs.files_of, again.id) == ()
    put(populated, replace(again, project_id=OTHER_PROJECT))


def test_pages_in_both_orders(populated: Database) -> None:
    found = [job_of(n) for n in range(1, 6)]
    put(populated, *found, job_of(7, project_id=OTHER_PROJECT))
    page = read(populated, jobs.list_for, PROJECT, limit=2)
    assert page == found[:2]
    assert read(populated, jobs.list_for, PROJECT, after=page[-1].id, limit=9) == found[2:]
    page = read(populated, jobs.list_for, PROJECT, limit=2, newest_first=True)
    assert page == [found[4], found[3]]
    rest = read(populated, jobs.list_for, PROJECT, after=page[-1].id, limit=9, newest_first=True)
    assert rest == found[2::-1]
    pending = read(populated, jobs.list_for, None, status=JobStatus.PENDING)
    assert len(pending) == 6
    assert read(populated, jobs.list_for, None, status=JobStatus.FAILED) == []


def test_a_job_that_is_over_is_not_live_and_ships_nothing_more(populated: Database) -> None:
    job, other = job_of(1), job_of(2)
    put(populated, job, other, files=FILES)
    ended = replace(job, status=JobStatus.FAILED, ended_at_ms=NOW_MS, cluster_id=CLUSTER)
    stored = populated.write(lambda tx: jobs.update(tx, job, ended))
    assert stored == replace(ended, revision=2)
    assert read(populated, jobs.list_live) == [other]
    assert read(populated, jobs.files_of, job.id) == ()
    assert read(populated, jobs.files_of, other.id) == FILES
    known = read(populated, jobs.statuses_of, {job.id, other.id, typed_id(ids.JOB, 9)})
    assert known == {job.id: JobStatus.FAILED, other.id: JobStatus.PENDING}
    with pytest.raises(StaleError):
        populated.write(lambda tx: jobs.update(tx, job, ended))


def test_an_attempt_is_read_as_it_was_written(populated: Database) -> None:
    job = job_of()
    put(populated, job)
    full: dict[str, Any] = {
        "node_names": ("a", "b"),
        "devices": 8,
        "reason": "ü",
        "exit_code": -9,
        "started_at_ms": 1,
        "ended_at_ms": 2,
        "starts_at_ms": 3,
        "external_id": "4711",
        "device_seconds": 5,
        "is_forgotten": True,
    }
    attempt = attempt_of(job, AttemptStatus.FAILED, **full)
    try_on(populated, attempt)
    assert read(populated, attempts.get, attempt.id) == attempt
    moved = replace(attempt, is_accounted=False, reason=None)
    assert populated.write(lambda tx: attempts.update(tx, attempt, moved)).revision == 2
    with pytest.raises(StaleError):
        populated.write(lambda tx: attempts.update(tx, attempt, moved))


def test_an_index_has_a_number_once(populated: Database) -> None:
    job = job_of(array=2)
    put(populated, job)
    try_on(populated, attempt_of(job), attempt_of(job, index=1), attempt_of(job, number=2))
    twin = attempt_of(job, id=typed_id(ids.ATTEMPT, 999_999))
    with pytest.raises(StaleError):
        try_on(populated, twin)


def test_attempts_in_pages_and_by_number(populated: Database) -> None:
    job = job_of(array=2)
    made_ = [attempt_of(job, number=n, index=i) for i in (0, 1) for n in (1, 2)]
    put(populated, job)
    try_on(populated, *made_[::-1])
    assert read(populated, attempts.list_of, job.id) == made_
    assert read(populated, attempts.list_of, job.id, after=(0, 2), limit=1) == [made_[2]]
    assert read(populated, attempts.get_numbered, job.id, 1, None) == made_[3]
    assert read(populated, attempts.get_numbered, job.id, 1, 1) == made_[2]
    assert read(populated, attempts.get_numbered, job.id, 2, None) is None


def test_what_is_live_and_unaccounted(populated: Database) -> None:
    job, over = job_of(1), job_of(2, status=JobStatus.FAILED)
    put(populated, job, over)
    live = attempt_of(job)
    ended = attempt_of(over, AttemptStatus.FAILED, is_accounted=False, ended_at_ms=NOW_MS)
    counted = attempt_of(over, AttemptStatus.FAILED, number=2, ended_at_ms=NOW_MS - 5)
    try_on(populated, live, ended, counted)
    assert read(populated, attempts.list_live) == [live]
    assert {a.id for a in read(populated, attempts.list_unaccounted)} == {live.id, ended.id}
    assert read(populated, attempts.list_among, {live.id, "att_x"}) == [live]
    (holding,) = read(populated, attempts.holdings)
    assert (holding.attempt_id, holding.node_id) == (live.id, live.node_id)
    assert (holding.resources, holding.device_indexes) == (job.spec.resources, (0,))


def test_who_may_report_and_who_is_wanted(populated: Database) -> None:
    job, cancelled = job_of(1), job_of(2, cancelled_at_ms=NOW_MS)
    put(populated, job, cancelled)
    live, unwanted = attempt_of(job), attempt_of(cancelled)
    over = attempt_of(job, AttemptStatus.FAILED, number=2)
    try_on(populated, live, unwanted, over)
    assert read(populated, attempts.secret_of, live.id) == "very-secret"
    assert read(populated, attempts.secret_of, "att_x") is None
    wanted = [read(populated, attempts.is_wanted, it.id) for it in (live, unwanted, over)]
    assert wanted == [True, False, False]


READS: dict[str, Any] = {
    "jobs": lambda tx: jobs.list_for(tx, None, after=job_of().id),
    "jobs of one": lambda tx: jobs.list_for(tx, PROJECT, after=job_of().id),
    "newest jobs of one": lambda tx: jobs.list_for(
        tx, PROJECT, after=job_of().id, newest_first=True
    ),
    "live jobs": jobs.list_live,
    "job by key": lambda tx: jobs.get_by_key(tx, PROJECT, "k"),
    "job by name": lambda tx: jobs.get_named(tx, PROJECT, "n"),
    "attempts of a job": lambda tx: attempts.list_of(tx, job_of().id),
    "live attempts": attempts.list_live,
    "unaccounted attempts": attempts.list_unaccounted,
    "unexpired jobs": lambda tx: retained.list_unexpired(
        tx, ended_before_ms=NOW_MS, after=(1, job_of().id), limit=9
    ),
    "expired jobs": lambda tx: retained.list_expired(
        tx, cluster_id=CLUSTER, after=(1, job_of().id), limit=9
    ),
    "jobs without files": lambda tx: retained.list_without_files(
        tx, ended_before_ms=NOW_MS, after=(1, job_of().id), limit=9
    ),
    "settled": lambda tx: retained.is_settled(tx, job_of().id),
    "ids of attempts": lambda tx: retained.attempt_ids(tx, job_of().id),
    "one attempt of a job": lambda tx: attempts.get_numbered(tx, job_of().id, 0, None),
    "wanted": lambda tx: attempts.is_wanted(tx, "att_x"),
}


@pytest.mark.parametrize("name", READS)
def test_a_list_is_read_along_an_index(sqlite_database: Database, name: str) -> None:
    samples.populate(sqlite_database)
    put(sqlite_database, job_of())
    told = plans(sqlite_database, READS[name])
    assert [step for step in told if is_slow(step)] == [], told
