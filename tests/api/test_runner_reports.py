"""What runners say over HTTP: taken from the right one, once, and from nobody else."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.support.cloud import Cloud, check_error
from tramontane.domain.jobs.attempt import AttemptState
from tramontane.domain.jobs.job import Attempt, AttemptStatus, Job, JobSpec
from tramontane.domain.observation import RunState
from tramontane.domain.refusal import RefusedError
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.report import RunnerReport
from tramontane.domain.resources import Resources
from tramontane.services.reports import runners as service
from tramontane.store import fleet, replicas
from tramontane.store.jobs import attempts, jobs
from tramontane.store.reports import runners
from tramontane.wire.runner_report import BODY_BYTES_MAX

SECRET = "the-secret-of-the-replica"
READY = {
    "run_state": "ready",
    "at_ms": 1_000,
    "address": "10.1.2.3:8000",
    "reason": None,
    "requests_running": 0,
    "requests_waiting": 0,
    "exit_code": None,
    "outcome": None,
    "node_name": "r1n1",
}


@pytest.fixture
def replica(cloud: Cloud) -> Replica:
    demo = cloud.services.deployments.get(cloud.member, "tramontane-demo", None).deployment
    return cloud.add_replica(demo.id, demo.project_id, cloud.add_node())


def send(cloud: Cloud, id_: str, secret: str = SECRET, peer: str = "10.1.2.3", **body: Any) -> Any:
    return cloud.call(
        "POST",
        f"/cloud/v1/runners/{id_}/report",
        key=secret,
        json={**READY, **body},
        headers={"x-forwarded-for": peer},
    )


def kept(cloud: Cloud, id_: str) -> RunnerReport | None:
    with cloud.db.read() as tx:
        return runners.get(tx, id_)


def test_a_report_is_kept_and_wakes_whoever_plans(cloud: Cloud, replica: Replica) -> None:
    woken = cloud.wakes
    reply = send(cloud, replica.id)
    assert (reply.status_code, reply.json()) == (200, {"wanted": True})
    assert kept(cloud, replica.id) == RunnerReport(
        id=replica.id,
        run_state=RunState.READY,
        at_ms=1_000,
        address="10.1.2.3:8000",
        requests_running=0,
        requests_waiting=0,
        node_name="r1n1",
    )
    assert cloud.wakes == woken + 1


def test_what_says_nothing_new_is_not_written(cloud: Cloud, replica: Replica) -> None:
    send(cloud, replica.id, requests_running=1)
    with cloud.unchanged():
        for at_ms, running in ((2_000, 1), (3_000, 7), (500, 0)):
            reply = send(cloud, replica.id, at_ms=at_ms, requests_running=running)
            assert reply.json() == {"wanted": True}
        # What was overtaken on its way.
        send(cloud, replica.id, at_ms=999, run_state="starting", address=None)
    assert send(cloud, replica.id, at_ms=4_000).is_success
    last = kept(cloud, replica.id)
    assert last is not None
    assert (last.at_ms, last.requests_running) == (4_000, 0)


def test_a_clock_that_is_set_back_silences_no_runner(cloud: Cloud, replica: Replica) -> None:
    early = 1_000_000
    assert send(cloud, replica.id, at_ms=early, run_state="starting", address=None).is_success
    with cloud.unchanged():
        send(cloud, replica.id, at_ms=early - service.OVERTAKEN_MS_MAX)
    assert send(cloud, replica.id, at_ms=early - service.OVERTAKEN_MS_MAX - 1).is_success
    last = kept(cloud, replica.id)
    assert last is not None
    assert last.run_state is RunState.READY


@pytest.mark.parametrize(
    "news",
    [
        {"run_state": "draining"},
        {"address": "10.1.2.3:8001"},
        {"run_state": "exited", "reason": "gone"},
        {"exit_code": 3},
        {"requests_waiting": 1},
    ],
)
def test_what_plans_are_made_from_is_written(
    cloud: Cloud, replica: Replica, news: dict[str, Any]
) -> None:
    send(cloud, replica.id)
    woken = cloud.wakes
    assert send(cloud, replica.id, at_ms=2_000, **news).is_success
    assert cloud.wakes == woken + 1
    last = kept(cloud, replica.id)
    assert last is not None
    assert last.at_ms == 2_000


def test_of_what_is_over_nothing_is_wanted_or_written(cloud: Cloud, replica: Replica) -> None:
    cloud.db.write(
        lambda tx: replicas.transition(
            tx, replica, ReplicaStatus.FAILED, now_ms=1, actor="test", message="over"
        )
    )
    with cloud.unchanged():
        assert send(cloud, replica.id).json() == {"wanted": False}


def test_a_wrong_secret_and_an_unknown_id_read_alike(cloud: Cloud, replica: Replica) -> None:
    demo = cloud.services.deployments.get(cloud.member, "tramontane-demo", None).deployment
    node = cloud.add_node(name="other")
    other = cloud.add_replica(demo.id, demo.project_id, node)
    cloud.db.write(lambda tx: tx.connection.exec_driver_sql(
        f"UPDATE replicas SET secret = 'another-secret' WHERE id = '{other.id}'"
    ))  # fmt: skip
    unknown = cloud.ids.new("rep")
    wrong = [
        (replica.id, "another-secret"),  # another tenant's, right for its own
        (replica.id, SECRET[:-1]),
        (replica.id, SECRET + "x"),
        (replica.id, cloud.keys.admin_key),
        (unknown, SECRET),
        (cloud.ids.new("att"), SECRET),
        (cloud.ids.new("dep"), SECRET),
        ("x", SECRET),
        ("rep_%00", SECRET),
    ]
    told: set[str] = set()
    with cloud.unchanged():
        for id_, secret in wrong:
            told.add(check_error(send(cloud, id_, secret), 401, "invalid_api_key"))
    assert len(told) == 1
    assert send(cloud, other.id, "another-secret").is_success


@pytest.mark.parametrize(
    "body",
    [
        {"run_state": "dancing"},
        {"run_state": None},
        {"run_state": 1},
        {"at_ms": -1},
        {"at_ms": "soon"},
        {"at_ms": 1.5},
        {"at_ms": 1 << 60},
        {"address": "db.internal:5432"},
        {"address": "10.0.0.1"},
        {"address": "10.0.0.1:80"},
        {"address": "10.0.0.1:99999"},
        {"address": "999.0.0.1:8000"},
        {"address": "127.0.0.1:8000"},
        {"address": "[::1]:8000"},
        {"address": "0.0.0.0:8000"},
        {"address": "169.254.169.254:8080"},
        {"address": "224.0.0.1:8000"},
        {"address": "10.0.0.1:8000/x?y=\r\nz"},
        {"address": "[fe80::1]:8000"},
        {"reason": "x" * 10_000},
        {"reason": "\x1b[31mred"},
        {"reason": "\0"},
        {"requests_running": -1},
        {"requests_running": True},
        {"exit_code": 1 << 40},
        {"outcome": "preempted"},
        {"node_name": ""},
        {"node_name": "a b"},
        {"node_name": "x" * 300},
        {"password": "x"},
    ],
)
def test_nonsense_is_refused_and_changes_nothing(
    cloud: Cloud, replica: Replica, body: dict[str, Any]
) -> None:
    with cloud.unchanged():
        reply = send(cloud, replica.id, **body)
        assert reply.status_code == 400, reply.text
        error = reply.json()["error"]
        assert error["code"] == "invalid_value"
        assert error["param"] in body
        assert SECRET not in reply.text


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"\xff\xfe", 400),
        (b"[" * 30_000, 400),
        (b'{"run_state": "ready", "run_state": "exited", "at_ms": 1}', 400),
        (json.dumps({**READY, "reason": "x" * BODY_BYTES_MAX}).encode(), 413),
        (b" " * (8 << 20), 413),
    ],
)
def test_broken_and_huge_bodies(
    cloud: Cloud, replica: Replica, content: bytes, status: int
) -> None:
    headers = {"content-type": "application/json"}
    with cloud.unchanged():
        path = f"/cloud/v1/runners/{replica.id}/report"
        reply = cloud.call("POST", path, key=SECRET, content=content, headers=headers)
        assert reply.status_code == status


def test_an_engine_on_the_gateways_own_machine_may_listen_there_alone(
    cloud: Cloud, replica: Replica
) -> None:
    for peer in ("10.9.9.9", "", "localhost", "127.0.0.1, 10.9.9.9"):
        assert send(cloud, replica.id, peer=peer, address="127.0.0.1:8000").status_code == 400
    for peer, address in (("127.0.0.1", "127.0.0.1:8000"), ("::1", "[::1]:8000")):
        assert send(cloud, replica.id, peer=peer, address=address).is_success
    for peer in ("2001:db8::7", "2001:0db8:0::7"):
        assert send(cloud, replica.id, peer=peer, address="[2001:db8::7]:8000").is_success
    assert service.PORT_MIN == 1024


def test_requests_go_only_to_where_the_report_comes_from(cloud: Cloud, replica: Replica) -> None:
    """A tenant's process knows the secret: it must not point the gateway at other machines."""
    with cloud.unchanged():
        for peer in ("10.1.2.4", "::ffff:10.1.2.4", "", "10.1.2.3, 10.1.2.4", "127.0.0.1"):
            reply = send(cloud, replica.id, peer=peer, address="10.1.2.3:8000")
            assert "comes from" in check_error(reply, 400, "invalid_value", "address")
    assert send(cloud, replica.id, peer="::ffff:10.1.2.3", address="10.1.2.3:8000").is_success


