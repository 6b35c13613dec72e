"""Quotas, reserved racks, prices of classes and the bill of attempts over HTTP."""

from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cloud import Cloud, check_error
from tests.support.jobs import attempt_of, job_of
from tramontane.domain.fleet import Cluster, ClusterStatus, Node, NodeStatus
from tramontane.domain.jobs.job import AttemptStatus
from tramontane.domain.launch import PriorityClass
from tramontane.domain.resources import Resources
from tramontane.domain.spending.class_pricing import device_cost_nano
from tramontane.services.quotas import devices_max_for
from tramontane.store import fleet
from tramontane.store.jobs import attempts, jobs
from tramontane.store.quotas import class_prices
from tramontane.wire.cloud_quotas import DEVICE_HOUR_MICRO_MAX


def set_quota(cloud: Cloud, **fields: Any) -> dict[str, Any]:
    cloud.clock.advance(1)  # lists are in the order of creation
    return cloud.cloud("PUT", "/quotas", json=fields)


def bound(cloud: Cloud) -> int | None:
    with cloud.db.read() as tx:
        return devices_max_for(tx, cloud.project.id)


def test_a_quota_is_set_replaced_listed_and_deleted(cloud: Cloud) -> None:
    assert bound(cloud) is None
    made = set_quota(cloud, project="default", devices_max=16)
    assert made == {
        "object": "quota",
        "id": made["id"],
        "scope": "project",
        "subject_id": cloud.project.id,
        "devices_max": 16,
        "share": 1,
        "priority_classes": None,
    }
    assert bound(cloud) == 16
    wide = set_quota(cloud, organization="default", devices_max=8, share=3)
    assert bound(cloud) == 8  # the smaller of both
    assert set_quota(cloud, project=cloud.project.id, devices_max=4) == made | {"devices_max": 4}
    assert bound(cloud) == 4
    assert cloud.cloud("GET", "/quotas")["data"] == [made | {"devices_max": 4}, wide]
    assert cloud.cloud("GET", "/quotas?organization=default")["data"] == [wide]
    assert cloud.cloud("GET", "/quotas?limit=1")["has_more"]
    assert cloud.cloud("GET", f"/quotas/{wide['id']}") == wide
    gone = cloud.cloud("DELETE", f"/quotas/{made['id']}")
    assert gone == {"object": "quota", "id": made["id"], "deleted": True}
    assert bound(cloud) == 8
    check_error(cloud.call("GET", f"/cloud/v1/quotas/{made['id']}"), 404, "not_found")
    told = cloud.cloud("GET", f"/events?subject={made['id']}")["data"]
    assert [event["kind"] for event in told] == ["quota.set", "quota.set", "quota.removed"]


@pytest.mark.parametrize(
    ("body", "status", "code", "told"),
    [
        ({"devices_max": 1}, 400, "invalid_value", "exactly one of organization and project"),
        ({"project": "a", "organization": "b"}, 400, "invalid_value", "exactly one of"),
        ({"project": "default"}, 400, "missing_required_parameter", "bounds nothing"),
        ({"project": "default", "devices_max": -1}, 400, "invalid_value", "greater than"),
        ({"project": "default", "devices_max": 1.5}, 400, "invalid_value", "integer"),
        ({"project": "default", "priority_classes": []}, 400, "invalid_value", "at least 1"),
        ({"project": "default", "priority_classes": ["gold"]}, 400, "invalid_value", "'gold'"),
        ({"project": "default", "share": 0}, 400, "invalid_value", "greater than"),
        ({"project": "nope", "devices_max": 1}, 404, "not_found", "no project nope"),
        ({"organization": "nope", "devices_max": 1}, 404, "not_found", "organization nope"),
    ],
)
def test_what_no_quota_can_be(
    shared_cloud: Cloud, body: dict[str, Any], status: int, code: str, told: str
) -> None:
    with shared_cloud.unchanged():
        reply = shared_cloud.call("PUT", "/cloud/v1/quotas", json=body)
        assert told in check_error(reply, status, code, reply.json()["param"])


