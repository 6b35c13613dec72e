"""Who may call what: every route, for every kind of caller, with nothing changed by a refusal."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter

from tests.store.test_responses import make as stored_response
from tests.support.cloud import GATEWAY_TOKEN, Cloud, check_error
from tramontane.api.access import (
    GatewayOnly,
    GuardedRoute,
    Public,
    Requires,
    RunnerOnly,
    UnmarkedRouteError,
    public,
    requires,
)
from tramontane.api.app import ROUTERS, create_app, permissions_of
from tramontane.domain.jobs.rules import NewJob
from tramontane.domain.quotas.quota import RackReservation
from tramontane.domain.tenancy import ROLE_PERMISSIONS, Permission, Principal, Role, make_key
from tramontane.services.api_keys import NewApiKey
from tramontane.services.quotas.owned import Subject
from tramontane.services.spending.limits import Bounds
from tramontane.store.quotas import reservations
from tramontane.store.responses import stored

# What a route needs besides its access to do its work. A new route that is not listed here fails.
BODIES: dict[str, Any] = {
    "POST /cloud/v1/organizations": {"name": "new"},
    "POST /cloud/v1/projects": {"name": "new"},
    "POST /cloud/v1/api-keys": {"name": "new"},
    "POST /cloud/v1/models": {"name": "new", "path": "/no/such/file"},
    "POST /cloud/v1/deployments": {"name": "new", "model": "tramontane-demo"},
    "PATCH /cloud/v1/deployments/{deployment}": {"replicas": 2},
    "POST /cloud/v1/deployments/{deployment}/scale": {"replicas": 2},
    "PUT /cloud/v1/deployments/{deployment}/autoscale": {
        "replicas_max": 2,
        "requests_in_flight": 4,
    },
    "PUT /cloud/v1/deployments/{deployment}/canary": {"percent": 10},
    "POST /cloud/v1/deployments/{deployment}/canary/promote": {},
    "POST /cloud/v1/jobs": {"name": "new", "command": ["true"]},
    "POST /cloud/v1/jobs/{job}/cancel": None,
    "PATCH /cloud/v1/organizations/{organization}": {"is_blocked": True},
    "PATCH /cloud/v1/projects/{project}": {"is_strict": True},
    "PATCH /cloud/v1/api-keys/{api_key}": {"allowed_models": []},
    "PUT /cloud/v1/limits": {"project": "default", "requests_per_minute_max": 1},
    "PUT /cloud/v1/prices/{model}": {"prompt_micro": 1},
    "PUT /cloud/v1/class-prices/{priority_class}": {"device_hour_micro": 1},
    "PUT /cloud/v1/quotas": {"project": "default", "devices_max": 1},
    "POST /cloud/v1/reservations": {"organization": "a", "cluster": "b", "rack": "c"},
    "POST /cloud/v1/nodes/{node}/drain": {"reason": "new disks"},
    "POST /cloud/v1/nodes/{node}/resume": None,
    "POST /internal/v1/slices": {"gateway": "g", "holder": "h", "sequence": 1},
    "POST /internal/v1/demand": {"gateway": "g", "holder": "h", "deployments": []},
    "POST /internal/v1/usage-events": {"events": []},
    "POST /cloud/v1/runners/{id}/report": {"run_state": "ready", "at_ms": 1},
    "POST /v1/responses/{response}/cancel": None,
    "POST /internal/v1/responses": {},
    "PUT /internal/v1/responses": {},
    "POST /internal/v1/responses/report": {
        "gateway": "g",
        "holder": "h",
        "queued": [],
        "in_progress": [],
    },
}
QUERIES = {"GET /cloud/v1/events": "?subject=dep_x"}
# Every route and the permission it needs: a change here is a change of who may do what.
EXPECTED = {
    "GET /cloud/v1/organizations": Permission.ORGANIZATIONS_READ,
    "POST /cloud/v1/organizations": Permission.ORGANIZATIONS_WRITE,
    "GET /cloud/v1/organizations/{organization}": Permission.ORGANIZATIONS_READ,
    "PATCH /cloud/v1/organizations/{organization}": Permission.ORGANIZATIONS_WRITE,
    "GET /cloud/v1/projects": Permission.PROJECTS_READ,
    "POST /cloud/v1/projects": Permission.PROJECTS_WRITE,
    "GET /cloud/v1/projects/{project}": Permission.PROJECTS_READ,
    "PATCH /cloud/v1/projects/{project}": Permission.PROJECTS_WRITE,
    "DELETE /cloud/v1/projects/{project}": Permission.PROJECTS_WRITE,
    "GET /cloud/v1/api-keys": Permission.API_KEYS_READ,
    "POST /cloud/v1/api-keys": Permission.API_KEYS_WRITE,
    "GET /cloud/v1/api-keys/{api_key}": Permission.API_KEYS_READ,
    "PATCH /cloud/v1/api-keys/{api_key}": Permission.LIMITS_WRITE,
    "DELETE /cloud/v1/api-keys/{api_key}": Permission.API_KEYS_WRITE,
    "GET /cloud/v1/whoami": Permission.PROJECTS_READ,
    "GET /cloud/v1/models": Permission.MODELS_READ,
    "POST /cloud/v1/models": Permission.MODELS_WRITE,
    "GET /cloud/v1/models/{model}": Permission.MODELS_READ,
    "DELETE /cloud/v1/models/{model}": Permission.MODELS_WRITE,
    "GET /cloud/v1/deployments": Permission.DEPLOYMENTS_READ,
    "POST /cloud/v1/deployments": Permission.DEPLOYMENTS_WRITE,
    "GET /cloud/v1/deployments/{deployment}": Permission.DEPLOYMENTS_READ,
    "PATCH /cloud/v1/deployments/{deployment}": Permission.DEPLOYMENTS_WRITE,
    "DELETE /cloud/v1/deployments/{deployment}": Permission.DEPLOYMENTS_WRITE,
    "POST /cloud/v1/deployments/{deployment}/scale": Permission.DEPLOYMENTS_WRITE,
    "PUT /cloud/v1/deployments/{deployment}/autoscale": Permission.DEPLOYMENTS_WRITE,
    "DELETE /cloud/v1/deployments/{deployment}/autoscale": Permission.DEPLOYMENTS_WRITE,
    "PUT /cloud/v1/deployments/{deployment}/canary": Permission.DEPLOYMENTS_WRITE,
    "DELETE /cloud/v1/deployments/{deployment}/canary": Permission.DEPLOYMENTS_WRITE,
    "POST /cloud/v1/deployments/{deployment}/canary/promote": Permission.DEPLOYMENTS_WRITE,
    "GET /cloud/v1/deployments/{deployment}/logs": Permission.DEPLOYMENTS_READ,
    "GET /cloud/v1/deployments/{deployment}/events": Permission.DEPLOYMENTS_READ,
    "GET /cloud/v1/replicas": Permission.REPLICAS_READ,
    "GET /cloud/v1/replicas/{replica}": Permission.REPLICAS_READ,
    "GET /cloud/v1/jobs": Permission.JOBS_READ,
    "POST /cloud/v1/jobs": Permission.JOBS_WRITE,
    "GET /cloud/v1/jobs/{job}": Permission.JOBS_READ,
    "POST /cloud/v1/jobs/{job}/cancel": Permission.JOBS_WRITE,
    "DELETE /cloud/v1/jobs/{job}": Permission.JOBS_WRITE,
    "GET /cloud/v1/jobs/{job}/attempts": Permission.JOBS_READ,
    "GET /cloud/v1/jobs/{job}/logs": Permission.JOBS_READ,
    "GET /cloud/v1/sites": Permission.CLUSTERS_READ,
    "GET /cloud/v1/clusters": Permission.CLUSTERS_READ,
    "GET /cloud/v1/clusters/{cluster}": Permission.CLUSTERS_READ,
    "GET /cloud/v1/nodes": Permission.CLUSTERS_READ,
    "GET /cloud/v1/nodes/{node}": Permission.CLUSTERS_READ,
    "POST /cloud/v1/nodes/{node}/drain": Permission.CLUSTERS_WRITE,
    "POST /cloud/v1/nodes/{node}/resume": Permission.CLUSTERS_WRITE,
    "GET /cloud/v1/usage": Permission.USAGE_READ,
    "GET /cloud/v1/usage/events": Permission.USAGE_READ,
    "GET /cloud/v1/usage/attempts": Permission.USAGE_READ,
    "GET /cloud/v1/limits": Permission.LIMITS_READ,
    "PUT /cloud/v1/limits": Permission.LIMITS_WRITE,
    "GET /cloud/v1/limits/{limit}": Permission.LIMITS_READ,
    "DELETE /cloud/v1/limits/{limit}": Permission.LIMITS_WRITE,
    "GET /cloud/v1/budgets": Permission.LIMITS_READ,
    "GET /cloud/v1/prices": Permission.PRICES_READ,
    "GET /cloud/v1/prices/{model}": Permission.PRICES_READ,
    "PUT /cloud/v1/prices/{model}": Permission.PRICES_WRITE,
    "DELETE /cloud/v1/prices/{model}": Permission.PRICES_WRITE,
    "GET /cloud/v1/class-prices": Permission.PRICES_READ,
    "PUT /cloud/v1/class-prices/{priority_class}": Permission.PRICES_WRITE,
    "GET /cloud/v1/quotas": Permission.QUOTAS_READ,
    "PUT /cloud/v1/quotas": Permission.QUOTAS_WRITE,
    "GET /cloud/v1/quotas/{quota}": Permission.QUOTAS_READ,
    "DELETE /cloud/v1/quotas/{quota}": Permission.QUOTAS_WRITE,
    "GET /cloud/v1/reservations": Permission.QUOTAS_READ,
    "POST /cloud/v1/reservations": Permission.QUOTAS_WRITE,
    "GET /cloud/v1/reservations/{reservation}": Permission.QUOTAS_READ,
    "DELETE /cloud/v1/reservations/{reservation}": Permission.QUOTAS_WRITE,
    "GET /cloud/v1/events": Permission.EVENTS_READ,
    "GET /cloud/v1/plan": Permission.PLAN_READ,
    "GET /v1/responses/{response}": Permission.INFERENCE,
    "DELETE /v1/responses/{response}": Permission.INFERENCE,
    "POST /v1/responses/{response}/cancel": Permission.INFERENCE,
    "GET /v1/responses/{response}/input_items": Permission.INFERENCE,
}  # fmt: skip
GATEWAYS = {
    "GET /internal/v1/route-table",
    "POST /internal/v1/demand",
    "POST /internal/v1/slices",
    "POST /internal/v1/usage-events",
    "POST /internal/v1/responses",
    "PUT /internal/v1/responses",
    "POST /internal/v1/responses/report",
    "GET /internal/v1/responses/{response}/history",
}
RUNNERS = {"POST /cloud/v1/runners/{id}/report"}
EVERY = sorted([*EXPECTED, *GATEWAYS, *RUNNERS])


def call(cloud: Cloud, route: str, key: str, headers: Any = None, **refs: str) -> Any:
    """Call a route by its template; ``refs`` fill it in."""
    method, path = route.split(" ")
    sent: dict[str, Any] = {"json": BODIES[route]} if route in BODIES else {}
    sent["headers"] = headers or {}
    if method in {"POST", "PATCH"}:
        assert route in BODIES, f"say in BODIES what {route} is sent"
    names = (
        "organization",
        "project",
        "api_key",
        "model",
        "deployment",
        "replica",
        "job",
        "limit",
        "priority_class",
        "quota",
        "reservation",
        "response",
        "cluster",
        "node",
        "id",
    )
    filled = path.format(**dict.fromkeys(names, "x") | refs)
    return cloud.call(method, filled + QUERIES.get(route, ""), key=key, **sent)


def test_the_list_of_routes_is_complete(shared_cloud: Cloud) -> None:
    marks = permissions_of(shared_cloud.app)
    assert {route: Requires(permission) for route, permission in EXPECTED.items()} == {
        route: mark for route, mark in marks.items() if isinstance(mark, Requires)
    }
    assert {route for route, mark in marks.items() if isinstance(mark, GatewayOnly)} == GATEWAYS
    assert {route for route, mark in marks.items() if isinstance(mark, RunnerOnly)} == RUNNERS
    assert {route for route, mark in marks.items() if isinstance(mark, Public)} == {"GET /console"}


@pytest.mark.parametrize("route", EVERY)
def test_without_a_usable_key(shared_cloud: Cloud, route: str) -> None:
    unknown = make_key(bytes(24))
    wrong_keys = {
        "": "no API key",
        "tmt_wrong": "mistyped",
        unknown[:-1] + "0": "mistyped",
        unknown: "unknown",
        "x" * 5_000: "mistyped",
        shared_cloud.keys.admin_key.upper(): "mistyped",
    }
    with shared_cloud.unchanged():
        for key, told in wrong_keys.items():
            reply = call(shared_cloud, route, key)
            message = check_error(reply, 401, "invalid_api_key")
            assert reply.headers["www-authenticate"] == "Bearer"
            if route in EXPECTED:
                assert told in message
            assert not key or key not in reply.text


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic {}", "{}", "bearer\t{}"])
def test_other_schemes(shared_cloud: Cloud, header: str) -> None:
    headers = {"authorization": header.format(shared_cloud.keys.admin_key)}
    for route in EVERY:
        reply = call(shared_cloud, route, "", headers=headers)
        check_error(reply, 401, "invalid_api_key")


def test_keys_that_were_good(cloud: Cloud) -> None:
    """Revoked, expired, and of an archived project."""
    create, operator = cloud.services.api_keys.create, Role.OPERATOR
    soon = cloud.clock.now_ms() + 10
    made, revoked = create(cloud.operator, NewApiKey(name="r", role=operator))
    cloud.services.api_keys.revoke(cloud.operator, made.key.id)
    _, expired = create(cloud.operator, NewApiKey(name="e", role=operator, expires_at_ms=soon))
    archived = cloud.new_member("archived")
    cloud.services.projects.archive(cloud.operator, "archived")
    cloud.clock.advance(10)
    with cloud.unchanged():
        for route in EXPECTED:
            for key, told in ((revoked, "revoked"), (expired, "expired"), (archived, "archived")):
                message = check_error(call(cloud, route, key), 401, "invalid_api_key")
                assert told in message


@pytest.mark.parametrize("route", sorted(EXPECTED))
def test_a_member_without_the_permission(shared_cloud: Cloud, route: str) -> None:
    needed = EXPECTED[route]
    if needed in ROLE_PERMISSIONS[Role.MEMBER]:
        method, path = route.split(" ")
        assert shared_cloud.call(method, path, key=shared_cloud.keys.api_key).status_code != 403
        return
    with shared_cloud.unchanged():
        reply = call(shared_cloud, route, shared_cloud.keys.api_key)
        assert needed in check_error(reply, 403, "permission_denied")


def test_what_only_operators_may_do() -> None:
    """The members' limits, spelled out: a permission more for them is a decision."""
    denied = set(Permission) - ROLE_PERMISSIONS[Role.MEMBER]
    assert denied == {
        Permission.ORGANIZATIONS_WRITE,
        Permission.PROJECTS_WRITE,
        Permission.MODELS_WRITE,
        Permission.LIMITS_WRITE,
        Permission.PRICES_WRITE,
        Permission.QUOTAS_WRITE,
        Permission.CLUSTERS_READ,
        Permission.CLUSTERS_WRITE,
        Permission.PLAN_READ,
    }


