"""Deleting jobs that are over, and how long what they left is kept: what clients see of it."""

from dataclasses import replace
from typing import Any

from tests.api.test_jobs import PLAIN, make, make_attempt, submit
from tests.support.cloud import Cloud, check_error
from tramontane.domain.jobs.job import AttemptStatus, Job, JobStatus
from tramontane.domain.jobs.retention import DAY_MS
from tramontane.domain.launch import PriorityClass
from tramontane.store.jobs import jobs, retained
from tramontane.store.quotas import class_prices


def delete(cloud: Cloud, ref: str, key: str | None = None) -> Any:
    return cloud.call("DELETE", f"/cloud/v1/jobs/{ref}", key=key or cloud.keys.api_key)


def ended(cloud: Cloud, **changes: Any) -> Job:
    """Record a job that ran once and is over and charged."""
    now_ms = cloud.clock.now_ms()
    job = make(cloud, status=JobStatus.SUCCEEDED, ended_at_ms=now_ms, **changes)
    attempt = make_attempt(
        cloud, job, status=AttemptStatus.SUCCEEDED, started_at_ms=now_ms, ended_at_ms=now_ms,
        is_accounted=True, device_seconds=5,
    )  # fmt: skip
    cloud.db.write(
        lambda tx: class_prices.charge(tx, attempt.id, PriorityClass.STANDARD, 5, now_ms)
    )
    return cloud.db.write(
        lambda tx: jobs.update(tx, job, replace(job, cluster_id=attempt.cluster_id))
    )


def test_a_deleted_job_is_gone_and_its_bill_and_story_stay(cloud: Cloud) -> None:
    job = ended(cloud)
    before = cloud.cloud("GET", f"/usage/attempts?job={job.id}", key=cloud.keys.api_key)
    assert len(before["data"]) == 1
    gone = {"object": "job", "id": job.id, "deleted": True}
    assert (delete(cloud, job.id).status_code, delete(cloud, job.id).json()) == (200, gone)
    for path in ("", "/attempts", "/logs"):
        reply = cloud.call("GET", f"/cloud/v1/jobs/{job.id}{path}")
        check_error(reply, 404, "not_found")
    assert cloud.cloud("GET", "/jobs")["data"] == []
    check_error(cloud.call("GET", "/cloud/v1/jobs/train"), 404, "not_found")
    for _ in range(2):  # before its files are gone, and after that
        after = cloud.cloud("GET", f"/usage/attempts?job={job.id}", key=cloud.keys.api_key)
        shown = [{**line, "reason": None} for line in before["data"]]
        assert ([{**line, "reason": None} for line in after["data"]]) == shown
        assert after["totals"] == before["totals"]
        cloud.db.write(lambda tx: retained.note_files_removed(tx, job.id, 5))
    story = cloud.cloud("GET", f"/events?subject={job.id}", key=cloud.keys.api_key)["data"]
    assert [event["kind"] for event in story].count("job.deleted") == 1
    assert delete(cloud, job.id).json() == gone


def test_a_second_call_changes_nothing_even_when_nothing_is_left(cloud: Cloud) -> None:
    job = make(cloud, status=JobStatus.CANCELLED, ended_at_ms=1)
    assert delete(cloud, job.id).status_code == 200
    with cloud.db.read() as tx:
        assert jobs.get(tx, job.id) is None, "it never started: no bill needs it"
    stranger = cloud.new_member("stranger")
    with cloud.unchanged():
        assert delete(cloud, job.id).status_code == 200
        check_error(delete(cloud, job.id, stranger), 404, "not_found")
        check_error(delete(cloud, "job_" + "a" * 20), 404, "not_found")


def test_what_goes_on_is_refused(cloud: Cloud) -> None:
    job = make(cloud, status=JobStatus.RUNNING)
    pending = submit(cloud, PLAIN).json()
    with cloud.unchanged():
        message = check_error(delete(cloud, job.id), 409, "conflict")
        assert f"{job.id} is running" in message
        assert "cancel it" in message
        check_error(delete(cloud, pending["id"]), 409, "conflict")