def test_a_member_reads_what_binds_it(cloud: Cloud) -> None:
    stranger = cloud.new_member("other")
    ours = [
        set_quota(cloud, organization="default", devices_max=9),
        set_quota(cloud, project="default", devices_max=8),
    ]
    theirs = set_quota(cloud, project="other", devices_max=1)
    assert cloud.cloud("GET", "/quotas", key=cloud.keys.api_key)["data"] == ours
    assert cloud.cloud("GET", "/quotas", key=stranger)["data"] == [ours[0], theirs]
    reply = cloud.call("GET", f"/cloud/v1/quotas/{theirs['id']}", key=cloud.keys.api_key)
    check_error(reply, 404, "not_found")


def demo(cloud: Cloud, name: str, **fields: Any) -> Any:
    body = {"name": name, "model": "tramontane-demo", **fields}
    return cloud.call("POST", "/cloud/v1/deployments", json=body)


def test_a_deployment_beyond_a_quota_is_refused_with_the_nearest_that_fits(cloud: Cloud) -> None:
    set_quota(cloud, project="default", devices_max=8)
    assert demo(cloud, "first", devices=2, replicas=2).status_code == 201
    with cloud.unchanged():
        told = check_error(
            demo(cloud, "second", devices=2, replicas=3), 400, "does_not_fit", "replicas"
        )
        assert "asks for 6 devices in all, and the quota of its project is 8" in told
        assert "other deployments take 4: at most 2 replicas of 2 devices fit" in told
        told = check_error(demo(cloud, "wide", devices=5), 400, "does_not_fit", "devices")
        assert "at most 4 devices fit in all" in told
        autoscale = {"replicas_min": 1, "replicas_max": 3, "requests_in_flight": 4}
        reply = demo(cloud, "auto", devices=2, autoscale=autoscale)
        check_error(reply, 400, "does_not_fit", "autoscale.replicas_max")
        reply = cloud.call("POST", "/cloud/v1/deployments/first/scale", json={"replicas": 5})
        check_error(reply, 400, "does_not_fit", "replicas")
    assert demo(cloud, "second", devices=2, replicas=2).status_code == 201
    set_quota(cloud, project="default", devices_max=1)  # what runs goes on, and may shrink
    cloud.cloud("POST", "/deployments/first/scale", json={"replicas": 1})
    set_quota(cloud, project="default", devices_max=100)
    set_quota(cloud, organization="default", devices_max=7)
    told = check_error(demo(cloud, "third", devices=2), 400, "does_not_fit", "devices")
    assert "the quota of its organization is 7" in told
    cloud.cloud("DELETE", "/deployments/second")
    assert demo(cloud, "third", devices=2).status_code == 201


ALL = ["reserved", "standard", "spot"]


def ask(cloud: Cloud, priority_class: str, **sent: Any) -> Any:
    body = {"name": "train", "command": ["true"], "priority_class": priority_class}
    return cloud.call("POST", "/cloud/v1/jobs", json=body, **sent)


def may_ask(cloud: Cloud) -> list[str]:
    """Return the classes of which a job is taken; each refusal names the nearest of these."""
    taken: list[str] = []
    for each in ALL:
        reply = ask(cloud, each)
        if reply.status_code == 201:
            taken.append(each)
        else:
            told = check_error(reply, 400, "does_not_fit", "priority_class")
            assert f"ask an operator for a quota that names {each}" in told
    return taken