@pytest.fixture(scope="module")
def stranger(shared_cloud: Cloud) -> tuple[str, dict[str, str]]:
    """A member of another organization, and the refs of what it must not see."""
    cloud = shared_cloud
    cloud.services.organizations.create(cloud.operator, "elsewhere")
    cloud.services.projects.create(cloud.operator, "their-project", "elsewhere")
    _, key = cloud.services.api_keys.create(
        cloud.operator, NewApiKey(name="k", project="their-project")
    )
    demo = cloud.services.deployments.get(cloud.member, "tramontane-demo", None).deployment
    replica = cloud.add_replica(demo.id, demo.project_id, cloud.add_node())
    cloud.add_usage(cloud.usage_event(deployment_id=demo.id))
    job = cloud.services.jobs.create(cloud.member, NewJob("train", command=("true",)))
    subject = Subject(project=cloud.project.id)
    limit = cloud.services.limits.set(cloud.operator, subject, None, Bounds(budget_micro=5))
    bound = cloud.services.quotas.set(cloud.operator, Subject(project="default"), 9, 1)
    kept = RackReservation("rsv_a", cloud.organization.id, "alps", "rack1")
    cloud.db.write(lambda tx: reservations.insert(tx, kept, cloud.clock.now_ms()))
    response = stored_response(project_id=cloud.project.id, organization_id=cloud.organization.id)
    cloud.db.write(lambda tx: stored.insert(tx, response))
    return key, {
        "response": response.id,
        "limit": limit.id,
        "quota": bound.id,
        "reservation": kept.id,
        "organization": cloud.organization.id,
        "project": cloud.project.id,
        "api_key": cloud.member.key_id,
        "deployment": demo.id,
        "replica": replica.id,
        "job": job.id,
    }


