"""/cloud/v1/deployments"""

from typing import Annotated

from fastapi import Query

from tramontane.api import views
from tramontane.api.access import requires
from tramontane.api.routes.declared import RefInPath, Using, guarded_router
from tramontane.domain.deployment import AutoscaleSpec, SpecChange
from tramontane.domain.launch import PriorityClass
from tramontane.domain.tenancy import Permission, Principal
from tramontane.services.deployments.wishes import CanaryWish, NewDeployment
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_requests as requests

router = guarded_router("deployments")
Reader = Annotated[Principal, requires(Permission.DEPLOYMENTS_READ)]
Writer = Annotated[Principal, requires(Permission.DEPLOYMENTS_WRITE)]
InProject = Annotated[requests.ProjectQuery, Query()]


@router.get("", operation_id="deployments_list")
def list_deployments(
    principal: Reader, services: Using, query: Annotated[requests.ProjectPageQuery, Query()]
) -> replies.Page[replies.Deployment]:
    """List deployments, those that are still stopping too."""
    found = services.deployments.list(
        principal, project=query.project, after=query.after, limit=query.limit
    )
    return views.page(found, views.deployment)


@router.post("", operation_id="deployments_create", status_code=201)
def create_deployment(
    principal: Writer, services: Using, body: requests.CreateDeployment
) -> replies.Deployment:
    """Deploy a model. Answers at once with the status pending; `get` tells how far it is."""
    wish = NewDeployment(
        name=body.name,
        model=body.model,
        replicas=body.replicas,
        engine=body.engine,
        context_length=body.context_length,
        parallel=body.parallel,
        devices=body.devices,
        cpu_millicores=body.cpu_millicores,
        memory_bytes=body.memory_bytes,
        engine_options=tuple((body.engine_options or {}).items()),
        adapters=tuple((body.adapters or {}).items()),
        cluster=body.cluster,
        nodes=body.nodes,
        priority_class=PriorityClass(body.priority_class),
        autoscale=AutoscaleSpec(**body.autoscale.model_dump()) if body.autoscale else None,
        project=body.project,
    )
    return views.deployment(services.deployments.create(principal, wish))


@router.get("/{deployment}", operation_id="deployments_get")
def get_deployment(
    principal: Reader, services: Using, deployment: RefInPath, query: InProject
) -> replies.Deployment:
    """Return one deployment; by its id a deleted one too, until it has stopped."""
    return views.deployment(services.deployments.get(principal, deployment, query.project))


@router.patch("/{deployment}", operation_id="deployments_update")
def update_deployment(
    principal: Writer,
    services: Using,
    deployment: RefInPath,
    query: InProject,
    body: requests.PatchDeployment,
) -> replies.Deployment:
    """Change what is wanted; replicas are replaced one by one, without a gap."""
    options = body.engine_options
    change = SpecChange(
        replicas=body.replicas,
        context_length=body.context_length,
        parallel=body.parallel,
        devices=body.devices,
        cpu_millicores=body.cpu_millicores,
        memory_bytes=body.memory_bytes,
        engine_options=None if options is None else tuple(options.items()),
        adapters=None if body.adapters is None else tuple(body.adapters.items()),
        cluster=body.cluster,
        nodes=body.nodes,
        priority_class=PriorityClass(body.priority_class) if body.priority_class else None,
    )
    changed = services.deployments.change(
        principal, deployment, change, model=body.model, project=query.project
    )
    return views.deployment(changed)


@router.post("/{deployment}/scale", operation_id="deployments_scale")
def scale_deployment(
    principal: Writer,
    services: Using,
    deployment: RefInPath,
    query: InProject,
    body: requests.ScaleDeployment,
) -> replies.Deployment:
    """Set the number of replicas; those that run and stay wanted are not touched."""
    change = SpecChange(replicas=body.replicas)
    changed = services.deployments.change(principal, deployment, change, project=query.project)
    return views.deployment(changed)


@router.put("/{deployment}/autoscale", operation_id="deployments_set_autoscale")
def set_autoscale(
    principal: Writer,
    services: Using,
    deployment: RefInPath,
    query: InProject,
    body: requests.SetAutoscale,
) -> replies.Deployment:
    """Let the number of replicas follow the demand; what runs and stays wanted is not touched."""
    spec = AutoscaleSpec(**body.model_dump())
    return views.deployment(
        services.deployments.autoscale(principal, deployment, spec, query.project)
    )


@router.delete("/{deployment}/autoscale", operation_id="deployments_end_autoscale")
def end_autoscale(
    principal: Writer, services: Using, deployment: RefInPath, query: InProject
) -> replies.Deployment:
    """Let the number of replicas follow the demand no more: it stays as it is."""
    return views.deployment(
        services.deployments.autoscale(principal, deployment, None, query.project)
    )


@router.put("/{deployment}/canary", operation_id="deployments_set_canary")
def set_canary(
    principal: Writer,
    services: Using,
    deployment: RefInPath,
    query: InProject,
    body: requests.SetCanary,
) -> replies.Deployment:
    """Serve a second version to a part of the requests, or change which and to how many."""
    options = body.engine_options
    change = SpecChange(
        replicas=body.replicas,
        context_length=body.context_length,
        parallel=body.parallel,
        engine_options=None if options is None else tuple(options.items()),
    )
    wish = CanaryWish(percent=body.percent, name=body.name, model=body.model, change=change)
    return views.deployment(services.canaries.set(principal, deployment, wish, query.project))


@router.delete("/{deployment}/canary", operation_id="deployments_abort_canary")
def abort_canary(
    principal: Writer, services: Using, deployment: RefInPath, query: InProject
) -> replies.Deployment:
    """End the canary: its replicas finish what they have, and all requests go as before."""
    return views.deployment(
        services.canaries.end(principal, deployment, query.project, promote=False)
    )


@router.post("/{deployment}/canary/promote", operation_id="deployments_promote_canary")
def promote_canary(
    principal: Writer, services: Using, deployment: RefInPath, query: InProject
) -> replies.Deployment:
    """Make the deployment what its canary is, replica by replica, and end the canary."""
    return views.deployment(
        services.canaries.end(principal, deployment, query.project, promote=True)
    )


@router.delete("/{deployment}", operation_id="deployments_delete")
def delete_deployment(
    principal: Writer, services: Using, deployment: RefInPath, query: InProject
) -> replies.Deployment:
    """Stop serving: replicas finish what they have, then end. What was used stays on record."""
    return views.deployment(services.deployments.delete(principal, deployment, query.project))


@router.get("/{deployment}/logs", operation_id="deployments_logs")
def read_logs(
    principal: Reader,
    services: Using,
    deployment: RefInPath,
    query: Annotated[requests.LogQuery, Query()],
) -> replies.Logs:
    """Return the last lines that the newest replicas wrote."""
    return views.logs(*services.logs.read(principal, deployment, query.project, query.lines))


@router.get("/{deployment}/events", operation_id="deployments_events")
def read_events(
    principal: Reader,
    services: Using,
    deployment: RefInPath,
    query: Annotated[requests.DeploymentStoryQuery, Query()],
) -> replies.Story:
    """Return what happened to the deployment, oldest first."""
    found = services.events.deployment_story(
        principal, deployment, query.project, after=query.after, limit=query.limit
    )
    return views.story(found)