def test_quotas_name_the_classes_that_may_be_asked_for(cloud: Cloud) -> None:
    assert may_ask(cloud) == ["standard", "spot"]
    made = set_quota(cloud, organization="default", priority_classes=["spot", "reserved", "spot"])
    assert made["priority_classes"] == ["reserved", "spot"]
    assert may_ask(cloud) == ["reserved", "spot"]
    with cloud.unchanged():
        told = check_error(ask(cloud, "standard"), 400, "does_not_fit", "priority_class")
        assert "the job asks for the class standard, and its project may ask for" in told
        assert "reserved and spot: ask for spot" in told
        body = {"project": "default", "priority_classes": ["standard", "spot"]}
        reply = cloud.call("PUT", "/cloud/v1/quotas", json=body)
        told = check_error(reply, 400, "does_not_fit", "priority_classes")
        assert "cannot have standard: its organization has reserved and spot" in told
    set_quota(cloud, project="default", priority_classes=["reserved"])
    assert may_ask(cloud) == ["reserved"]
    # An organization that loses a class loses it for all of its projects.
    cloud.cloud("DELETE", f"/quotas/{made['id']}")
    assert may_ask(cloud) == []
    told = check_error(ask(cloud, "spot"), 400, "does_not_fit", "priority_class")
    assert "may ask for no class: nothing of it can start" in told


def test_a_reserved_rack_is_an_operators_word_too(cloud: Cloud) -> None:
    add_slurm(cloud)
    cloud.add_node()
    body = {"organization": "default", "cluster": "alps", "rack": "rack1"}
    made = cloud.cloud("POST", "/reservations", json=body)
    assert may_ask(cloud) == ALL
    set_quota(cloud, organization="default", priority_classes=["spot"])
    assert may_ask(cloud) == ["spot"]  # what is named is all
    set_quota(cloud, organization="default", devices_max=4)
    assert may_ask(cloud) == ALL
    cloud.cloud("DELETE", f"/reservations/{made['id']}")
    assert may_ask(cloud) == ["standard", "spot"]


def test_a_deployment_keeps_a_class_that_was_taken_away_and_gets_no_more_of_it(
    cloud: Cloud,
) -> None:
    told = check_error(
        demo(cloud, "first", priority_class="reserved"), 400, "does_not_fit", "priority_class"
    )
    assert "the deployment asks for the class reserved" in told
    made = set_quota(cloud, organization="default", priority_classes=ALL)
    assert demo(cloud, "first", priority_class="reserved", replicas=2).status_code == 201
    assert demo(cloud, "second").status_code == 201
    cloud.cloud("DELETE", f"/quotas/{made['id']}")

    def change(name: str, body: dict[str, Any]) -> Any:
        return cloud.call("PATCH", f"/cloud/v1/deployments/{name}", json=body)

    with cloud.unchanged():
        for reply in (
            change("second", {"priority_class": "reserved"}),
            change("first", {"replicas": 3}),
            cloud.call("PUT", "/cloud/v1/deployments/first/canary", json={"percent": 5}),
        ):
            check_error(reply, 400, "does_not_fit", "priority_class")
    for kept in ({"parallel": 8}, {"replicas": 1}, {"priority_class": "standard"}):
        assert change("first", kept).status_code == 200
    assert change("first", {"replicas": 3}).status_code == 200


def add_slurm(cloud: Cloud) -> None:
    now_ms = cloud.clock.now_ms()

    def write(tx):
        cluster = Cluster("clu_alps", "alps", "slurm", ClusterStatus.READY, now_ms)
        fleet.upsert_cluster(tx, cluster)
        for name in ("rack1", "rack2"):
            node = Node(f"nod_{name}", cluster.id, name, NodeStatus.READY, Resources(1), (), now_ms)
            fleet.upsert_node(tx, replace(node, rack=name))

    cloud.db.write(write)


