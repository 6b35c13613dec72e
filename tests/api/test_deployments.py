"""Deployments over HTTP: what a client sees from creation to the end."""

from typing import Any

import pytest

from tests.support.cloud import Cloud, check_error


def create(cloud: Cloud, name: str = "chat", **fields: Any) -> Any:
    key = fields.pop("key", cloud.keys.api_key)
    body = {"name": name, "model": "tramontane-demo"} | fields
    return cloud.cloud("POST", "/deployments", key=key, json=body)


def test_created(cloud: Cloud) -> None:
    reply = cloud.call(
        "POST", "/cloud/v1/deployments", json={"name": "chat", "model": "tramontane-demo"}
    )
    assert reply.status_code == 201
    made = reply.json()
    version = cloud.services.models.get("tramontane-demo").latest
    assert made.pop("id").startswith("dep_")
    assert made == {
        "object": "deployment",
        "project_id": cloud.project.id,
        "name": "chat",
        "model": "tramontane-demo",
        "model_version": 1,
        "model_version_id": version.id,
        "engine": "llamacpp",
        "replicas": 1,
        "wanted_replicas": 1,
        "wanted_reason": None,
        "autoscale": None,
        "ready_replicas": 0,
        "context_length": 512,
        "parallel": 4,
        "nodes": 1,
        "devices": 0,
        "cpu_millicores": None,
        "memory_bytes": None,
        "cluster": None,
        "priority_class": "standard",
        "engine_options": {},
        "adapters": [],
        "canary": None,
        "canary_of_id": None,
        "status": "pending",
        "reason": None,
        "generation": 1,
        "observed_generation": 0,
        "created_at_ms": cloud.clock.now_ms(),
        "deleted_at_ms": None,
    }
    assert cloud.cloud("GET", "/deployments/chat") == cloud.cloud(
        "GET", f"/deployments/{reply.json()['id']}"
    )


def test_changed_scaled_and_deleted(cloud: Cloud) -> None:
    made = create(cloud, engine_options={"mode": "chat"})
    assert made["engine_options"] == {"mode": "chat"}
    changed = cloud.cloud("PATCH", "/deployments/chat", json={"parallel": 2, "replicas": None})
    assert (changed["generation"], changed["parallel"], changed["replicas"]) == (2, 2, 1)
    scaled = cloud.cloud("POST", "/deployments/chat/scale", json={"replicas": 3})
    assert (scaled["generation"], scaled["replicas"]) == (2, 3)
    emptied = cloud.cloud("PATCH", "/deployments/chat", json={"engine_options": {}})
    assert emptied["engine_options"] == {}
    deleted = cloud.cloud("DELETE", "/deployments/chat")
    assert (deleted["id"], deleted["status"]) == (made["id"], "stopping")
    check_error(cloud.call("DELETE", "/cloud/v1/deployments/chat"), 404, "not_found")
    assert cloud.cloud("GET", f"/deployments/{made['id']}")["status"] == "stopping"
    cloud.stop(made["id"])
    check_error(cloud.call("GET", f"/cloud/v1/deployments/{made['id']}"), 404, "not_found")
    told = cloud.cloud("GET", f"/events?subject={made['id']}")["data"]
    assert [event["message"] for event in told] == [
        "deployment chat of tramontane-demo created, 1 wanted",
        "deployment chat changed: parallel 4 -> 2",
        "deployment chat scaled: replicas 1 -> 3",
        "deployment chat changed: engine_options",
        "deployment chat deleted",
    ]
    assert {event["actor"] for event in told} == {cloud.operator.key_id, cloud.member.key_id}


def test_pages(cloud: Cloud) -> None:
    names = ["tramontane-demo"]
    for number in range(5):
        cloud.clock.advance(1)
        names.append(create(cloud, f"chat-{number}")["name"])
    seen: list[str] = []
    after, pages = "", 0
    while True:
        query = "?limit=4" + (f"&after={after}" if after else "")
        page = cloud.cloud("GET", f"/deployments{query}")
        assert page["object"] == "list"
        assert page["first_id"] == page["data"][0]["id"]
        assert page["last_id"] == page["data"][-1]["id"]
        seen += [item["name"] for item in page["data"]]
        after, pages = page["last_id"], pages + 1
        if not page["has_more"]:
            break
    assert (seen, pages) == (names, 2)
    last = cloud.cloud("GET", f"/deployments?after={after}")
    assert last == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_a_page_that_ends_with_the_list_has_no_more(cloud: Cloud) -> None:
    create(cloud)
    assert cloud.cloud("GET", "/deployments?limit=2")["has_more"] is False
    assert cloud.cloud("GET", "/deployments?limit=1")["has_more"] is True


