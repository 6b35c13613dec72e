"""What gateways are told."""

import random
from dataclasses import replace

import pytest

from tests.support.planning import NOW_MS, PROJECT, deployment_of, replica_of
from tramontane.domain.deployment import (
    AutoscaleSpec,
    Canary,
    Deployment,
    DeploymentStatus,
    Scale,
)
from tramontane.domain.planning.route_plan import RouteSnapshot, plan_routes, retry_after_s
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.routing import RouteTable
from tramontane.domain.spending.limits import Limit, LimitScope
from tramontane.domain.spending.pricing import Prices
from tramontane.domain.tenancy import ApiKey, Organization, Role


def table_of(deployments: list[Deployment], replicas: list[Replica]) -> RouteTable:
    keys = [
        (ApiKey(f"key_{n}", PROJECT.id, "k", Role.MEMBER, f"hash-{n}", "tmt_...", NOW_MS), PROJECT)
        for n in (2, 1)
    ]
    return plan_routes(
        RouteSnapshot(NOW_MS, "00", tuple(keys), tuple(deployments), tuple(replicas), "dep_probe")
    )


@pytest.mark.parametrize("status", ReplicaStatus)
def test_only_what_serves_is_routed(status: ReplicaStatus) -> None:
    deployment = deployment_of()
    replica = replica_of(1, deployment, status)
    (route,) = table_of([deployment], [replica]).routes
    serves = status in {ReplicaStatus.READY, ReplicaStatus.UNKNOWN}
    assert [r.id for r in route.replicas] == ([replica.id] if serves else [])


def test_unknown_is_routed_only_if_it_was_ever_ready() -> None:
    deployment = deployment_of()
    replica = replica_of(1, deployment, ReplicaStatus.UNKNOWN, ready_at_ms=None, address=None)
    (route,) = table_of([deployment], [replica]).routes
    assert route.replicas == ()


def test_a_route_says_all_that_a_gateway_needs() -> None:
    deployment = deployment_of()
    replica = replica_of(1, deployment)
    table = table_of([deployment], [replica])
    (route,) = table.routes
    assert (route.model, route.upstream_model) == (deployment.name, deployment.name)
    assert route.replicas[0].address == replica.address
    assert route.replicas[0].secret == replica.secret
    assert route.retry_after_s is None
    assert table.keys["hash-1"].organization_id == PROJECT.organization_id
    assert table.probe_deployment_id == "dep_probe"


def test_a_deleted_deployment_is_not_routed() -> None:
    deployment = deployment_of(deleted_at_ms=NOW_MS)
    assert table_of([deployment], [replica_of(1, deployment)]).routes == ()


def test_the_order_of_the_input_does_not_matter() -> None:
    deployments = [deployment_of(number) for number in range(1, 5)]
    replicas = [replica_of(n, deployments[n % 4]) for n in range(1, 9)]
    expected = table_of(deployments, replicas)
    for seed in range(10):
        random.Random(seed).shuffle(deployments)
        random.Random(seed).shuffle(replicas)
        assert table_of(deployments, replicas) == expected


@pytest.mark.parametrize(
    ("passed_ms", "expected"),
    [(0, 20), (1_000, 20), (10_000, 10), (18_500, 2), (20_000, 10), (60_000, 30), (10**8, 600)],
)
def test_the_wait_is_what_a_start_took_less_what_has_passed(passed_ms: int, expected: int) -> None:
    deployment = deployment_of(start_ms=20_000)
    starting = replica_of(1, deployment, ReplicaStatus.STARTING, created_at_ms=NOW_MS - passed_ms)
    assert retry_after_s(deployment, [starting], NOW_MS) == expected


def test_the_wait_counts_a_backoff_and_is_none_when_nothing_comes() -> None:
    waiting = deployment_of(retry_at_ms=NOW_MS + 8_000, start_ms=4_000)
    assert retry_after_s(waiting, [], NOW_MS) == 20  # 12 s, in steps
    assert retry_after_s(deployment_of(), [], NOW_MS) is None  # it has no place
    assert retry_after_s(deployment_of(replicas=0), [], NOW_MS) is None
    unseen = deployment_of(observed_generation=0, start_ms=4_000)
    assert retry_after_s(unseen, [], NOW_MS) == 5


def autoscaled(least: int, wanted: int, status: DeploymentStatus) -> Deployment:
    made = deployment_of(status=status, start_ms=1_500, scale=Scale(wanted, NOW_MS, "so"))
    return replace(made, spec=replace(made.spec, autoscale=AutoscaleSpec(least, 3, 4)))


