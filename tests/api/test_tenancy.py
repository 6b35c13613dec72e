"""Organizations, projects and keys over HTTP."""

import json
from typing import Any

import pytest

from tests.support.cloud import Cloud, check_error
from tramontane.domain.tenancy import ROLE_PERMISSIONS, Role


def test_whoami(cloud: Cloud) -> None:
    assert cloud.cloud("GET", "/whoami", key=cloud.keys.api_key) == {
        "object": "principal",
        "key_id": cloud.member.key_id,
        "project_id": cloud.project.id,
        "organization_id": cloud.organization.id,
        "role": "member",
        "permissions": sorted(ROLE_PERMISSIONS[Role.MEMBER]),
    }
    assert cloud.cloud("GET", "/whoami")["role"] == "operator"


def test_a_tenant_from_nothing(cloud: Cloud) -> None:
    organization = cloud.cloud("POST", "/organizations", json={"name": "acme"})
    project = cloud.cloud("POST", "/projects", json={"name": "web", "organization": "acme"})
    assert project["organization_id"] == organization["id"]
    made = cloud.cloud("POST", "/api-keys", json={"name": "app", "project": "web"})
    assert (made["role"], made["project_id"]) == ("member", project["id"])
    seen = cloud.cloud("GET", "/organizations", key=made["key"])
    assert seen["data"] == [organization]
    assert cloud.cloud("GET", "/projects", key=made["key"])["data"] == [project]
    assert cloud.cloud("GET", "/organizations/acme", key=made["key"]) == organization
    check_error(
        cloud.call("GET", "/cloud/v1/organizations/default", key=made["key"]), 404, "not_found"
    )
    for ref, count in (("acme", 1), ("default", 1), (organization["id"], 1)):
        assert len(cloud.cloud("GET", f"/projects?organization={ref}")["data"]) == count
    hidden = cloud.call("GET", "/cloud/v1/projects?organization=default", key=made["key"])
    check_error(hidden, 404, "not_found", "organization")


def test_one_project_name_in_two_organizations(cloud: Cloud) -> None:
    cloud.cloud("POST", "/organizations", json={"name": "acme"})
    cloud.cloud("POST", "/organizations", json={"name": "beta"})
    theirs = cloud.cloud("POST", "/projects", json={"name": "default", "organization": "acme"})
    assert cloud.cloud("GET", "/projects/default")["id"] == cloud.project.id, "its own first"
    assert cloud.cloud("GET", f"/projects/{theirs['id']}") == theirs
    for owner in ("acme", "beta"):
        cloud.cloud("POST", "/projects", json={"name": "web", "organization": owner})
    check_error(cloud.call("GET", "/cloud/v1/projects/web"), 404, "not_found")


def test_archiving_a_project(cloud: Cloud) -> None:
    member = cloud.new_member()
    body = {"name": "chat", "model": "tramontane-demo"}
    made = cloud.cloud("POST", "/deployments", key=member, json=body)
    with cloud.unchanged():
        reply = cloud.call("DELETE", "/cloud/v1/projects/other")
        assert "chat" in check_error(reply, 409, "in_use")
    cloud.cloud("DELETE", "/deployments/chat", key=member)
    with cloud.unchanged():
        check_error(cloud.call("DELETE", "/cloud/v1/projects/other"), 409, "in_use")
    cloud.stop(made["id"])
    woken = cloud.wakes
    archived = cloud.cloud("DELETE", "/projects/other")
    assert archived["archived_at_ms"] == cloud.clock.now_ms()
    assert cloud.wakes == woken + 1, "gateways must hear of it"
    assert cloud.cloud("DELETE", "/projects/other") == archived
    check_error(cloud.call("GET", "/cloud/v1/whoami", key=member), 401, "invalid_api_key")
    with cloud.unchanged():
        for path, sent in (("/deployments", body), ("/api-keys", {"name": "k"})):
            reply = cloud.call("POST", f"/cloud/v1{path}", json=sent | {"project": "other"})
            check_error(reply, 409, "conflict", "project")