def test_operators_name_projects(cloud: Cloud) -> None:
    other = cloud.new_member()
    theirs = create(cloud, "chat", key=cloud.keys.admin_key, project="other")
    ours = create(cloud, "chat")
    project = cloud.cloud("GET", "/projects/other")
    assert theirs["project_id"] == project["id"] != ours["project_id"]
    for query, expected in (
        ("", {theirs["id"], ours["id"]}),
        ("?project=other", {theirs["id"]}),
        (f"?project={project['id']}", {theirs["id"]}),
        ("?project=default", {ours["id"]}),
    ):
        listed = cloud.cloud("GET", f"/deployments{query}")["data"]
        assert {item["id"] for item in listed if item["name"] == "chat"} == expected
    assert cloud.cloud("GET", "/deployments/chat?project=other")["id"] == theirs["id"]
    assert cloud.cloud("GET", "/deployments/chat", key=other)["id"] == theirs["id"]
    assert cloud.cloud("GET", "/deployments/chat?project=default")["id"] == ours["id"]


def test_a_member_may_name_its_own_project_only(cloud: Cloud) -> None:
    cloud.new_member()
    assert create(cloud, "a", project="default")["project_id"] == cloud.project.id
    assert create(cloud, "b", project=cloud.project.id)["project_id"] == cloud.project.id
    body = {"name": "c", "model": "tramontane-demo", "project": "other"}
    with cloud.unchanged():
        reply = cloud.call("POST", "/cloud/v1/deployments", key=cloud.keys.api_key, json=body)
        check_error(reply, 404, "not_found", "project")


def test_what_fits_no_node(cloud: Cloud) -> None:
    cloud.add_node()
    body = {"name": "big", "model": "tramontane-demo", "memory_bytes": 20 << 30}
    with cloud.unchanged():
        reply = cloud.call("POST", "/cloud/v1/deployments", json=body)
        message = check_error(reply, 400, "does_not_fit", "memory_bytes")
    assert "needs 0.1 CPU, 20.0 GiB memory" in message
    assert "lacks 12.0 GiB memory" in message
    assert "memory_bytes" in message


def test_logs(cloud: Cloud) -> None:
    made = create(cloud)
    assert cloud.cloud("GET", "/deployments/chat/logs")["data"] == []
    node = cloud.add_node()
    replica = cloud.add_replica(made["id"], cloud.project.id, node)
    logs = cloud.cloud("GET", "/deployments/chat/logs")
    assert logs == {
        "object": "logs",
        "deployment_id": made["id"],
        "data": [
            {
                "replica_id": replica.id,
                "status": "pending",
                "lines": ["first line", "last line"],
                "reason": None,
            }
        ],
    }
    last = cloud.cloud("GET", "/deployments/chat/logs?lines=1")["data"][0]["lines"]
    assert last == ["last line"]
    cloud.lines = None
    (part,) = cloud.cloud("GET", "/deployments/chat/logs")["data"]
    assert (part["lines"], part["reason"]) == ([], "its cluster does not answer")


def test_events(cloud: Cloud) -> None:
    create(cloud)
    for number in range(2, 5):
        cloud.cloud("POST", "/deployments/chat/scale", json={"replicas": number})
    page = cloud.cloud("GET", "/deployments/chat/events?limit=3")
    assert [event["kind"] for event in page["data"]] == ["deployment.created"] + [
        "deployment.scaled"
    ] * 2
    assert page["has_more"]
    rest = cloud.cloud("GET", f"/deployments/chat/events?limit=3&after={page['last_id']}")
    assert [event["data"]["replicas"] for event in rest["data"]] == [4]
    assert not rest["has_more"]


def test_replicas(cloud: Cloud) -> None:
    made = create(cloud)
    node = cloud.add_node()
    replica = cloud.add_replica(made["id"], cloud.project.id, node)
    demo = cloud.services.deployments.get(cloud.member, "tramontane-demo", None).deployment
    other = cloud.add_replica(demo.id, cloud.project.id, node)
    listed = cloud.cloud("GET", "/replicas?deployment=chat")["data"]
    assert [item["id"] for item in listed] == [replica.id]
    assert {item["id"] for item in cloud.cloud("GET", "/replicas")["data"]} == {
        replica.id,
        other.id,
    }
    assert cloud.cloud("GET", f"/replicas/{replica.id}") == {
        "object": "replica",
        "id": replica.id,
        "deployment_id": made["id"],
        "project_id": cloud.project.id,
        "generation": 1,
        "status": "pending",
        "cluster_id": node.cluster_id,
        "node_id": node.id,
        "peer_node_ids": [],
        "address": "127.0.0.1:9",
        "reason": None,
        "resources": {"cpu_millicores": 1000, "memory_bytes": 1 << 20, "devices": 0},
        "created_at_ms": cloud.clock.now_ms(),
        "changed_at_ms": cloud.clock.now_ms(),
        "ready_at_ms": None,
    }
    reply = cloud.call("GET", "/cloud/v1/replicas?deployment=no-such")
    check_error(reply, 404, "not_found")


