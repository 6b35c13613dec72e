"""Limits, budgets, prices, blocks and slices over HTTP."""

from typing import Any

import pytest

from tests.support.cloud import GATEWAY_TOKEN, Cloud, check_error
from tramontane.domain.spending.slices import WINDOW_MS, period_end_ms, period_of
from tramontane.reconcilers.routes import RouteReconciler
from tramontane.services.gateways import RouteTables

SLICES = "/internal/v1/slices"


def set_limit(cloud: Cloud, **fields: Any) -> dict[str, Any]:
    cloud.clock.advance(1)  # lists are in the order of creation
    return cloud.cloud("PUT", "/limits", json=fields)


def report(cloud: Cloud, holder: str, sequence: int, *asks: dict[str, Any], **more: Any) -> Any:
    body = {"gateway": "gw", "holder": holder, "sequence": sequence, "asks": list(asks)} | more
    return cloud.call("POST", SLICES, key=GATEWAY_TOKEN, json=body)


def ask(limit: dict[str, Any], meter: str, want: int, **more: int) -> dict[str, Any]:
    return {"limit_id": limit["id"], "meter": meter, "want": want, **more}


def published(cloud: Cloud) -> Any:
    RouteReconciler(cloud.db, cloud.clock, "00").step()
    table = RouteTables(cloud.db).current()
    assert table
    return table


def route_key(cloud: Cloud, key_id: str) -> Any:
    return next(key for key in published(cloud).keys.values() if key.id == key_id)


def test_a_limit_is_set_replaced_listed_and_removed(cloud: Cloud) -> None:
    made = set_limit(cloud, project="default", requests_per_minute_max=100, budget_micro=5)
    assert made == {
        "object": "limit",
        "id": made["id"],
        "scope": "project",
        "subject_id": cloud.project.id,
        "model": None,
        "requests_per_minute_max": 100,
        "tokens_per_minute_max": None,
        "requests_in_flight_max": None,
        "budget_micro": 5,
    }
    again = set_limit(cloud, project=cloud.project.id, tokens_per_minute_max=7)
    assert again == made | {
        "requests_per_minute_max": None,
        "tokens_per_minute_max": 7,
        "budget_micro": None,
    }
    other = set_limit(cloud, organization="default", model="chat", requests_in_flight_max=1)
    mine = set_limit(cloud, api_key=cloud.member.key_id, budget_micro=0)
    assert cloud.cloud("GET", "/limits")["data"] == [again, other, mine]
    assert cloud.cloud("GET", "/limits?organization=default")["data"] == [other]
    assert cloud.cloud("GET", "/limits?limit=2")["has_more"]
    assert cloud.cloud("GET", f"/limits?after={other['id']}")["data"] == [mine]
    table = published(cloud)
    bound = route_key(cloud, cloud.member.key_id)
    assert bound.limit_ids == (other["id"], again["id"], mine["id"])
    assert table.limits[other["id"]].model == "chat"
    gone = cloud.cloud("DELETE", f"/limits/{again['id']}")
    assert gone == {"object": "limit", "id": again["id"], "deleted": True}
    check_error(cloud.call("GET", f"/cloud/v1/limits/{again['id']}"), 404, "not_found")
    assert set(published(cloud).limits) == {other["id"], mine["id"]}
    told = cloud.cloud("GET", f"/events?subject={again['id']}")["data"]
    assert [event["kind"] for event in told] == ["limit.set", "limit.set", "limit.removed"]


@pytest.mark.parametrize(
    ("body", "status", "code", "told"),
    [
        ({"budget_micro": 1}, 400, "invalid_value", "exactly one of organization, project"),
        ({"project": "a", "api_key": "b"}, 400, "invalid_value", "exactly one of"),
        ({"project": "default"}, 400, "missing_required_parameter", "bounds nothing"),
        ({"project": "nope", "budget_micro": 1}, 404, "not_found", "no project nope"),
        ({"organization": "nope", "budget_micro": 1}, 404, "not_found", "organization nope"),
        ({"api_key": "key_x", "budget_micro": 1}, 404, "not_found", "API key key_x"),
        ({"project": "default", "budget_micro": -1}, 400, "invalid_value", "greater than"),
        ({"project": "default", "requests_per_minute_max": 0}, 400, "invalid_value", "greater"),
    ],
)
def test_what_no_limit_can_be(
    shared_cloud: Cloud, body: dict[str, Any], status: int, code: str, told: str
) -> None:
    with shared_cloud.unchanged():
        reply = shared_cloud.call("PUT", "/cloud/v1/limits", json=body)
        assert told in check_error(reply, status, code, reply.json()["param"])


def test_who_is_gone_gets_no_limit(cloud: Cloud) -> None:
    cloud.new_member("old")
    cloud.cloud("DELETE", "/projects/old")
    made = cloud.cloud("POST", "/api-keys", json={"name": "k"})
    cloud.cloud("DELETE", f"/api-keys/{made['id']}")
    for body in ({"project": "old"}, {"api_key": made["id"]}):
        reply = cloud.call("PUT", "/cloud/v1/limits", json=body | {"budget_micro": 1})
        check_error(reply, 409, "conflict", reply.json()["param"])


