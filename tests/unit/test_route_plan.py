"""What gateways are told."""

import random

import pytest

from tests.support.planning import NOW_MS, PROJECT, deployment_of, replica_of
from tramontane.domain.deployment import Deployment
from tramontane.domain.planning.route_plan import RouteSnapshot, plan_routes, retry_after_s
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.routing import RouteTable
from tramontane.domain.tenancy import ApiKey, Role


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