@pytest.mark.parametrize("path", ["/clusters", "/nodes"])
def test_the_fleet(cloud: Cloud, path: str) -> None:
    assert cloud.cloud("GET", path)["data"] == []
    nodes = [cloud.add_node(name=f"node-{number}") for number in range(3)]
    page = cloud.cloud("GET", f"{path}?limit=2")
    if path == "/clusters":
        (cluster,) = page["data"]
        assert (cluster["name"], cluster["driver"], cluster["status"]) == (
            "local",
            "process",
            "ready",
        )
        return
    assert [item["name"] for item in page["data"]] == ["node-0", "node-1"]
    capacity = {"cpu_millicores": 8_000, "memory_bytes": 8 << 30, "devices": 2}
    assert page["data"][0]["capacity"] == capacity
    assert page["has_more"]
    rest = cloud.cloud("GET", f"{path}?limit=2&after={page['last_id']}")
    assert [item["id"] for item in rest["data"]] == [nodes[2].id]
    assert cloud.cloud("GET", f"{path}?cluster=local")["data"]
    check_error(cloud.call("GET", f"/cloud/v1{path}?cluster=none"), 404, "not_found", "cluster")


def test_the_plan(cloud: Cloud) -> None:
    assert cloud.cloud("GET", "/plan") == {"snapshot": {"nodes": []}, "plan": {"actions": []}}


def test_autoscaling(cloud: Cloud) -> None:
    create(cloud, replicas=2)
    body = {"replicas_max": 4, "requests_in_flight": 8}
    on = cloud.cloud("PUT", "/deployments/chat/autoscale", json=body)
    assert on["autoscale"] == body | {
        "replicas_min": 0,
        "tokens_per_s": None,
        "idle_ms": 300_000,
        "up_cooldown_ms": 3_000,
        "down_cooldown_ms": 60_000,
    }
    assert (on["wanted_replicas"], on["wanted_reason"]) == (2, "it starts with 2")
    refused = cloud.call("POST", "/cloud/v1/deployments/chat/scale", json={"replicas": 3})
    check_error(refused, 409, "conflict", "replicas")
    off = cloud.cloud("DELETE", "/deployments/chat/autoscale")
    assert (off["autoscale"], off["replicas"], off["wanted_reason"]) == (None, 2, None)
    made = create(cloud, name="other", autoscale=body)
    assert made["autoscale"] == on["autoscale"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"replicas_min": -1}, "replicas_min"),
        ({"replicas_min": 5}, "autoscale.replicas_min"),
        ({"replicas_max": 0}, "replicas_max"),
        ({"replicas_max": 257}, "replicas_max"),
        ({"replicas_max": None}, "replicas_max"),
        ({"requests_in_flight": 0}, "requests_in_flight"),
        ({"requests_in_flight": 1.5}, "requests_in_flight"),
        ({"tokens_per_s": 0}, "tokens_per_s"),
        ({"idle_ms": 999}, "idle_ms"),
        ({"up_cooldown_ms": -1}, "up_cooldown_ms"),
        ({"down_cooldown_ms": 1 << 40}, "down_cooldown_ms"),
        ({"idle_s": 9}, "idle_s"),
    ],
)
def test_autoscaling_out_of_bounds(
    shared_cloud: Cloud, change: dict[str, object], param: str
) -> None:
    body = {"replicas_max": 4, "requests_in_flight": 8} | change
    path = "/cloud/v1/deployments/tramontane-demo/autoscale"
    with shared_cloud.unchanged():
        reply = shared_cloud.call("PUT", path, key=shared_cloud.keys.api_key, json=body)
    check_error(reply, 400, reply.json()["error"]["code"], param)


def test_a_canary(cloud: Cloud) -> None:
    made = create(cloud)
    path = "/deployments/chat/canary"
    started = cloud.cloud("PUT", path, json={"percent": 10, "parallel": 2})
    link = started["canary"]
    assert link == {
        "deployment_id": link["deployment_id"],
        "name": "chat-canary",
        "percent": 10,
        "ready_replicas": 0,
    }
    canary = cloud.cloud("GET", "/deployments/chat-canary")
    assert (canary["id"], canary["canary_of_id"]) == (link["deployment_id"], made["id"])
    assert cloud.cloud("PUT", path, json={"percent": 50})["canary"]["percent"] == 50
    listed = cloud.cloud("GET", "/deployments")["data"]
    shown = {it["name"]: it["canary"] and it["canary"]["percent"] for it in listed}
    assert (shown["chat"], shown["chat-canary"]) == (50, None)
    promoted = cloud.cloud("POST", f"{path}/promote")
    assert (promoted["canary"], promoted["parallel"], promoted["generation"]) == (None, 2, 2)
    cloud.cloud("PUT", path, json={"percent": 1})
    assert cloud.cloud("DELETE", path)["canary"] is None
    for percent in (-1, 101, "10"):
        refused = cloud.call("PUT", f"/cloud/v1{path}", json={"percent": percent})
        check_error(refused, 400, "invalid_value", "percent")
