"""How long what is left of an ended job is kept: pure decisions."""

from dataclasses import replace

import pytest

from tests.support.jobs import CLUSTER_ID, job_of
from tests.support.planning import NOW_MS
from tramontane.domain.jobs.job import Job, JobStatus
from tramontane.domain.jobs.retention import (
    DAY_MS,
    Retention,
    check_deletable,
    given_up,
    gives_up_files,
    leaves_list,
    retention_of_days,
    taken_out,
)
from tramontane.domain.refusal import Code

KEPT = Retention(30 * DAY_MS, 90 * DAY_MS)
FOR_EVER = Retention(None, None)
ENDED = job_of(status=JobStatus.SUCCEEDED, ended_at_ms=NOW_MS, cluster_id=CLUSTER_ID)
EMPTY = replace(ENDED, files_expired_at_ms=NOW_MS, files_removed_at_ms=NOW_MS + 5)


def test_when_its_files_go() -> None:
    assert KEPT.files_kept_until_ms(ENDED) == NOW_MS + 30 * DAY_MS
    assert KEPT.files_kept_until_ms(job_of()) is None
    assert FOR_EVER.files_kept_until_ms(ENDED) is None
    going = replace(ENDED, files_expired_at_ms=NOW_MS + 7)
    assert KEPT.files_kept_until_ms(going) == FOR_EVER.files_kept_until_ms(going) == NOW_MS + 7
    assert KEPT.files_kept_until_ms(EMPTY) is None


@pytest.mark.parametrize(
    ("job", "needed", "retention", "after_ms", "expected"),
    [
        (ENDED, set[str](), KEPT, 30 * DAY_MS, True),
        (ENDED, set[str](), KEPT, 30 * DAY_MS - 1, False),
        (ENDED, {ENDED.id}, KEPT, 400 * DAY_MS, False),
        (ENDED, {"job_other"}, KEPT, 30 * DAY_MS, True),
        (ENDED, set[str](), FOR_EVER, 4_000 * DAY_MS, False),
        (job_of(status=JobStatus.RUNNING), set[str](), KEPT, 400 * DAY_MS, False),
        (EMPTY, set[str](), KEPT, 400 * DAY_MS, False),
    ],
)
def test_files_are_given_up_when_kept_long_enough(
    job: Job, needed: set[str], retention: Retention, after_ms: int, *, expected: bool
) -> None:
    assert gives_up_files(job, needed, retention, NOW_MS + after_ms) is expected


@pytest.mark.parametrize(
    ("job", "needed", "retention", "after_ms", "expected"),
    [
        (EMPTY, set[str](), KEPT, 90 * DAY_MS, True),
        (EMPTY, set[str](), KEPT, 90 * DAY_MS - 1, False),
        (EMPTY, {EMPTY.id}, KEPT, 90 * DAY_MS, False),
        (ENDED, set[str](), KEPT, 900 * DAY_MS, False),
        (replace(EMPTY, files_removed_at_ms=None), set[str](), KEPT, 900 * DAY_MS, False),
        (replace(EMPTY, deleted_at_ms=NOW_MS), set[str](), KEPT, 900 * DAY_MS, False),
        (EMPTY, set[str](), Retention(DAY_MS, None), 900 * DAY_MS, False),
    ],
)
def test_a_job_leaves_the_list_after_its_files(
    job: Job, needed: set[str], retention: Retention, after_ms: int, *, expected: bool
) -> None:
    assert leaves_list(job, needed, retention, NOW_MS + after_ms) is expected


def test_what_may_be_deleted() -> None:
    assert check_deletable(ENDED, []) is None
    for status in (JobStatus.PENDING, JobStatus.RUNNING):
        refusal = check_deletable(job_of(status=status), [])
        assert refusal is not None
        assert refusal.code is Code.CONFLICT
        assert f"is {status}" in refusal.message
        assert "cancel it" in refusal.message
    refusal = check_deletable(ENDED, [job_of(2)])
    assert refusal is not None
    assert refusal.code is Code.IN_USE
    assert job_of(2).id in refusal.message


def test_of_a_deleted_job_its_shape_stays_and_nothing_that_was_written_into_it() -> None:
    job = replace(
        job_of(
            command=("sh", "-c", "secret"),
            env=(("TOKEN", "secret"),),
            file_paths=("secret.txt",),
            depends_on=("job_x",),
            array=3,
            nodes=2,
        ),
        status=JobStatus.FAILED,
        ended_at_ms=NOW_MS,
        cluster_id=CLUSTER_ID,
        reason="secret",
        idempotency_key="secret",
        digest="secret",
    )
    gone = taken_out(job, NOW_MS + 9)
    assert "secret" not in repr(gone)
    assert (gone.name, gone.spec.array, gone.spec.nodes) == (job.name, 3, 2)
    assert gone.spec.priority_class == job.spec.priority_class
    assert (gone.deleted_at_ms, gone.files_expired_at_ms) == (NOW_MS + 9, NOW_MS + 9)
    assert gone.files_removed_at_ms is None, "that is for its cluster to say"


def test_a_job_that_had_no_cluster_has_no_files() -> None:
    never = replace(ENDED, cluster_id=None)
    assert given_up(never, NOW_MS).files_removed_at_ms == NOW_MS
    assert given_up(ENDED, NOW_MS).files_removed_at_ms is None
    again = given_up(given_up(ENDED, NOW_MS), NOW_MS + 5)
    assert again.files_expired_at_ms == NOW_MS, "what was given up once stays so"


def test_days_as_settings_say_them() -> None:
    assert retention_of_days(30, 90) == KEPT == Retention()
    assert retention_of_days(30, 30) == Retention(30 * DAY_MS, 30 * DAY_MS)
    assert retention_of_days(0, 0) == FOR_EVER
    assert retention_of_days(7, 0) == Retention(7 * DAY_MS, None)


@pytest.mark.parametrize(
    ("files", "listed", "told"),
    [
        (31, 30, "set jobs_keep_days to 31 or more, or to 0 (for ever)"),
        (0, 90, "set jobs_keep_days to 0 (for ever)"),
    ],
)
def test_no_job_leaves_the_list_before_its_files(files: int, listed: int, told: str) -> None:
    with pytest.raises(ValueError, match="jobs_keep_days") as raised:
        retention_of_days(files, listed)
    assert told in str(raised.value)