@pytest.mark.parametrize("route", sorted(route for route in EXPECTED if "{" in route))
def test_objects_of_others_do_not_exist(
    shared_cloud: Cloud, stranger: tuple[str, dict[str, str]], route: str
) -> None:
    key, refs = stranger
    if "{model}" in route:
        return  # the catalogue is everyone's
    with shared_cloud.unchanged():
        theirs = call(shared_cloud, route, key, **refs)
    if EXPECTED[route] not in ROLE_PERMISSIONS[Role.MEMBER]:
        check_error(theirs, 403, "permission_denied")
        return
    (ref,) = [it for name, it in refs.items() if f"{{{name}}}" in route]
    message = check_error(theirs, 404, "not_found")
    nothing = check_error(call(shared_cloud, route, key), 404, "not_found")
    assert message.replace(ref, "x") == nothing, "the same words as for what is not there"


@pytest.mark.parametrize(
    "path",
    [
        "/organizations", "/projects", "/api-keys", "/deployments", "/replicas", "/usage",
        "/jobs", "/usage/events", "/limits", "/budgets", "/quotas", "/reservations",
    ],
)  # fmt: skip
def test_lists_hold_only_what_is_ones_own(
    shared_cloud: Cloud, stranger: tuple[str, dict[str, str]], path: str
) -> None:
    key, refs = stranger
    ours = shared_cloud.cloud("GET", path, key=shared_cloud.keys.api_key)["data"]
    assert ours, "there is something to see"
    theirs = shared_cloud.call("GET", f"/cloud/v1{path}", key=key)
    assert theirs.is_success
    for ref in refs.values():
        assert ref not in theirs.text
    if path not in {"/organizations", "/projects", "/reservations"}:
        for ref in (refs["project"], "default"):
            reply = shared_cloud.call("GET", f"/cloud/v1{path}?project={ref}", key=key)
            check_error(reply, 404, "not_found", "project")


