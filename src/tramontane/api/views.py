"""Domain values as replies: what is shown of each, and to whom."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from tramontane.domain import event as domain_event
from tramontane.domain import fleet as domain_fleet
from tramontane.domain import resources as domain_resources
from tramontane.domain import tenancy, usage
from tramontane.domain.catalog import ModelVersion
from tramontane.domain.deployment import Deployment
from tramontane.domain.replica import Replica
from tramontane.domain.tenancy import Principal
from tramontane.services.api_keys import DescribedApiKey
from tramontane.services.deployments.wishes import DescribedAdapter, DescribedDeployment
from tramontane.services.fleet import DescribedCluster, DescribedNode, DescribedSite
from tramontane.services.models import CatalogueEntry
from tramontane.services.replicas import ReplicaLines
from tramontane.services.scope import Page, shown_names
from tramontane.wire import cloud_replies as wire

Item = TypeVar("Item")
View = TypeVar("View", bound=Any)


def page(found: Page[Item], view: Callable[[Item], View]) -> wire.Page[View]:
    """Return a page of views."""
    data = [view(item) for item in found.items]
    return wire.Page(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=found.has_more,
    )


def organization(value: tenancy.Organization) -> wire.Organization:
    """Return the view of an organization."""
    return wire.Organization(
        id=value.id,
        name=value.name,
        created_at_ms=value.created_at_ms,
        may_store_responses=value.may_store_responses,
        blocked_at_ms=value.blocked_at_ms,
    )


def project(value: tenancy.Project) -> wire.Project:
    """Return the view of a project."""
    return wire.Project(
        id=value.id,
        organization_id=value.organization_id,
        name=value.name,
        created_at_ms=value.created_at_ms,
        archived_at_ms=value.archived_at_ms,
        blocked_at_ms=value.blocked_at_ms,
        is_strict=value.is_strict,
        allowed_models=shown_names(value.allowed_models),
    )


def api_key(value: DescribedApiKey) -> wire.ApiKey:
    """Return the view of a key, without its hash."""
    return wire.ApiKey(**_key_fields(value))


def new_api_key(value: DescribedApiKey, text: str) -> wire.NewApiKey:
    """Return the view of a key that was just made, with its text."""
    return wire.NewApiKey(**_key_fields(value), key=text)


def whoami(value: Principal) -> wire.Whoami:
    """Return the view of a principal."""
    return wire.Whoami(
        key_id=value.key_id,
        project_id=value.project_id,
        organization_id=value.organization_id,
        role=value.role,
        permissions=sorted(tenancy.ROLE_PERMISSIONS[value.role]),
    )


def model(value: CatalogueEntry, principal: Principal) -> wire.Model:
    """Return the view of a model with its newest version."""
    return wire.Model(**_model_fields(value, principal))


def model_detail(value: CatalogueEntry, principal: Principal) -> wire.ModelDetail:
    """Return the view of a model with all its versions."""
    versions = [
        wire.ModelVersion(
            id=version.id,
            model_id=version.model_id,
            created_at_ms=version.created_at_ms,
            **_weights_fields(version, principal),
        )
        for version in value.versions
    ]
    return wire.ModelDetail(**_model_fields(value, principal), versions=versions)


def deployment(value: DescribedDeployment) -> wire.Deployment:
    """Return the view of a deployment."""
    it, spec = value.deployment, value.deployment.spec
    return wire.Deployment(
        id=it.id,
        project_id=it.project_id,
        name=it.name,
        model=value.model_name,
        model_version=value.model_number,
        model_version_id=spec.model_version_id,
        engine=spec.engine,
        replicas=spec.replicas,
        wanted_replicas=it.wanted_replicas,
        wanted_reason=it.scale.reason if it.scale else None,
        autoscale=wire.Autoscale(**asdict(spec.autoscale)) if spec.autoscale else None,
        ready_replicas=it.ready_replicas,
        context_length=spec.context_length,
        parallel=spec.parallel,
        nodes=spec.nodes,
        devices=spec.devices,
        cpu_millicores=spec.cpu_millicores,
        memory_bytes=spec.memory_bytes,
        cluster=spec.cluster,
        priority_class=spec.priority_class,
        engine_options=dict(spec.engine_options),
        adapters=[_adapter(adapter) for adapter in value.adapters],
        canary=_canary(value.canary),
        canary_of_id=it.canary.of_id if it.canary else None,
        status=it.status,
        reason=it.reason,
        generation=it.generation,
        observed_generation=it.observed_generation,
        created_at_ms=it.created_at_ms,
        deleted_at_ms=it.deleted_at_ms,
    )


def _adapter(it: DescribedAdapter) -> wire.Adapter:
    return wire.Adapter(
        name=it.spec.name,
        model=it.model_name,
        model_version=it.model_number,
        model_version_id=it.spec.model_version_id,
    )


def _canary(it: Deployment | None) -> wire.CanaryLink | None:
    if it is None or it.canary is None:
        return None
    return wire.CanaryLink(
        deployment_id=it.id,
        name=it.name,
        percent=it.canary.percent,
        ready_replicas=it.ready_replicas,
    )


def replica(value: Replica, principal: Principal) -> wire.Replica:
    """Return the view of a replica: never its secret, nor what it was started with."""
    return wire.Replica(
        id=value.id,
        deployment_id=value.deployment_id,
        project_id=value.project_id,
        generation=value.generation,
        status=value.status,
        cluster_id=value.cluster_id,
        node_id=value.node_id,
        peer_node_ids=list(value.peer_node_ids),
        address=value.address if principal.is_operator else None,
        reason=value.reason,
        resources=resources(value.launch.resources),
        created_at_ms=value.created_at_ms,
        changed_at_ms=value.changed_at_ms,
        ready_at_ms=value.ready_at_ms,
    )


def logs(deployment_id: str, parts: Sequence[ReplicaLines]) -> wire.Logs:
    """Return the view of a deployment's logs."""
    return wire.Logs(
        deployment_id=deployment_id,
        data=[
            wire.ReplicaLog(
                replica_id=part.replica.id,
                status=part.replica.status,
                lines=list(part.lines or ()),
                reason="its cluster does not answer" if part.lines is None else None,
            )
            for part in parts
        ],
    )