def test_a_member_reads_what_binds_it(cloud: Cloud) -> None:
    stranger = cloud.new_member("other")
    ours = [
        set_limit(cloud, organization="default", budget_micro=9),
        set_limit(cloud, project="default", budget_micro=8),
        set_limit(cloud, api_key=cloud.member.key_id, requests_in_flight_max=8),
    ]
    theirs = set_limit(cloud, project="other", budget_micro=1)
    member = cloud.keys.api_key
    assert cloud.cloud("GET", "/limits", key=member)["data"] == ours
    assert cloud.cloud("GET", "/limits", key=stranger)["data"] == [ours[0], theirs]
    for path in (f"/limits/{theirs['id']}", "/limits?project=other"):
        check_error(
            cloud.call("GET", f"/cloud/v1{path}", key=member),
            404,
            "not_found",
            "project" if "?" in path else None,
        )
    budgets = cloud.cloud("GET", "/budgets", key=member)["data"]
    assert [budget["id"] for budget in budgets] == [ours[0]["id"], ours[1]["id"]]


def test_the_bound_of_a_new_key_is_a_limit(cloud: Cloud) -> None:
    body = {"name": "k", "requests_in_flight_max": 3, "allowed_models": ["b", "a", "a"]}
    made = cloud.cloud("POST", "/api-keys", key=cloud.keys.api_key, json=body)
    assert (made["requests_in_flight_max"], made["allowed_models"]) == (3, ["a", "b"])
    (limit,) = cloud.cloud("GET", f"/limits?api_key={made['id']}")["data"]
    assert (limit["scope"], limit["requests_in_flight_max"]) == ("api_key", 3)
    cloud.cloud("DELETE", f"/limits/{limit['id']}")
    assert cloud.cloud("GET", f"/api-keys/{made['id']}")["requests_in_flight_max"] is None


def test_a_budget_counts_what_was_spent_before_and_after(cloud: Cloud) -> None:
    now_ms = cloud.clock.now_ms()
    cloud.add_usage(cloud.usage_event(cost_nano=1_500, started_at_ms=now_ms))
    limit = set_limit(cloud, project="default", budget_micro=10)
    first = report(cloud, "h", 1, ask(limit, "budget", 6_000)).json()["grants"][0]
    period = period_of(now_ms)
    assert (first["granted"], first["window"], first["remaining"]) == (6_000, period, 2_500)
    cloud.add_usage(cloud.usage_event(cost_nano=2_000, holder="h", started_at_ms=now_ms))
    (budget,) = cloud.cloud("GET", "/budgets")["data"]
    assert budget == {
        "object": "budget",
        "id": limit["id"],
        "scope": "project",
        "subject_id": cloud.project.id,
        "model": None,
        "budget_micro": 10,
        "spent_nano": 3_500,
        "held_nano": 4_000,
        "remaining_nano": 2_500,
        "period": f"{period // 100}-{period % 100:02}",
        "ends_at_ms": period_end_ms(period),
    }
    # A budget that was replaced goes on counting; one that was taken away begins again.
    set_limit(cloud, project="default", budget_micro=20)
    assert cloud.cloud("GET", "/budgets")["data"][0]["remaining_nano"] == 12_500
    (total,) = cloud.cloud("GET", "/usage?group_by=none")["data"]
    assert total["cost_nano"] == 3_500


def test_prices(cloud: Cloud) -> None:
    (free,) = cloud.cloud("GET", "/prices", key=cloud.keys.api_key)["data"]
    assert (free["model"], free["prompt_micro"], free["changed_at_ms"]) == (
        "tramontane-demo",
        0,
        None,
    )
    set_to = {"prompt_micro": 150_000, "completion_micro": 600_000}
    made = cloud.cloud("PUT", "/prices/tramontane-demo", json=set_to)
    assert made["cached_micro"] is None
    (route,) = published(cloud).routes
    assert (route.prices.prompt_micro, route.prices.completion_micro) == (150_000, 600_000)
    assert cloud.cloud("GET", "/prices/tramontane-demo") == made
    told = cloud.cloud("GET", f"/events?subject={made['id']}")["data"]
    assert told[-1]["kind"] == "model.priced"
    cloud.cloud("DELETE", "/prices/tramontane-demo")
    (route,) = published(cloud).routes
    assert route.prices.are_zero
    check_error(cloud.call("GET", "/cloud/v1/prices/nope"), 404, "not_found")


