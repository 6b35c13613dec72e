"""Stored responses over HTTP: kept by gateways, read, listed, cancelled and deleted by tenants."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.cloud import GATEWAY_TOKEN, Cloud, check_error
from tramontane.domain.responses.stored import BYTES_MAX, CHAIN_MAX
from tramontane.store import tenancy

IDS = ["resp_" + letter * 20 for letter in "abcdef"]


@pytest.fixture
def storing(cloud: Cloud) -> Cloud:
    """A cloud whose first organization allows responses to be stored."""
    allow(cloud, may_store=True)
    return cloud


def allow(cloud: Cloud, *, may_store: bool) -> None:
    def write(tx: Any) -> None:
        seen = tenancy.get_organization(tx, cloud.organization.id)
        assert seen is not None
        tenancy.update_organization(tx, seen, replace(seen, may_store_responses=may_store))

    cloud.db.write(write)


def body(response_id: str = IDS[0], **changes: Any) -> dict[str, Any]:
    return {
        "id": response_id,
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed",
        "background": False,
        "model": "tramontane-demo",
        "output": [{"type": "message", "id": "msg_1", "role": "assistant", "content": []}],
        "usage": None,
        "error": None,
        "incomplete_details": None,
        "previous_response_id": None,
        "store": True,
    } | changes


def items(*texts: str) -> list[dict[str, Any]]:
    return [
        {"id": f"msg_{text}", "type": "message", "role": "user",
         "content": [{"type": "input_text", "text": text}]}
        for text in texts
    ]  # fmt: skip


def internal(cloud: Cloud, method: str, path: str = "", **sent: Any) -> Any:
    return cloud.call(method, f"/internal/v1/responses{path}", key=GATEWAY_TOKEN, **sent)


def keep(cloud: Cloud, response: dict[str, Any], *texts: str, **changes: Any) -> Any:
    wish = {
        "organization_id": cloud.organization.id,
        "project_id": cloud.project.id,
        "api_key_id": cloud.member.key_id,
        "holder": "gw-1",
        "response": response,
        "input_items": items(*texts),
    }
    return internal(cloud, "POST", json=wish | changes)


def finish(cloud: Cloud, response: dict[str, Any]) -> Any:
    return internal(cloud, "PUT", json={"project_id": cloud.project.id, "response": response})


def report(cloud: Cloud, holder: str = "gw-1", **ids: list[str]) -> list[str]:
    said = {"gateway": "gw", "holder": holder, "queued": [], "in_progress": []} | ids
    reply = internal(cloud, "POST", "/report", json=said)
    assert reply.status_code == 200, reply.text
    return reply.json()["stop"]


def mine(cloud: Cloud, method: str, path: str) -> Any:
    return cloud.call(method, f"/v1/responses/{path}", key=cloud.keys.api_key)


def history(cloud: Cloud, response_id: str, project: str | None = None) -> Any:
    query = {"project_id": project or cloud.project.id}
    return internal(cloud, "GET", f"/{response_id}/history", params=query)


def test_what_is_kept_is_read_listed_and_deleted(storing: Cloud) -> None:
    assert keep(storing, body(), "one", "two", "three").status_code == 200
    assert mine(storing, "GET", IDS[0]).json() == body()
    listed = mine(storing, "GET", f"{IDS[0]}/input_items").json()
    assert [item["id"] for item in listed["data"]] == ["msg_three", "msg_two", "msg_one"]
    assert listed["has_more"] is False
    first = mine(storing, "GET", f"{IDS[0]}/input_items?order=asc&limit=2&include[]=x").json()
    assert (first["first_id"], first["last_id"], first["has_more"]) == ("msg_one", "msg_two", True)
    rest = mine(storing, "GET", f"{IDS[0]}/input_items?order=asc&after=msg_two").json()
    assert [item["id"] for item in rest["data"]] == ["msg_three"]
    assert mine(storing, "DELETE", IDS[0]).json() == {
        "id": IDS[0],
        "object": "response",
        "deleted": True,
    }
    assert not any("msg_one" in str(row) for row in storing.tables()["responses"])
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        check_error(mine(storing, method, IDS[0] + path), 404, "not_found")


def test_another_project_sees_none_of_it(storing: Cloud) -> None:
    stranger = storing.new_member()
    keep(storing, body(status="queued", background=True), "secret")
    with storing.unchanged():
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/input_items"),
            ("POST", "/cancel"),
        ):
            reply = storing.call(method, f"/v1/responses/{IDS[0]}{path}", key=stranger)
            check_error(reply, 404, "not_found")
            assert "secret" not in reply.text
            operator = storing.call(method, f"/v1/responses/{IDS[0]}{path}")
            check_error(operator, 403, "permission_denied")
        other = storing.principal(stranger).project_id
        check_error(history(storing, IDS[0], other), 404, "not_found", "previous_response_id")
        wish = {"project_id": other, "response": body(status="completed")}
        check_error(internal(storing, "PUT", json=wish), 404, "not_found")


def test_nothing_is_kept_where_it_is_not_allowed(cloud: Cloud) -> None:
    with cloud.unchanged():
        assert "may_store_responses" in check_error(keep(cloud, body()), 403, "permission_denied")
    allow(cloud, may_store=True)
    keep(cloud, body())
    allow(cloud, may_store=False)
    check_error(keep(cloud, body(IDS[1])), 403, "permission_denied")
    assert mine(cloud, "GET", IDS[0]).status_code == 200, "what is there stays until deleted"


def test_keeping_again_changes_nothing(storing: Cloud) -> None:
    keep(storing, body(), "one")
    with storing.unchanged():
        assert keep(storing, body(model="other"), "two").status_code == 200


def test_what_is_too_large_is_not_kept(storing: Cloud) -> None:
    with storing.unchanged():
        reply = keep(storing, body(instructions="x" * BYTES_MAX))
        check_error(reply, 413, "body_too_large", "store")


@pytest.mark.parametrize(
    "changes",
    [
        {"response": body("resp_wrong")},
        {"response": body(status="new")},
        {"response": body(output="x")},
        {"response": {}},
        {"input_items": [{"type": "message"}]},
        {"holder": ""},
    ],
)
def test_what_is_no_response_is_not_kept(storing: Cloud, changes: dict[str, Any]) -> None:
    with storing.unchanged():
        assert keep(storing, **({"response": body()} | changes)).status_code == 400


def test_a_response_in_the_background(storing: Cloud) -> None:
    keep(storing, body(status="queued", background=True, output=[]), "ask")
    assert mine(storing, "GET", IDS[0]).json()["status"] == "queued"
    assert report(storing, in_progress=[IDS[0]]) == []
    assert mine(storing, "GET", IDS[0]).json()["status"] == "in_progress"
    done = body(background=True)
    assert finish(storing, done).json() == {"status": "completed"}
    assert mine(storing, "GET", IDS[0]).json() == done
    assert mine(storing, "POST", f"{IDS[0]}/cancel").json() == done, "it was over"
    with storing.unchanged():
        assert finish(storing, body(background=True, output=[])).json() == {"status": "completed"}


def test_a_cancelled_one_is_stopped_and_stays_cancelled(storing: Cloud) -> None:
    keep(storing, body(status="queued", background=True, output=[]))
    assert report(storing, queued=[IDS[0]]) == []
    cancelled = mine(storing, "POST", f"{IDS[0]}/cancel")
    assert cancelled.status_code == 200
    assert cancelled.json()["status"] == "cancelled"
    assert report(storing, in_progress=[IDS[0]]) == [IDS[0]]
    assert finish(storing, body(background=True)).json() == {"status": "cancelled"}
    assert mine(storing, "GET", IDS[0]).json()["output"] == []
    assert mine(storing, "POST", f"{IDS[0]}/cancel").json()["status"] == "cancelled"


def test_a_deleted_one_is_stopped_and_stays_away(storing: Cloud) -> None:
    keep(storing, body(status="queued", background=True))
    mine(storing, "DELETE", IDS[0])
    assert report(storing, queued=[IDS[0]]) == [IDS[0]]
    check_error(finish(storing, body(background=True)), 404, "not_found")
    check_error(mine(storing, "GET", IDS[0]), 404, "not_found")


def test_one_in_the_foreground_cannot_be_cancelled(storing: Cloud) -> None:
    keep(storing, body())
    with storing.unchanged():
        message = check_error(mine(storing, "POST", f"{IDS[0]}/cancel"), 400, "invalid_value")
    assert "background" in message


def test_a_conversation_is_read_from_its_end(storing: Cloud) -> None:
    keep(storing, body(IDS[0]), "one")
    keep(storing, body(IDS[1], previous_response_id=IDS[0], status="incomplete"), "two")
    found = history(storing, IDS[1]).json()["items"]
    assert [item["id"] for item in found] == ["msg_one", "msg_1", "msg_two", "msg_1"]
    mine(storing, "DELETE", IDS[0])
    message = check_error(history(storing, IDS[1]), 404, "not_found", "previous_response_id")
    assert IDS[0] in message


@pytest.mark.parametrize("status", ["queued", "in_progress", "failed", "cancelled"])
def test_what_did_not_end_well_is_not_continued(storing: Cloud, status: str) -> None:
    keep(storing, body(status=status, background=True))
    check_error(history(storing, IDS[0]), 400, "invalid_value", "previous_response_id")


def test_a_conversation_in_a_circle_has_an_end(storing: Cloud) -> None:
    keep(storing, body(previous_response_id=IDS[0]))
    message = check_error(history(storing, IDS[0]), 400, "invalid_value", "previous_response_id")
    assert str(CHAIN_MAX) in message


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "order=up", "after=msg_none", "after="]
)
def test_pages_that_do_not_exist(storing: Cloud, query: str) -> None:
    keep(storing, body(), "one")
    reply = mine(storing, "GET", f"{IDS[0]}/input_items?{query}")
    check_error(reply, 400, "invalid_value", query.partition("=")[0])


def test_a_stored_response_is_not_streamed(storing: Cloud) -> None:
    keep(storing, body())
    check_error(mine(storing, "GET", f"{IDS[0]}?stream=true"), 400, "invalid_value", "stream")
    assert mine(storing, "GET", f"{IDS[0]}?stream=false&include[]=x").status_code == 200