def cluster(value: domain_fleet.Cluster) -> wire.Cluster:
    """Return the view of a cluster."""
    return wire.Cluster(
        id=value.id,
        name=value.name,
        driver=value.driver,
        status=value.status,
        reason=value.reason,
        created_at_ms=value.created_at_ms,
    )


def node(value: DescribedNode) -> wire.Node:
    """Return the view of a node."""
    it = value.node
    wanted = "drained" if it.wanted_drain_reason is not None else None
    return wire.Node(
        id=it.id,
        cluster_id=it.cluster_id,
        cluster=value.cluster.name,
        name=it.name,
        site=it.site,
        country=it.country,
        rack=it.rack,
        status=it.status,
        reason=it.reason,
        wanted="ready" if it.is_resume_wanted else wanted,
        wanted_reason=it.wanted_drain_reason,
        capacity=resources(it.capacity),
        devices=[
            wire.Device(index=device.index, name=device.name, memory_bytes=device.memory_bytes)
            for device in it.devices
        ],
        devices_free=max(0, len(it.devices) - value.devices_used),
        replica_ids=list(value.replica_ids),
        attempt_ids=list(value.attempt_ids),
        failures=value.failures,
        last_seen_at_ms=it.last_seen_at_ms,
    )


def cluster_detail(value: DescribedCluster) -> wire.ClusterDetail:
    """Return the view of a cluster with its racks; its nodes come by rack."""
    racks: dict[str | None, list[wire.Node]] = {}
    for described in value.nodes:
        racks.setdefault(described.node.rack, []).append(node(described))
    first = value.nodes[0].node if value.nodes else None
    return wire.ClusterDetail(
        **cluster(value.cluster).model_dump(),
        site=first and first.site,
        country=first and first.country,
        racks=[wire.Rack(name=name, nodes=nodes) for name, nodes in racks.items()],
    )


def sites(found: Page[DescribedSite]) -> wire.Page[wire.Site]:
    """Return the view of all sites; they have no ids to ask on after."""
    data = [_site(value) for value in found.items]
    return wire.Page(data=data, first_id=None, last_id=None, has_more=found.has_more)