def test_an_operator_does_not_lock_itself_out(cloud: Cloud) -> None:
    cloud.cloud("DELETE", "/deployments/tramontane-demo")
    with cloud.unchanged():
        reply = cloud.call("DELETE", "/cloud/v1/projects/default")
        assert "your own key" in check_error(reply, 409, "in_use")


def test_a_key_is_shown_once_and_works_until_revoked(cloud: Cloud) -> None:
    woken = cloud.wakes
    made = cloud.cloud("POST", "/api-keys", key=cloud.keys.api_key, json={"name": "app"})
    assert cloud.wakes == woken + 1
    text = made["key"]
    assert text.startswith("tmt_")
    assert made["redacted"] == f"{text[:8]}...{text[-4:]}"
    assert cloud.cloud("GET", "/whoami", key=text)["key_id"] == made["id"]
    for path in ("/api-keys", f"/api-keys/{made['id']}", f"/events?subject={made['id']}"):
        assert text not in json.dumps(cloud.cloud("GET", path))
    assert text not in repr(cloud.tables())
    revoked = cloud.cloud("DELETE", f"/api-keys/{made['id']}", key=text)
    assert revoked["revoked_at_ms"] == cloud.clock.now_ms()
    check_error(cloud.call("GET", "/cloud/v1/whoami", key=text), 401, "invalid_api_key")
    before = cloud.tables()
    assert cloud.cloud("DELETE", f"/api-keys/{made['id']}") == revoked
    assert cloud.tables() == before
    listed = cloud.cloud("GET", "/api-keys")["data"]
    assert [key["id"] for key in listed if key["revoked_at_ms"]] == [made["id"]]


def test_an_end(cloud: Cloud) -> None:
    now_ms = cloud.clock.now_ms()
    for past in (0, now_ms - 1, now_ms):
        with cloud.unchanged():
            reply = cloud.call(
                "POST", "/cloud/v1/api-keys", json={"name": "k", "expires_at_ms": past}
            )
            assert "past" in check_error(reply, 400, "invalid_value", "expires_at_ms")
    body = {"name": "k", "expires_at_ms": now_ms + 5}
    made = cloud.cloud("POST", "/api-keys", json=body)
    cloud.cloud("GET", "/whoami", key=made["key"])
    cloud.clock.advance(5)
    check_error(cloud.call("GET", "/cloud/v1/whoami", key=made["key"]), 401, "invalid_api_key")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api-keys", {"name": "k", "role": "operator"}),
        ("DELETE", "/api-keys/{operator}", None),
    ],
)
def test_members_have_no_hand_in_operator_keys(
    cloud: Cloud, method: str, path: str, body: Any
) -> None:
    path = path.format(operator=cloud.operator.key_id)
    sent = {"json": body} if body else {}
    with cloud.unchanged():
        reply = cloud.call(method, f"/cloud/v1{path}", key=cloud.keys.api_key, **sent)
        check_error(reply, 403, "permission_denied", "role" if body else None)


def test_operators_make_operators(cloud: Cloud) -> None:
    made = cloud.cloud("POST", "/api-keys", json={"name": "k", "role": "operator"})
    assert cloud.cloud("GET", "/plan", key=made["key"])


def test_models_over_http(cloud: Cloud) -> None:
    demo = cloud.cloud("GET", "/models/tramontane-demo")
    (version,) = demo.pop("versions")
    assert demo in cloud.cloud("GET", "/models")["data"]
    assert (demo["object"], demo["name"], demo["number"]) == ("model", "tramontane-demo", 1)
    assert demo["version_id"] == version["id"]
    assert demo["format"] == version["format"] == "gguf"
    body = {"name": "tramontane-demo", "path": str(cloud.demo_model)}
    with cloud.unchanged():
        reply = cloud.call("POST", "/cloud/v1/models", json=body)
    assert reply.status_code == 201
    assert reply.json()["versions"] == [version]
    with cloud.unchanged():
        reply = cloud.call("DELETE", "/cloud/v1/models/tramontane-demo")
        check_error(reply, 409, "in_use")
    again = cloud.cloud("POST", "/models", json=body | {"name": "second"})
    assert cloud.cloud("DELETE", "/models/second") == {
        "object": "model",
        "id": again["id"],
        "deleted": True,
    }