def test_a_rack_is_kept_for_one_organization(cloud: Cloud) -> None:
    add_slurm(cloud)
    cloud.add_node()
    cloud.cloud("POST", "/organizations", json={"name": "lab"})
    body = {"organization": "default", "cluster": "alps", "rack": "rack1"}
    made = cloud.cloud("POST", "/reservations", json=body)
    assert made == {
        "object": "reservation",
        "id": made["id"],
        "organization_id": cloud.organization.id,
        "cluster": "alps",
        "rack": "rack1",
    }
    assert cloud.cloud("POST", "/reservations", json=body) == made  # asked twice
    with cloud.unchanged():
        for change, status, code, told in (
            ({"organization": "lab"}, 409, "conflict", f"delete the reservation {made['id']}"),
            ({"organization": "nope"}, 404, "not_found", "no organization nope"),
            ({"cluster": "nope"}, 404, "not_found", "no cluster nope"),
            ({"cluster": "local"}, 400, "invalid_value", "has the driver process and cannot"),
            ({"rack": "rack3"}, 400, "invalid_value", "no rack rack3: expected such as rack"),
            ({"rack": "a,b"}, 400, "invalid_value", "such as rack1"),
            ({"rack": "x" * 65}, 400, "invalid_value", "at most"),
        ):
            reply = cloud.call("POST", "/cloud/v1/reservations", json=body | change)
            assert told in check_error(reply, status, code, reply.json()["param"])
    assert cloud.cloud("GET", "/reservations", key=cloud.keys.api_key)["data"] == [made]
    assert cloud.cloud("GET", f"/reservations/{made['id']}") == made
    cloud.cloud("DELETE", f"/reservations/{made['id']}")
    assert cloud.cloud("GET", "/reservations")["data"] == []
    cloud.cloud("POST", "/reservations", json=body | {"organization": "lab"})


def test_prices_of_classes(cloud: Cloud) -> None:
    def listed() -> dict[str, int]:
        found = cloud.cloud("GET", "/class-prices", key=cloud.keys.api_key)["data"]
        return {each["priority_class"]: each["device_hour_micro"] for each in found}

    assert listed() == {"reserved": 0, "standard": 0, "spot": 0}
    for _ in range(2):
        made = cloud.cloud("PUT", "/class-prices/spot", json={"device_hour_micro": 1_200_000})
        assert made["changed_at_ms"] == cloud.clock.now_ms()
    assert listed() == {"reserved": 0, "standard": 0, "spot": 1_200_000}
    with cloud.unchanged():
        for path, micro in (("spot", -1), ("spot", 10**9 + 1), ("spot", "1")):
            body = {"device_hour_micro": micro}
            reply = cloud.call("PUT", f"/cloud/v1/class-prices/{path}", json=body)
            check_error(reply, 400, "invalid_value", reply.json()["param"])
        reply = cloud.call("PUT", "/cloud/v1/class-prices/gold", json={"device_hour_micro": 1})
        check_error(reply, 404, "not_found", reply.json()["param"])
    story = cloud.cloud("GET", "/events?subject=class_spot")["data"]
    assert [event["kind"] for event in story] == ["class.priced"]


def run_job(cloud: Cloud, number: int, *lengths_ms: int, priority_class: PriorityClass) -> str:
    """Record a job whose attempts held 4 devices that long, all but the last one evicted."""
    made = job_of(number, project_id=cloud.project.id, priority_class=priority_class)
    now_ms = cloud.clock.now_ms()

    def write(tx):
        cluster = Cluster(
            attempt_of(made).cluster_id, "local", "process", ClusterStatus.READY, now_ms
        )
        fleet.upsert_cluster(tx, cluster)
        jobs.insert(tx, made, ())
        for at, length_ms in enumerate(lengths_ms, 1):
            last = at == len(lengths_ms)
            ended = AttemptStatus.SUCCEEDED if last else AttemptStatus.PREEMPTED
            attempt = attempt_of(
                made,
                ended,
                number=at,
                node_id=None,
                started_at_ms=now_ms,
                ended_at_ms=now_ms + length_ms,
                devices=4,
                device_seconds=4 * length_ms // 1_000,
                created_at_ms=now_ms + at,
            )
            attempts.insert(tx, attempt)
            used = attempt.device_seconds
            class_prices.charge(tx, attempt.id, priority_class, used, now_ms)

    cloud.db.write(write)
    return made.id