def test_what_another_job_waits_for_is_refused(cloud: Cloud) -> None:
    job = ended(cloud)
    waiting = submit(cloud, PLAIN | {"name": "next", "depends_on": [job.id]}).json()
    with cloud.unchanged():
        message = check_error(delete(cloud, job.id), 409, "in_use")
        assert waiting["id"] in message
    with cloud.db.read() as tx:
        seen = jobs.get(tx, waiting["id"])
    assert seen is not None
    cloud.db.write(lambda tx: jobs.update(tx, seen, replace(seen, status=JobStatus.CANCELLED)))
    assert delete(cloud, job.id).status_code == 200
    reply = submit(cloud, PLAIN | {"depends_on": [job.id]})
    check_error(reply, 404, "not_found", "depends_on")


def test_a_name_is_refused_since_it_means_another_job_the_next_time(cloud: Cloud) -> None:
    ended(cloud)
    cloud.clock.advance(1)
    newest = ended(cloud)
    with cloud.unchanged():
        message = check_error(delete(cloud, "train"), 400, "invalid_value", "job")
        check_error(delete(cloud, "no-such"), 404, "not_found")
    assert f"means {newest.id}" in message


def test_another_tenants_job_is_not_there(cloud: Cloud) -> None:
    job = ended(cloud)
    stranger = cloud.new_member("stranger")
    with cloud.unchanged():
        message = check_error(delete(cloud, job.id, stranger), 404, "not_found")
    assert message == f"there is no job {job.id}"
    assert cloud.cloud("GET", f"/jobs/{job.id}", key=cloud.keys.api_key)["id"] == job.id


def test_an_idempotency_key_is_free_again(cloud: Cloud) -> None:
    once = {"headers": {"idempotency-key": "once"}}
    made = submit(cloud, PLAIN, **once).json()
    with cloud.db.read() as tx:
        seen = jobs.get(tx, made["id"])
    assert seen is not None
    cloud.db.write(
        lambda tx: jobs.update(tx, seen, replace(seen, status=JobStatus.FAILED, ended_at_ms=1))
    )
    assert submit(cloud, PLAIN, **once).json()["id"] == made["id"]
    assert delete(cloud, made["id"]).status_code == 200
    assert submit(cloud, PLAIN, **once).json()["id"] != made["id"]


def test_a_job_says_until_when_its_files_are_kept(cloud: Cloud) -> None:
    going = submit(cloud, PLAIN).json()
    assert (going["files_kept_until_ms"], going["files_removed_at_ms"]) == (None, None)
    job = ended(cloud)
    shown = cloud.cloud("GET", f"/jobs/{job.id}")
    assert shown["files_kept_until_ms"] == (job.ended_at_ms or 0) + 30 * DAY_MS
    assert cloud.call("GET", f"/cloud/v1/jobs/{job.id}/logs").text == "first line\nlast line\n"
    cloud.clock.advance(31 * DAY_MS)
    now_ms = cloud.clock.now_ms()
    cloud.db.write(lambda tx: retained.give_up_files(tx, job, now_ms))
    shown = cloud.cloud("GET", f"/jobs/{job.id}")
    assert (shown["files_kept_until_ms"], shown["files_removed_at_ms"]) == (now_ms, None)
    cloud.db.write(lambda tx: retained.note_files_removed(tx, job.id, now_ms + 5))
    shown = cloud.cloud("GET", f"/jobs/{job.id}")
    assert (shown["files_kept_until_ms"], shown["files_removed_at_ms"]) == (None, now_ms + 5)
    message = check_error(cloud.call("GET", f"/cloud/v1/jobs/{job.id}/logs"), 404, "not_found")
    assert "is not kept any more" in message
    assert cloud.cloud("GET", f"/jobs/{job.id}/attempts")["data"][0]["status"] == "succeeded"
