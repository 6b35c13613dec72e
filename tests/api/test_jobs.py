"""/cloud/v1/jobs: what is refused before anything is recorded, and what a job shows."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from tests.support.cloud import Cloud, check_error
from tests.support.jobs import attempt_of
from tramontane.api.routes.jobs import jobs as routes
from tramontane.domain.fleet import Cluster, ClusterStatus, Device, Node, NodeStatus
from tramontane.domain.jobs.attempt import AttemptState
from tramontane.domain.jobs.job import Attempt, AttemptStatus, Job, JobStatus
from tramontane.domain.launch import PriorityClass
from tramontane.domain.resources import Resources
from tramontane.services.jobs import use_cases
from tramontane.services.quotas.owned import Subject
from tramontane.store import fleet
from tramontane.store.jobs import attempts, jobs

GIB = 1 << 30
PLAIN: dict[str, Any] = {"name": "train", "command": ["true"]}


def with_racks(cloud: Cloud) -> None:
    """Record a cluster ``alps`` of five nodes with four devices each, in two racks."""
    now_ms = cloud.clock.now_ms()

    def write(tx: Any) -> None:
        cluster = Cluster(cloud.ids.new("clu"), "alps", "slurm", ClusterStatus.READY, now_ms)
        cluster = fleet.upsert_cluster(tx, cluster)
        devices = tuple(Device(index, "gpu", 80 * GIB) for index in range(4))
        for number, rack in enumerate(("r1", "r1", "r2", "r2", "r2"), 1):
            capacity = Resources(8_000, 16 * GIB, 4)
            name = f"n{number}"
            node = Node(
                cloud.ids.new("nod"), cluster.id, name, NodeStatus.READY, capacity, devices, now_ms
            )
            fleet.upsert_node(tx, replace(node, rack=rack))

    cloud.db.write(write)


@pytest.fixture(scope="module")
def alps(shared_cloud: Cloud) -> Cloud:
    """A cloud with a cluster, and a quota of twelve devices for its project."""
    with_racks(shared_cloud)
    project = Subject(project=shared_cloud.project.id)
    shared_cloud.services.quotas.set(shared_cloud.operator, project, 12, 1)
    return shared_cloud


def submit(cloud: Cloud, body: dict[str, Any], **sent: Any) -> Any:
    return cloud.call("POST", "/cloud/v1/jobs", key=cloud.keys.api_key, json=body, **sent)


def file(path: str, content: bytes = b"x") -> dict[str, Any]:
    return {"path": path, "content": base64.b64encode(content).decode()}


GPUS = {"devices": 4, "memory_bytes": GIB}
# What is asked, the field at fault, what the reason says, and the nearest that would pass.
REFUSED: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "more devices than any node": (
        {"devices": 8},
        "devices",
        "no node has that much",
        "ask for at most 1 CPU, 1.0 GiB memory, 4 devices",
    ),
    "more memory than any node": (
        {"memory_bytes": 99 * GIB},
        "memory_bytes",
        "no node has that much",
        "16.0 GiB memory",
    ),
    "more nodes than the cluster": (
        {"nodes": 6},
        "nodes",
        "cluster alps has 5",
        "ask for at most 5 nodes",
    ),
    "more nodes than a rack": (
        {"nodes": 4, "topology": "rack"},
        "nodes",
        "rack r2 of cluster alps, the largest, has 3",
        "ask for at most 3 nodes",
    ),
    "more than the quota": (
        {"nodes": 4, **GPUS},
        "nodes",
        "the quota of its project is 12",
        "at most 3 nodes of 4 devices",
    ),
    "an unknown cluster": (
        {"cluster": "main"},
        "cluster",
        "there is no cluster 'main'",
        "expected one of alps",
    ),
    "an unknown class": (
        {"priority_class": "gold"},
        "priority_class",
        "not 'gold'",
        "'reserved', 'standard' or 'spot'",
    ),
    "a class that no quota names": (
        {"priority_class": "reserved"},
        "priority_class",
        "the class reserved, and its project may ask for standard and spot",
        "ask for standard, or ask an operator for a quota that names reserved",
    ),
    "an unknown topology": (
        {"topology": "ring"},
        "topology",
        "not 'ring'",
        "'any', 'rack' or 'spread'",
    ),
    "a path outside the project": (
        {"files": [file("../other-project/secrets")]},
        "files",
        "leads out of the job's working folder",
        "such as 'other-project/secrets'",
    ),
    "an absolute path": (
        {"files": [file("/etc/passwd")]},
        "files",
        "leads out of the job's working folder",
        "such as 'etc/passwd'",
    ),
    "a script with Windows line ends": (
        {"command": None, "script": "cd x\r\nrm -rf *\r\n"},
        "script",
        "line 1 of script holds a carriage return",
        "save the script with Unix line ends",
    ),
    "a script with NUL": (
        {"command": None, "script": "echo a\necho \0b\n"},
        "script",
        "line 2 of script holds a NUL character",
        "take it out",
    ),
    "a word with NUL": ({"command": ["a", "\0"]}, "command.1", "NUL", "none may"),
    "a forbidden variable": (
        {"environment": {"SLURM_JOB_ID": "1"}},
        "environment.SLURM_JOB_ID",
        "belong to the cluster or to Tramontane",
        "choose another, such as MY_SLURM_JOB_ID",
    ),
    "a variable of ours": (
        {"environment": {"TRAMONTANE_ATTEMPT": "att_x"}},
        "environment.TRAMONTANE_ATTEMPT",
        "would change how the job is run",
        "choose another",
    ),
    "other devices than it gets": (
        {"environment": {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}},
        "environment.CUDA_VISIBLE_DEVICES",
        "is set by the cluster",
        "leave it out",
    ),
    "a variable that is no name": (
        {"environment": {"A B": "1"}},
        "environment",
        "cannot be used",
        "such as A_B",
    ),
    "a name that breaks a shell": (
        {"name": "a;$(reboot)"},
        "name",
        "must be a DNS label",
        "such as my-chat-1",
    ),
    "a name that breaks JSON": ({"name": 'a","b":"'}, "name", "must be a DNS label", "such as"),
    "too large files": (
        {"files": [file("a", b"x" * (1 << 19)), file("b", b"x" * ((1 << 19) + 1))]},
        "files",
        "at most 1048576",
        "shared folder",
    ),
    "nothing to run": ({"command": None}, "command", "neither command nor script", "exactly one"),
    "two things to run": ({"script": "true"}, "command", "both command and script", "exactly one"),
    "no time": ({"time_limit_s": 0}, "time_limit_s", "greater than or equal to 1", "not 0"),
    "a hang later than the end": (
        {"time_limit_s": 60, "hang_after_s": 61},
        "hang_after_s",
        "expected 2 to 60",
        "such as 60",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_with_the_reason_and_the_nearest(alps: Cloud, what: str) -> None:
    changes, param, reason, near = REFUSED[what]
    with alps.unchanged():
        reply = submit(alps, PLAIN | changes)
        code = reply.json()["code"]
        message = check_error(reply, 400, code, param)
    assert code in {"invalid_value", "does_not_fit"}
    assert reason in message
    assert near in message


def test_what_it_depends_on_must_be_there_and_able_to_succeed(cloud: Cloud) -> None:
    failed = make(cloud, status=JobStatus.FAILED)
    theirs = cloud.new_member("other")
    other = cloud.cloud("POST", "/jobs", key=theirs, json=PLAIN)
    with cloud.unchanged():
        for ref in ("no-such", "job_" + "a" * 20, other["id"]):
            reply = submit(cloud, PLAIN | {"depends_on": [ref]})
            assert ref in check_error(reply, 404, "not_found", "depends_on")
        reply = submit(cloud, PLAIN | {"depends_on": [failed.id]})
        assert "will never succeed" in check_error(reply, 409, "conflict", "depends_on")
    first = submit(cloud, PLAIN | {"name": "first"}).json()
    second = submit(cloud, PLAIN | {"depends_on": ["first", first["id"]]}).json()
    assert second["depends_on"] == [first["id"]]


def make(cloud: Cloud, **changes: Any) -> Job:
    """Record a job as the reconciler leaves it."""
    made = submit(cloud, PLAIN).json()
    with cloud.db.read() as tx:
        seen = jobs.get_for(tx, None, made["id"])
    assert seen is not None
    return cloud.db.write(lambda tx: jobs.update(tx, seen, replace(seen, **changes)))


def make_attempt(cloud: Cloud, job: Job, number: int = 1, **changes: Any) -> Attempt:
    fields = {"job_id": job.id, "project_id": job.project_id, "id": cloud.ids.new("att")}
    cluster_id = cloud.add_node(name=f"node-of-{number}-{job.id}").cluster_id
    attempt = attempt_of(_STAND_IN, number=number, **fields, cluster_id=cluster_id, **changes)
    cloud.db.write(lambda tx: attempts.insert(tx, attempt))
    return attempt


_STAND_IN = Job("job_aaaaaaaaaaaaaaaaaaaq", "", "", None, 0)  # pyright: ignore[reportArgumentType]


def test_a_job_is_shown_without_its_secrets(cloud: Cloud) -> None:
    body = PLAIN | {
        "command": None,
        "script": "echo hidden-script",
        "environment": {"TOKEN": "hidden-value"},
        "files": [file("a/b", b"hidden-file")],
        "nodes": 2,
        "devices": 1,
        "priority_class": "reserved",
        "array": 3,
        "hang_after_s": 60,
        "topology": "spread",
    }
    everything = Subject(organization="default")
    cloud.services.quotas.set(cloud.operator, everything, 8, 1, tuple(PriorityClass))
    reply = submit(cloud, body)
    assert reply.status_code == 201
    made = reply.json()
    assert (made["status"], made["nodes"], made["resources"]["devices"]) == ("pending", 2, 1)
    assert made["environment"] == ["TOKEN"]
    assert made["files"] == ["a/b", "tramontane-script"]
    assert (made["array"], made["topology"], made["priority_class"]) == (3, "spread", "reserved")
    job = make(cloud, status=JobStatus.RUNNING)
    make_attempt(cloud, job)
    for path in ("", f"/{made['id']}", f"/{job.id}/attempts"):
        text = cloud.call("GET", f"/cloud/v1/jobs{path}").text
        assert "hidden" not in text
        assert "very-secret" not in text
    story = cloud.cloud("GET", f"/events?subject={made['id']}")["data"]
    assert [event["kind"] for event in story] == ["job.created"]
    assert "hidden" not in str(story)


def test_creating_wakes_the_reconciler(cloud: Cloud) -> None:
    woken = cloud.wakes
    submit(cloud, PLAIN)
    assert cloud.wakes > woken


def test_a_repeated_request_makes_no_second_job(cloud: Cloud) -> None:
    key = {"headers": {"idempotency-key": "once"}}
    first = submit(cloud, PLAIN, **key).json()
    again = submit(cloud, PLAIN, **key)
    assert (again.status_code, again.json()) == (201, first)
    message = check_error(submit(cloud, PLAIN | {"nodes": 2}, **key), 409, "conflict")
    assert first["id"] in message
    assert submit(cloud, PLAIN).json()["id"] != first["id"]
    elsewhere = cloud.new_member("elsewhere")
    theirs = cloud.call("POST", "/cloud/v1/jobs", key=elsewhere, json=PLAIN, **key).json()
    assert theirs["id"] != first["id"]
    for bad in ("", "x" * 256):
        reply = submit(cloud, PLAIN, headers={"idempotency-key": bad})
        assert reply.status_code == 400


def test_lists_and_names(cloud: Cloud) -> None:
    made = []
    for number in range(3):
        cloud.clock.advance(1)
        made.append(submit(cloud, PLAIN | {"name": f"j{number % 2}"}).json()["id"])
    member = cloud.keys.api_key
    oldest = cloud.cloud("GET", "/jobs?limit=2", key=member)
    assert [job["id"] for job in oldest["data"]] == made[:2]
    assert oldest["has_more"]
    newest = cloud.cloud("GET", f"/jobs?order=desc&after={made[2]}", key=member)
    assert [job["id"] for job in newest["data"]] == made[1::-1]
    assert cloud.cloud("GET", "/jobs?status=running", key=member)["data"] == []
    assert cloud.cloud("GET", "/jobs/j0", key=member)["id"] == made[2]
    assert cloud.cloud("GET", "/jobs/j1?project=default")["id"] == made[1]


def test_another_tenant_sees_nothing_of_it(cloud: Cloud) -> None:
    job = make(cloud, status=JobStatus.RUNNING)
    make_attempt(cloud, job)
    stranger = cloud.new_member("stranger")
    with cloud.unchanged():
        for ref in (job.id, "train"):
            for method, path in (
                ("GET", ""), ("GET", "/attempts"), ("GET", "/logs"), ("POST", "/cancel"),
            ):  # fmt: skip
                reply = cloud.call(method, f"/cloud/v1/jobs/{ref}{path}", key=stranger)
                assert check_error(reply, 404, "not_found") == f"there is no job {ref}"
        assert cloud.cloud("GET", "/jobs", key=stranger)["data"] == []
        assert cloud.cloud("GET", f"/events?subject={job.id}", key=stranger)["data"] == []


def test_cancelling_is_idempotent(cloud: Cloud) -> None:
    job = make(cloud, status=JobStatus.RUNNING)
    first = cloud.cloud("POST", f"/jobs/{job.id}/cancel", key=cloud.keys.api_key)
    assert first["is_cancelling"]
    cloud.clock.advance(1_000)
    assert cloud.cloud("POST", f"/jobs/{job.id}/cancel") == first
    story = cloud.cloud("GET", f"/events?subject={job.id}")["data"]
    assert [event["kind"] for event in story] == ["job.created", "job.cancel_asked"]
    over = make(cloud, status=JobStatus.SUCCEEDED)
    shown = cloud.cloud("POST", f"/jobs/{over.id}/cancel")
    assert (shown["status"], shown["is_cancelling"]) == ("succeeded", False)


def test_attempts_are_the_history(cloud: Cloud) -> None:
    job = make(cloud, status=JobStatus.RUNNING)
    first = make_attempt(cloud, job, 1, status=AttemptStatus.PREEMPTED, devices=8)
    second = make_attempt(cloud, job, 2, starts_at_ms=5, external_id="4711")
    page = cloud.cloud("GET", f"/jobs/{job.id}/attempts?limit=1")
    assert [it["id"] for it in page["data"]] == [first.id]
    assert page["has_more"]
    rest = cloud.cloud("GET", f"/jobs/{job.id}/attempts?after={first.id}")
    (shown,) = rest["data"]
    assert (shown["id"], shown["number"], shown["status"]) == (second.id, 2, "running")
    assert (shown["starts_at_ms"], shown["external_id"]) == (5, "4711")
    reply = cloud.call("GET", f"/cloud/v1/jobs/{job.id}/attempts?after=att_{'a' * 20}")
    check_error(reply, 400, "invalid_value", "after")
    assert {state.value for state in AttemptState} > {"preempted"}


def test_logs_from_a_byte_on_and_the_last_lines(cloud: Cloud) -> None:
    job = make(cloud, status=JobStatus.RUNNING)
    path = f"/cloud/v1/jobs/{job.id}/logs"
    assert cloud.call("GET", path).text == ""
    make_attempt(cloud, job, status=AttemptStatus.SUCCEEDED)
    whole = cloud.call("GET", path)
    assert whole.text == "first line\nlast line\n"
    assert whole.headers["content-type"].startswith("text/plain")
    assert whole.headers["x-tramontane-attempt"] == "1"
    assert cloud.call("GET", f"{path}?offset=6").text == "line\nlast line\n"
    assert cloud.call("GET", f"{path}?lines=1").text == "last line\n"
    assert cloud.call("GET", f"{path}?follow=true").text == whole.text
    check_error(cloud.call("GET", f"{path}?attempt=2"), 404, "not_found", "attempt")
    for name, told in (("index", "this job has 0 to 0"), ("rank", "the nodes 0 to 0")):
        reply = cloud.call("GET", f"{path}?{name}=1")
        assert told in check_error(reply, 400, "invalid_value", name)
    cloud.lines = None
    for query in ("", "?lines=3", "?follow=true"):
        reply = cloud.call("GET", path + query)
        assert reply.headers["retry-after"] == "5"
        assert "does not answer" in check_error(reply, 503, "unavailable")


def test_a_followed_log_ends_after_a_silence(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "SILENT_S", 0.05)
    monkeypatch.setattr(routes, "_POLL_S", 0.01)
    job = make(cloud, status=JobStatus.RUNNING)
    make_attempt(cloud, job)
    assert cloud.call("GET", f"/cloud/v1/jobs/{job.id}/logs?follow=true").text.endswith(
        "last line\n"
    )


def test_a_job_may_be_larger_than_other_requests(cloud: Cloud) -> None:
    large = PLAIN | {"files": [file("data", b"x" * (1 << 20))]}
    assert submit(cloud, large).status_code == 201
    check_error(submit(cloud, PLAIN | {"name": "x" * (4 << 20)}), 413, "body_too_large")


def test_who_is_blocked_submits_nothing(cloud: Cloud) -> None:
    cloud.cloud("PATCH", "/projects/default", json={"is_blocked": True})
    with cloud.unchanged():
        check_error(submit(cloud, PLAIN), 403, "permission_denied")


def test_a_project_with_a_job_that_goes_on_is_not_archived(cloud: Cloud) -> None:
    key = cloud.new_member("lab")
    job = cloud.call("POST", "/cloud/v1/jobs", key=key, json=PLAIN).json()
    with cloud.unchanged():
        reply = cloud.call("DELETE", "/cloud/v1/projects/lab")
        assert "has jobs that go on (train)" in check_error(reply, 409, "in_use")
    with cloud.db.read() as tx:
        seen = jobs.get_for(tx, None, job["id"])
    assert seen is not None
    over = replace(seen, status=JobStatus.SUCCEEDED)
    cloud.db.write(lambda tx: jobs.update(tx, seen, over))
    assert cloud.cloud("DELETE", "/projects/lab")["archived_at_ms"]


@pytest.mark.parametrize("limit", ["LIVE_JOBS_MAX", "LIVE_CHARS_MAX"])
def test_one_project_cannot_have_jobs_without_end(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    job_id = submit(cloud, PLAIN, headers={"idempotency-key": "k"}).json()["id"]
    monkeypatch.setattr(use_cases, limit, 1)
    with cloud.unchanged():
        told = check_error(submit(cloud, PLAIN), 429, "rate_limit_exceeded")
        assert "array" in told
    again = submit(cloud, PLAIN, headers={"idempotency-key": "k"})
    assert again.json()["id"] == job_id
    with cloud.db.read() as tx:
        assert jobs.live_size(tx, cloud.project.id)[0] == 1
        assert jobs.live_size(tx, cloud.ids.new("prj")) == (0, 0)