def test_networks_of_a_cluster_bound_its_addresses(cloud: Cloud, replica: Replica) -> None:
    """With a proxy before the gateways, every report comes from there."""
    with cloud.db.read() as tx:
        (cluster,) = [it for it in fleet.list_clusters(tx) if it.id == replica.cluster_id]
    networks = {cluster.name: ("10.1.0.0/16", "2001:db8::/64"), "another": ("10.9.0.0/16",)}
    reports = service.RunnerReports(cloud.db, cloud.clock, print, print, networks)
    said = RunnerReport(replica.id, RunState.READY, 1, address="10.1.255.1:8000")
    for address in (said.address, "[2001:db8::1]:8000"):
        assert reports.accept(replace(said, address=address), SECRET, "127.0.0.1")
    for address in ("10.9.0.1:8000", "127.0.0.1:8000", "[2001:db8:1::1]:8000"):
        with pytest.raises(RefusedError, match="networks"):
            reports.accept(replace(said, address=address), SECRET, "127.0.0.1")


def test_attempts_report_with_their_own_secret(cloud: Cloud) -> None:
    attempt = add_attempt(cloud)
    body = {"run_state": "exited", "address": None, "exit_code": 3, "outcome": "failed"}
    with cloud.unchanged():
        check_error(send(cloud, attempt.id, **body), 401, "invalid_api_key")
    assert send(cloud, attempt.id, "of-the-attempt", **body).json() == {"wanted": True}
    last = kept(cloud, attempt.id)
    assert last is not None
    assert (last.exit_code, last.outcome) == (3, AttemptState.FAILED)


def test_a_cancelled_job_is_not_wanted(cloud: Cloud) -> None:
    attempt = add_attempt(cloud, cancelled_at_ms=5)
    with cloud.unchanged():
        assert send(cloud, attempt.id, "of-the-attempt").json() == {"wanted": False}


def add_attempt(cloud: Cloud, **changes: Any) -> Attempt:
    node = cloud.add_node()
    now_ms = cloud.clock.now_ms()
    spec = JobSpec(("true",), Resources(1000, 1 << 20), 60)
    job = Job(cloud.ids.new("job"), cloud.project.id, "train", spec, now_ms, **changes)
    attempt = Attempt(
        id=cloud.ids.new("att"),
        job_id=job.id,
        project_id=job.project_id,
        array_index=0,
        number=1,
        cluster_id=node.cluster_id,
        secret="of-the-attempt",
        created_at_ms=now_ms,
        changed_at_ms=now_ms,
        status=AttemptStatus.RUNNING,
    )

    def write(tx: Any) -> None:
        jobs.insert(tx, job, ())
        attempts.insert(tx, attempt)

    cloud.db.write(write)
    return attempt