def test_one_at_zero_wakes_only_if_it_scales_by_itself() -> None:
    by_hand = deployment_of(replicas=0, status=DeploymentStatus.STOPPED)
    (route,) = table_of([by_hand], []).routes
    assert (route.wakes, route.retry_after_s) == (False, None), "nothing would be started"
    (route,) = table_of([autoscaled(0, 0, DeploymentStatus.STOPPED)], []).routes
    assert (route.wakes, route.retry_after_s, route.start_ms) == (True, 2, 1_500)
    (route,) = table_of([autoscaled(1, 1, DeploymentStatus.PENDING)], []).routes
    assert route.wakes is False, "it is never at zero"


def test_what_nobody_looked_at_yet_is_about_to_start() -> None:
    deployment = autoscaled(0, 1, DeploymentStatus.STOPPED)
    assert retry_after_s(deployment, [], NOW_MS) == 2
    placeless = replace(deployment, status=DeploymentStatus.PENDING)
    assert retry_after_s(placeless, [], NOW_MS) is None


def test_a_canary_is_routed_once_it_serves_and_under_both_names() -> None:
    stable = deployment_of(1)
    canary = deployment_of(2, canary=Canary(stable.id, 10))
    ready = replica_of(1, stable)
    starting = replica_of(2, canary, ReplicaStatus.STARTING)
    plain, alone = table_of([stable, canary], [ready, starting]).routes
    assert plain.canary is None
    assert plain.canary_percent == 0
    serving = replica_of(2, canary)
    plain, alone = table_of([canary, stable], [ready, serving]).routes
    assert (plain.model, alone.model) == ("chat-1", "chat-2")
    assert plain.canary is not None
    assert plain.canary == replace(alone, model="chat-1")
    assert plain.canary_percent == 10
    assert plain.canary.upstream_model == "chat-2", "the name that its engine answers to"
    assert (plain.deployment_id, plain.canary.deployment_id) == (stable.id, canary.id)
    orphaned = table_of([canary], [serving]).routes
    assert [route.model for route in orphaned] == ["chat-2"]


def test_a_key_is_told_its_limits_models_and_blocks() -> None:
    project = replace(PROJECT, allowed_models=("a", "b"), is_strict=True)
    key = ApiKey("key_1", PROJECT.id, "k", Role.MEMBER, "hash", "tmt_...", NOW_MS)
    owner = Organization(PROJECT.organization_id, "o", NOW_MS, may_store_responses=True)
    subjects = [PROJECT.id, "key_1", "another", PROJECT.organization_id]
    limits = tuple(Limit(f"lim_{n}", LimitScope.PROJECT, it) for n, it in enumerate(subjects))
    deployment = deployment_of()
    priced = Prices(prompt_micro=5)
    base = RouteSnapshot(
        now_ms=NOW_MS,
        hmac_key="00",
        keys=((replace(key, allowed_models=("b", "c")), project),),
        deployments=(deployment,),
        replicas=(),
        organizations=(owner,),
        limits=limits,
        prices={deployment.spec.model_version_id: priced, "mdv_other": Prices(9)},
    )
    table = plan_routes(base)
    told = table.keys["hash"]
    assert told.limit_ids == ("lim_3", "lim_0", "lim_1")
    assert list(table.limits) == ["lim_0", "lim_1", "lim_3"]
    assert (told.models, told.is_strict, told.may_store, told.blocked) == (("b",), True, True, None)
    assert table.routes[0].prices == priced
    assert plan_routes(replace(base, limits=limits[::-1])) == table


@pytest.mark.parametrize(
    ("of_organization", "of_project", "of_key", "told"),
    [
        (None, None, None, None),
        (None, None, 1, "key"),
        (None, 1, 1, "project"),
        (1, 1, 1, "organization"),
    ],
)
def test_who_was_blocked(
    of_organization: int | None, of_project: int | None, of_key: int | None, told: str | None
) -> None:
    key = ApiKey("k", PROJECT.id, "k", Role.MEMBER, "h", "r", NOW_MS, blocked_at_ms=of_key)
    owner = Organization(PROJECT.organization_id, "o", NOW_MS, blocked_at_ms=of_organization)
    pair = (key, replace(PROJECT, blocked_at_ms=of_project))
    snapshot = RouteSnapshot(NOW_MS, "00", (pair,), (), (), organizations=(owner,))
    assert plan_routes(snapshot).keys["h"].blocked == told
