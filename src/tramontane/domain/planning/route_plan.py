"""The plan of the routes reconciler: what every gateway should know, as one sorted value."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tramontane.domain.catalog import UNKNOWN, Capabilities
from tramontane.domain.deployment import Deployment, DeploymentStatus
from tramontane.domain.planning.rollout import wanted_replicas
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.routing import Route, RouteAdapter, RouteKey, RouteReplica, RouteTable
from tramontane.domain.spending.limits import Limit
from tramontane.domain.spending.pricing import FREE, Prices
from tramontane.domain.tenancy import ApiKey, Organization, Project, blocked_by

# The honest wait shrinks in steps, so that a table is published a few times per start instead of
# every second. Each step is the wait rounded up.
RETRY_AFTER_STEPS_S: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600)


@dataclass(frozen=True, slots=True)
class RouteSnapshot:
    """What the route table is made of.

    ``keys`` are usable and of projects that are not archived; ``deployments`` are the live ones;
    ``replicas`` are those that hold capacity. ``probe_deployment_id`` is what ``/ready`` asks
    about. ``organizations`` may leave out those that are not blocked and store nothing; ``prices``
    are by model version, without those that are free; ``capabilities`` are by deployment.
    """

    now_ms: int
    hmac_key: str
    keys: tuple[tuple[ApiKey, Project], ...]
    deployments: tuple[Deployment, ...]
    replicas: tuple[Replica, ...]
    probe_deployment_id: str | None = None
    organizations: tuple[Organization, ...] = ()
    limits: tuple[Limit, ...] = ()
    prices: Mapping[str, Prices] = field(default_factory=dict[str, Prices])
    capabilities: Mapping[str, Capabilities] = field(default_factory=dict[str, Capabilities])


def plan_routes(snapshot: RouteSnapshot) -> RouteTable:
    """Return the table to publish, with revision 0; the same whatever the order of the input."""
    replicas: dict[str, list[Replica]] = {}
    for replica in sorted(snapshot.replicas, key=lambda r: r.id):
        replicas.setdefault(replica.deployment_id, []).append(replica)
    named = {d.id: d for d in snapshot.deployments if d.deleted_at_ms is None}
    plain = {d.id: _route(d, replicas.get(d.id, []), snapshot) for d in named.values()}
    adapted = [
        _adapter_route(d, number, plain[d.id], replicas.get(d.id, []), snapshot)
        for d in named.values()
        for number in range(len(d.spec.adapters))
    ]
    canaries = {d.canary.of_id: d for d in named.values() if d.canary is not None}
    routes = [_with_canary(route, canaries.get(id_), plain) for id_, route in plain.items()]
    routes += adapted
    keys = _keys(snapshot)
    binding = {limit_id for key in keys.values() for limit_id in key.limit_ids}
    return RouteTable(
        revision=0,
        hmac_key=snapshot.hmac_key,
        keys=keys,
        routes=tuple(sorted(routes, key=lambda r: (r.project_id, r.model, r.deployment_id))),
        probe_deployment_id=snapshot.probe_deployment_id,
        limits={
            limit.id: limit
            for limit in sorted(snapshot.limits, key=lambda limit: limit.id)
            if limit.id in binding
        },
    )


def retry_after_s(deployment: Deployment, replicas: Iterable[Replica], now_ms: int) -> int | None:
    """Return how long a request should wait that finds no ready replica, rounded up to a step.

    It is the deployment's measured start time less what has passed of it. A start that takes
    longer than measured is expected to take half as long again as it did so far. None when
    nothing is wanted and no request changes that, or what is wanted has no place.
    """
    if wanted_replicas(deployment) == 0:
        return _step(deployment.start_ms) if deployment.wakes else None
    starting = [
        replica.created_at_ms
        for replica in replicas
        if replica.status in {ReplicaStatus.PENDING, ReplicaStatus.STARTING}
    ]
    if starting:
        passed_ms = max(0, now_ms - min(starting))
        left_ms = deployment.start_ms - passed_ms
        return _step(left_ms if left_ms > 0 else passed_ms // 2)
    is_new = deployment.observed_generation < deployment.generation
    if is_new or deployment.status is DeploymentStatus.STOPPED:  # nobody has looked at it yet
        return _step(deployment.start_ms)
    if deployment.retry_at_ms > now_ms:
        return _step(deployment.retry_at_ms - now_ms + deployment.start_ms)
    return None


def _keys(snapshot: RouteSnapshot) -> dict[str, RouteKey]:
    limit_ids: dict[str, list[str]] = {}
    for limit in sorted(snapshot.limits, key=lambda limit: limit.id):
        limit_ids.setdefault(limit.subject_id, []).append(limit.id)
    organizations = {organization.id: organization for organization in snapshot.organizations}
    keys: dict[str, RouteKey] = {}
    for key, project in sorted(snapshot.keys, key=lambda pair: pair[0].key_hash):
        owner = organizations.get(project.organization_id)
        is_blocked = owner is not None and owner.blocked_at_ms is not None
        subjects = (project.organization_id, project.id, key.id)
        keys[key.key_hash] = RouteKey(
            id=key.id,
            project_id=key.project_id,
            organization_id=project.organization_id,
            role=key.role,
            expires_at_ms=key.expires_at_ms,
            limit_ids=tuple(each for it in subjects for each in limit_ids.get(it, ())),
            models=_allowed(key.allowed_models, project.allowed_models),
            blocked=blocked_by(key, project, organization_is_blocked=is_blocked),
            is_strict=project.is_strict,
            may_store=owner is not None and owner.may_store_responses,
        )
    return keys


def _allowed(
    of_key: tuple[str, ...] | None, of_project: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """Return what both allow, None for all."""
    if of_key is None or of_project is None:
        return of_project if of_key is None else of_key
    return tuple(sorted(set(of_key) & set(of_project)))


def _route(deployment: Deployment, replicas: list[Replica], snapshot: RouteSnapshot) -> Route:
    serving = _serving(replicas)
    loaded = [len(it.launch.adapters) for it in replicas if it.is_routable and it.address]
    return Route(
        project_id=deployment.project_id,
        model=deployment.name,
        deployment_id=deployment.id,
        upstream_model=deployment.name,
        engine=deployment.spec.engine,
        context_length=deployment.spec.context_length,
        created_at_ms=deployment.created_at_ms,
        replicas=serving,
        retry_after_s=None if serving else retry_after_s(deployment, replicas, snapshot.now_ms),
        prices=snapshot.prices.get(deployment.spec.model_version_id, FREE),
        start_ms=deployment.start_ms,
        wakes=deployment.wakes,
        # While replicas are being replaced: what each of them has loaded.
        adapter_count=min(loaded, default=len(deployment.spec.adapters)),
        capabilities=snapshot.capabilities.get(deployment.id, UNKNOWN),
    )


def _adapter_route(
    deployment: Deployment,
    number: int,
    plain: Route,
    replicas: list[Replica],
    snapshot: RouteSnapshot,
) -> Route:
    """Return the route to an adapter, beside the ``plain`` one to its model.

    Replicas number their adapters by what they were started with. So while they are being
    replaced, the route leads to those of one numbering only: the one that most of them have.
    """
    wanted = deployment.spec.adapters[number]
    by_index: dict[int, list[Replica]] = {}
    for replica in replicas:
        if (
            replica.is_routable
            and replica.address is not None
            and wanted in replica.launch.adapters
        ):
            by_index.setdefault(replica.launch.adapters.index(wanted), []).append(replica)
    index = max(by_index, key=lambda it: (len(by_index[it]), it == number), default=number)
    serving = by_index.get(index, [])
    count = min(
        (len(replica.launch.adapters) for replica in serving),
        default=len(deployment.spec.adapters),
    )
    return replace(
        plain,
        model=wanted.name,
        replicas=_serving(serving),
        retry_after_s=None if serving else retry_after_s(deployment, replicas, snapshot.now_ms),
        prices=snapshot.prices.get(wanted.model_version_id, plain.prices),
        adapter=RouteAdapter(wanted.name, index, count),
        adapter_count=count,
    )


def _serving(replicas: Iterable[Replica]) -> tuple[RouteReplica, ...]:
    return tuple(
        RouteReplica(replica.id, replica.address, replica.secret)
        for replica in replicas
        if replica.is_routable and replica.address is not None
    )


def _with_canary(route: Route, canary: Deployment | None, routes: dict[str, Route]) -> Route:
    """Return ``route`` with its canary, unless that one can serve nothing now."""
    if canary is None or canary.canary is None:
        return route
    beside = routes[canary.id]
    if not (beside.replicas or beside.wakes):
        return route
    # Under the name that was asked for, so that limits and usage know it by that.
    beside = replace(beside, model=route.model)
    return replace(route, canary=beside, canary_percent=canary.canary.percent)


def _step(wait_ms: int) -> int:
    longest = RETRY_AFTER_STEPS_S[-1]
    return next((step for step in RETRY_AFTER_STEPS_S if step * 1_000 >= wait_ms), longest)
