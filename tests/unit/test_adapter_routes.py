"""Routes to adapters, while replicas are being replaced and beside canaries."""

from collections.abc import Sequence
from dataclasses import replace

from tests.support.planning import NOW_MS, deployment_of, replica_of
from tramontane.domain.catalog import Capabilities
from tramontane.domain.deployment import AdapterSpec, Canary, Deployment
from tramontane.domain.planning.route_plan import RouteSnapshot, plan_routes
from tramontane.domain.replica import Replica
from tramontane.domain.routing import Route, RouteAdapter
from tramontane.domain.spending.pricing import Prices

ONE, TWO = AdapterSpec("one", "mdv_1"), AdapterSpec("two", "mdv_2")


def having(deployment: Deployment, *adapters: AdapterSpec) -> Deployment:
    return replace(deployment, spec=replace(deployment.spec, adapters=adapters))


def loaded(number: int, deployment: Deployment, *adapters: AdapterSpec) -> Replica:
    replica = replica_of(number, deployment)
    return replace(replica, launch=replace(replica.launch, adapters=adapters))


def routes_of(
    deployments: Sequence[Deployment],
    replicas: Sequence[Replica],
    prices: dict[str, Prices] | None = None,
    capabilities: dict[str, Capabilities] | None = None,
) -> dict[str, Route]:
    snapshot = RouteSnapshot(
        NOW_MS,
        "00",
        (),
        tuple(deployments),
        tuple(replicas),
        prices=prices or {},
        capabilities=capabilities or {},
    )
    return {route.model: route for route in plan_routes(snapshot).routes}


def test_each_adapter_has_a_route_of_its_name():
    deployment = having(deployment_of(), ONE, TWO)
    able = Capabilities(chats=True)
    replica = loaded(1, deployment, ONE, TWO)
    routes = routes_of([deployment], [replica], capabilities={deployment.id: able})
    assert routes.keys() == {deployment.name, "one", "two"}
    plain = routes[deployment.name]
    assert (plain.adapter, plain.adapter_count, plain.capabilities) == (None, 2, able)
    for index, name in enumerate(("one", "two")):
        route = routes[name]
        assert route.adapter == RouteAdapter(name, index, 2)
        assert (route.deployment_id, route.upstream_model) == (deployment.id, deployment.name)
        assert route.replicas == plain.replicas
        assert route.capabilities == able


def test_replicas_that_number_them_otherwise_are_never_mixed():
    deployment = having(deployment_of(replicas=3), ONE, TWO)
    old = [loaded(number, deployment, TWO) for number in (1, 2)]
    new = [loaded(number, deployment, ONE, TWO) for number in (3, 4)]
    routes = routes_of([deployment], [*old, new[0]])
    assert routes["one"].adapter == RouteAdapter("one", 0, 2)
    assert [it.id for it in routes["one"].replicas] == [new[0].id]
    assert routes["two"].adapter == RouteAdapter("two", 0, 1)
    assert {it.id for it in routes["two"].replicas} == {it.id for it in old}
    assert routes[deployment.name].adapter_count == 1, "what each of them has"
    assert len(routes[deployment.name].replicas) == 3
    routes = routes_of([deployment], [*old, *new])
    assert routes["two"].adapter == RouteAdapter("two", 1, 2)
    assert {it.id for it in routes["two"].replicas} == {it.id for it in new}


def test_an_older_version_of_an_adapter_does_not_answer_for_it():
    deployment = having(deployment_of(), replace(ONE, model_version_id="mdv_9"))
    route = routes_of([deployment], [loaded(1, deployment, ONE)])["one"]
    assert route.replicas == ()
    assert route.adapter == RouteAdapter("one", 0, 1)


def test_prices_are_the_adapters_or_the_models():
    deployment = having(deployment_of(), ONE, TWO)
    base, own = Prices(prompt_micro=1), Prices(prompt_micro=2)
    prices = {deployment.spec.model_version_id: base, "mdv_2": own}
    routes = routes_of([deployment], [], prices)
    assert (routes["one"].prices, routes["two"].prices) == (base, own)


def test_a_canary_has_no_part_in_adapters():
    deployment = having(deployment_of(1), ONE)
    canary = replace(deployment_of(2), canary=Canary(deployment.id, 20))
    routes = routes_of([deployment, canary], [loaded(1, deployment, ONE), loaded(2, canary)])
    assert routes.keys() == {deployment.name, canary.name, "one"}
    assert routes[deployment.name].canary is not None
    assert (routes["one"].canary, routes["one"].canary_percent) == (None, 0)