@pytest.mark.parametrize("noun", ["organization", "project", "key"])
def test_who_is_blocked_reads_and_changes_nothing(cloud: Cloud, noun: str) -> None:
    path = {
        "organization": "/organizations/default",
        "project": "/projects/default",
        "key": f"/api-keys/{cloud.member.key_id}",
    }[noun]
    blocked = cloud.cloud("PATCH", path, json={"is_blocked": True})
    assert blocked["blocked_at_ms"] == cloud.clock.now_ms()
    assert route_key(cloud, cloud.member.key_id).blocked == noun
    member = cloud.keys.api_key
    assert cloud.cloud("GET", "/deployments", key=member)["data"]
    reply = cloud.call("POST", "/cloud/v1/api-keys", key=member, json={"name": "k"})
    assert "blocked" in check_error(reply, 403, "permission_denied")
    assert cloud.cloud("PATCH", path, json={"is_blocked": True}) == blocked
    cloud.cloud("PATCH", path, json={"is_blocked": False})
    assert route_key(cloud, cloud.member.key_id).blocked is None
    cloud.cloud("POST", "/api-keys", key=member, json={"name": "k"})
    told = cloud.cloud("GET", f"/events?subject={blocked['id']}")["data"]
    assert [event["kind"].split(".")[1] for event in told][-2:] == ["blocked", "unblocked"]


def test_nobody_blocks_his_own_key(cloud: Cloud) -> None:
    path = f"/cloud/v1/api-keys/{cloud.operator.key_id}"
    with cloud.unchanged():
        check_error(cloud.call("PATCH", path, json={"is_blocked": True}), 409, "in_use")


def test_switches_and_allowed_models_reach_the_gateways(cloud: Cloud) -> None:
    key_id = cloud.member.key_id
    before = route_key(cloud, key_id)
    assert (before.models, before.is_strict, before.may_store) == (None, False, False)
    changed = cloud.cloud(
        "PATCH", "/projects/default", json={"is_strict": True, "allowed_models": ["b", "a/x"]}
    )
    assert (changed["is_strict"], changed["allowed_models"]) == (True, ["a/x", "b"])
    cloud.cloud("PATCH", "/organizations/default", json={"may_store_responses": True})
    now = route_key(cloud, key_id)
    assert (now.models, now.is_strict, now.may_store) == (("a/x", "b"), True, True)
    cloud.cloud("PATCH", f"/api-keys/{key_id}", json={"allowed_models": ["b", "c"]})
    assert route_key(cloud, key_id).models == ("b",)
    cloud.cloud("PATCH", "/projects/default", json={"allowed_models": ["*"]})
    assert route_key(cloud, key_id).models == ("b", "c")
    assert cloud.cloud("GET", "/projects/default")["allowed_models"] == ["*"]
    cloud.cloud("PATCH", f"/api-keys/{key_id}", json={"allowed_models": []})
    assert route_key(cloud, key_id).models == ()


def test_slices_are_granted_once_for_each_sequence(cloud: Cloud) -> None:
    limit = set_limit(cloud, project="default", requests_per_minute_max=10)
    wanted = ask(limit, "requests", 6)
    first = report(cloud, "a", 1, wanted).json()
    assert first == {
        "gateways": 1,
        "grants": [
            {
                "limit_id": limit["id"],
                "meter": "requests",
                "granted": 6,
                "window": 1,
                "expires_in_ms": WINDOW_MS,
                "remaining": 4,
                "bound": 10,
                "retry_in_ms": 0,
            }
        ],
    }
    with cloud.unchanged():
        assert report(cloud, "a", 1, wanted).json() == first
    second = report(cloud, "b", 1, wanted).json()
    assert (second["gateways"], second["grants"][0]["granted"]) == (2, 4)
    assert second["grants"][0]["retry_in_ms"] == WINDOW_MS
    assert report(cloud, "a", 5).json() == {"gateways": 2, "grants": []}
    with cloud.unchanged():
        reply = report(cloud, "a", 4, wanted)
        assert "older than 5" in check_error(reply, 409, "conflict", "sequence")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("holder", ["", "a b", "x" * 65, "\u00e9", 5, None]),
        ("sequence", [0, -1, 1 << 63, "1", 1.0, True, None]),
        ("settled_holders", ["a", [""], ["a b"], [5], ["a"] * 101]),
        ("asks", [{}, [5], [{"limit_id": "x"}], [{"limit_id": "x", "meter": "euros"}]]),
        ("asks", [[{"limit_id": "x", "meter": "tokens", "want": bad}] for bad in (-1, 1 << 62)]),
        ("asks", [[{"limit_id": "x", "meter": "tokens"}] * 1_001]),
        ("gateway", ["", "a\nb", 5]),
        ("other", [1]),
    ],
)
def test_hostile_reports(shared_cloud: Cloud, field: str, values: list[Any]) -> None:
    right = {"gateway": "gw", "holder": "h", "sequence": 1, "asks": []}
    with shared_cloud.unchanged():
        for value in values:
            reply = shared_cloud.call(
                "POST", SLICES, key=GATEWAY_TOKEN, json=right | {field: value}
            )
            body = reply.json()
            assert body["param"].split(".")[0] == field, (value, body)
            check_error(reply, 400, body["code"], body["param"])


def test_a_limit_that_nobody_set(cloud: Cloud) -> None:
    grant = report(cloud, "a", 1, {"limit_id": "lim_x", "meter": "tokens", "want": 5}).json()
    assert (grant["grants"][0]["granted"], grant["grants"][0]["bound"]) == (0, -1)