def test_the_bill_names_every_attempt_and_adds_up(cloud: Cloud) -> None:
    cloud.cloud("PUT", "/class-prices/spot", json={"device_hour_micro": 1_200_000})
    job_id = run_job(cloud, 1, 60_000, 5_000, priority_class=PriorityClass.SPOT)
    evicted, resumed = cloud.cloud("GET", "/usage/attempts")["data"]
    assert evicted == {
        "object": "attempt",
        "id": evicted["id"],
        "job_id": job_id,
        "job": "job-1",
        "project_id": cloud.project.id,
        "array_index": 0,
        "number": 1,
        "status": "preempted",
        "priority_class": "spot",
        "devices": 4,
        "seconds": 60,
        "device_seconds": 240,
        "device_hour_micro": 1_200_000,
        "cost_nano": 80_000_000,  # 240 s of 3600 at 1.20 euros
        "started_at_ms": cloud.clock.now_ms(),
        "ended_at_ms": cloud.clock.now_ms() + 60_000,
    }
    assert (resumed["number"], resumed["status"]) == (2, "succeeded")
    assert resumed["cost_nano"] == 6_666_667  # rounded up, once
    # What was accounted keeps its price, whatever comes later.
    cloud.cloud("PUT", "/class-prices/spot", json={"device_hour_micro": 9_000_000})
    charge = class_prices.charge
    cloud.db.write(lambda tx: charge(tx, evicted["id"], PriorityClass.SPOT, 999, 1))
    cloud.clock.advance(10)
    run_job(cloud, 2, 3_600_000, priority_class=PriorityClass.RESERVED)
    bill = cloud.cloud("GET", "/usage/attempts")
    assert bill["data"][:2] == [evicted, resumed]
    assert bill["totals"] == [
        {
            "project_id": cloud.project.id,
            "priority_class": "reserved",
            "attempts": 1,
            "device_seconds": 14_400,
            "cost_nano": 0,
        },
        {
            "project_id": cloud.project.id,
            "priority_class": "spot",
            "attempts": 2,
            "device_seconds": 260,
            "cost_nano": 86_666_667,
        },
    ]
    assert bill["open_attempts"] == 0
    page = cloud.cloud("GET", "/usage/attempts?limit=1")
    assert (page["data"], page["has_more"]) == ([evicted], True)
    assert page["totals"] == bill["totals"]
    rest = cloud.cloud("GET", f"/usage/attempts?after={evicted['id']}&job={job_id}")
    assert rest["data"] == [resumed]
    later = cloud.clock.now_ms() + 1
    assert cloud.cloud("GET", f"/usage/attempts?from_ms={later}")["data"] == []
    stranger = cloud.new_member("other")
    theirs = cloud.cloud("GET", "/usage/attempts", key=stranger)
    assert (theirs["data"], theirs["totals"]) == ([], [])


def test_what_runs_is_shown_without_a_cost(cloud: Cloud) -> None:
    job = job_of(3, project_id=cloud.project.id)
    now_ms = cloud.clock.now_ms()
    running = attempt_of(job, started_at_ms=now_ms, devices=2, node_id=None)
    queued = attempt_of(job, AttemptStatus.QUEUED, number=2, node_id=None)

    def write(tx):
        cluster = Cluster(running.cluster_id, "local", "process", ClusterStatus.READY, now_ms)
        fleet.upsert_cluster(tx, cluster)
        jobs.insert(tx, job, ())
        for attempt in (running, queued):
            attempts.insert(tx, attempt)

    cloud.db.write(write)
    cloud.clock.advance(10_000)
    bill = cloud.cloud("GET", "/usage/attempts")
    (shown,) = bill["data"]
    assert shown["status"] == "running"
    assert shown["device_seconds"] == 20
    assert (shown["cost_nano"], shown["seconds"], shown["ended_at_ms"]) == (None, None, None)
    assert (bill["totals"], bill["open_attempts"]) == ([], 1)


@given(st.integers(0, 4 * 10**10), st.integers(0, DEVICE_HOUR_MICRO_MAX))
def test_a_cost_is_exact_and_rounded_up_once(seconds: int, micro: int) -> None:
    exact = Fraction(seconds * micro * 1_000, 3_600)
    assert device_cost_nano(seconds, micro) == ceil(exact)