def _site(value: DescribedSite) -> wire.Site:
    return wire.Site(
        name=value.site.name,
        country=value.site.country,
        clusters=list(value.clusters),
        racks=value.racks,
        nodes=value.nodes,
        nodes_ready=value.nodes_ready,
        devices=value.devices,
        devices_free=value.devices_free,
    )


def resources(value: domain_resources.Resources) -> wire.Resources:
    """Return the view of amounts."""
    return wire.Resources(
        cpu_millicores=value.cpu_millicores,
        memory_bytes=value.memory_bytes,
        devices=value.devices,
    )


def story(found: Page[domain_event.Event]) -> wire.Story:
    """Return the view of a page of events."""
    data = [_event(value) for value in found.items]
    return wire.Story(
        data=data,
        first_id=data[0].sequence if data else None,
        last_id=data[-1].sequence if data else None,
        has_more=found.has_more,
    )


def usage_totals(found: Page[usage.UsageTotal]) -> wire.UsageTotals:
    """Return the view of sums."""
    data = [
        wire.UsageTotal(
            hour_ms=total.hour_ms or None,
            project_id=total.project_id or None,
            api_key_id=total.api_key_id or None,
            model=total.model or None,
            requests=total.requests,
            prompt_tokens=total.prompt_tokens,
            completion_tokens=total.completion_tokens,
            cached_tokens=total.cached_tokens,
            cost_nano=total.cost_nano,
        )
        for total in found.items
    ]
    return wire.UsageTotals(data=data, has_more=found.has_more)


def usage_event(value: usage.UsageEvent) -> wire.UsageEvent:
    """Return the view of one request's usage."""
    return wire.UsageEvent(
        id=value.id,
        request_id=value.request_id,
        organization_id=value.organization_id,
        project_id=value.project_id,
        api_key_id=value.api_key_id,
        deployment_id=value.deployment_id,
        replica_id=value.replica_id,
        model=value.model,
        endpoint=value.endpoint,
        outcome=value.outcome,
        status=value.status,
        is_stream=value.is_stream,
        prompt_tokens=value.prompt_tokens,
        completion_tokens=value.completion_tokens,
        cached_tokens=value.cached_tokens,
        token_source=value.token_source,
        started_at_ms=value.started_at_ms,
        duration_ms=value.duration_ms,
        first_byte_ms=value.first_byte_ms,
        gateway=value.gateway,
        cost_nano=value.cost_nano,
    )


def _event(value: domain_event.Event) -> wire.Event:
    return wire.Event(
        sequence=value.sequence,
        at_ms=value.at_ms,
        subject_id=value.subject_id,
        project_id=value.project_id,
        kind=value.kind,
        message=value.message,
        actor=value.actor,
        data=dict(value.data),
    )


def _key_fields(described: DescribedApiKey) -> dict[str, Any]:
    value = described.key
    return {
        "id": value.id,
        "project_id": value.project_id,
        "name": value.name,
        "role": value.role,
        "redacted": value.redacted,
        "created_at_ms": value.created_at_ms,
        "expires_at_ms": value.expires_at_ms,
        "revoked_at_ms": value.revoked_at_ms,
        "blocked_at_ms": value.blocked_at_ms,
        "allowed_models": shown_names(value.allowed_models),
        "requests_in_flight_max": described.requests_in_flight_max,
    }


def _model_fields(value: CatalogueEntry, principal: Principal) -> dict[str, Any]:
    return {
        "id": value.model.id,
        "name": value.model.name,
        "version_id": value.latest.id,
        "created_at_ms": value.model.created_at_ms,
        **_weights_fields(value.latest, principal),
    }


def _weights_fields(version: ModelVersion, principal: Principal) -> dict[str, Any]:
    return {
        "number": version.number,
        "format": version.format,
        "path": version.path if principal.is_operator else None,
        "digest": version.digest,
        "size_bytes": version.size_bytes,
        "architecture": version.architecture,
        "context_length": version.context_length,
        "precision": version.precision,
        "parameters": version.parameters,
        "licence": version.licence,
        "kind": version.kind,
        "base_model_id": version.base_model_id,
        "adapter_rank": version.adapter_rank,
        "capabilities": wire.Capabilities(**asdict(version.capabilities)),
    }