def test_nobody_elses_story(shared_cloud: Cloud, stranger: tuple[str, dict[str, str]]) -> None:
    key, refs = stranger
    for ref in refs.values():
        assert shared_cloud.cloud("GET", f"/events?subject={ref}", key=key)["data"] == []
    told = shared_cloud.cloud("GET", f"/events?subject={refs['deployment']}")["data"]
    assert [event["kind"] for event in told] == ["deployment.created"]


def test_members_do_not_see_the_machines(
    shared_cloud: Cloud, stranger: tuple[str, dict[str, str]]
) -> None:
    """Nobody sees secrets; addresses and paths are the operator's."""
    _, refs = stranger
    member = shared_cloud.keys.api_key
    for path in (f"/replicas/{refs['replica']}", "/models/tramontane-demo"):
        seen = [
            shared_cloud.call("GET", f"/cloud/v1{path}", key=key).text for key in (member, None)
        ]
        for text in seen:
            assert "the-secret-of-the-replica" not in text
            assert "key_hash" not in text
        assert "127.0.0.1:9" not in seen[0]
        assert str(shared_cloud.demo_model) not in seen[0]
        assert "127.0.0.1:9" in seen[1] or str(shared_cloud.demo_model) in seen[1]


def test_the_gateways_token_opens_nothing_else(shared_cloud: Cloud) -> None:
    check_error(
        shared_cloud.call("GET", "/cloud/v1/whoami", key=GATEWAY_TOKEN), 401, "invalid_api_key"
    )
    for key in (shared_cloud.keys.admin_key, GATEWAY_TOKEN + "x", GATEWAY_TOKEN[:-1], "\u00fc"):
        headers = {"authorization": f"Bearer {key}".encode()}
        reply = shared_cloud.call("GET", "/internal/v1/route-table", key="", headers=headers)
        check_error(reply, 401, "invalid_api_key")


def test_the_key_comes_before_the_body(shared_cloud: Cloud) -> None:
    """A stranger's body is not even read."""
    for content in (b"{", b"[" * 100_000, b"\xff", b"NaN"):
        headers = {"content-type": "application/json"}
        reply = shared_cloud.call(
            "POST", "/cloud/v1/deployments", key="", content=content, headers=headers
        )
        check_error(reply, 401, "invalid_api_key")


def planted(mark: Callable[[APIRouter], None], route_class: Any = GuardedRoute) -> APIRouter:
    router = APIRouter(prefix="/cloud/v1/planted", route_class=route_class)
    mark(router)
    return router


def no_mark(router: APIRouter) -> None:
    @router.get("")
    def hello() -> str:
        return "hello"


def two_marks(router: APIRouter) -> None:
    @router.get("", dependencies=[public()])
    def hello(_: Annotated[Principal, requires(Permission.PLAN_READ)]) -> str:
        return "hello"


def plain_mark(router: APIRouter) -> None:
    @router.get("", dependencies=[public()])
    def hello() -> str:
        return "hello"


@pytest.mark.parametrize("mark", [no_mark, two_marks])
def test_a_route_without_one_clear_mark_cannot_be_written(mark: Any) -> None:
    with pytest.raises(UnmarkedRouteError, match="/cloud/v1/planted"):
        planted(mark)


@pytest.mark.parametrize("mark", [no_mark, plain_mark])
def test_a_route_that_nothing_guards_stops_the_application(shared_cloud: Cloud, mark: Any) -> None:
    from fastapi.routing import APIRoute  # noqa: PLC0415 - the unguarded kind, only here

    routers = [*ROUTERS, planted(mark, APIRoute)]
    with pytest.raises(UnmarkedRouteError, match="planted"):
        create_app(shared_cloud.services, gateway_token="t", ids=shared_cloud.ids, routers=routers)


def test_a_public_route_is_possible_when_said_so(shared_cloud: Cloud) -> None:
    routers = [*ROUTERS, planted(plain_mark)]
    app = create_app(
        shared_cloud.services, gateway_token="t", ids=shared_cloud.ids, routers=routers
    )
    assert permissions_of(app)["GET /cloud/v1/planted"] == Public()
