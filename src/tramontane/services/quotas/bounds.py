"""How many devices a project may use, and in which classes: what jobs and deployments ask."""

from tramontane.domain.deployment import Deployment, DeploymentSpec
from tramontane.domain.launch import PriorityClass
from tramontane.domain.quotas import classes
from tramontane.domain.quotas.classes import Classes
from tramontane.domain.refusal import Code, RefusedError, refuse
from tramontane.store import deployments, tenancy
from tramontane.store.db import Transaction
from tramontane.store.quotas import quotas, reservations
from tramontane.store.quotas.owned import Owner


def devices_max_for(tx: Transaction, project_id: str) -> int | None:
    """Return the most devices that the project may use at once; None: any number.

    The smaller of its own quota and its organization's.
    """
    project = tenancy.get_project(tx, project_id)
    subjects = [project_id, project.organization_id] if project else [project_id]
    found = [quotas.find(tx, subject_id) for subject_id in subjects]
    bounds = [quota.devices_max for quota in found if quota and quota.devices_max is not None]
    return min(bounds, default=None)


def classes_of(tx: Transaction, organization_id: str, project_id: str | None = None) -> Classes:
    """Return the classes that the organization, or its project, may ask for."""
    has_rack = bool(reservations.ROWS.list_for(tx, Owner(organization_id, ""), limit=1))
    quota = quotas.find(tx, organization_id)
    allowed = classes.of_organization(quota, has_rack=has_rack)
    return classes.of_project(allowed, quotas.find(tx, project_id)) if project_id else allowed


def check_class(tx: Transaction, project_id: str, asked: PriorityClass, what: str) -> None:
    """Refuse a class that the project may not ask for; ``what`` asks, such as "job"."""
    project = tenancy.get_project(tx, project_id)
    allowed = classes_of(tx, project.organization_id, project_id) if project else ()
    refusal = classes.check_class(asked, allowed, what)
    if refusal is not None:
        raise RefusedError(refusal)


def check_deployment(
    tx: Transaction, project_id: str, spec: DeploymentSpec, seen: Deployment | None = None
) -> None:
    """Refuse a class that may not be asked for, and more replicas than the quotas allow.

    ``seen`` is the deployment that gets the spec, if there is one: keeping its class and asking
    for no more than before is never refused. Deployments count with as many replicas as they may
    scale to.
    """
    if seen is None or spec.priority_class is not seen.spec.priority_class or _grows(seen, spec):
        check_class(tx, project_id, spec.priority_class, "deployment")
    asked = _devices(spec)
    if asked <= (_devices(seen.spec) if seen else 0):
        return
    project = tenancy.get_project(tx, project_id)
    if project is None:
        return
    for whose, subject_id in (("project", project.id), ("organization", project.organization_id)):
        quota = quotas.find(tx, subject_id)
        if quota is None or quota.devices_max is None:
            continue
        others = sum(
            _devices(other.spec)
            for other in deployments.list_live(tx)
            if other.deleted_at_ms is None
            and (seen is None or other.id != seen.id)
            and _is_of(tx, other, subject_id)
        )
        if others + asked > quota.devices_max:
            raise _over(spec, asked, others, whose, quota.devices_max)


def _is_of(tx: Transaction, deployment: Deployment, subject_id: str) -> bool:
    if deployment.project_id == subject_id:
        return True
    project = tenancy.get_project(tx, deployment.project_id)
    return project is not None and project.organization_id == subject_id


def _grows(seen: Deployment, spec: DeploymentSpec) -> bool:
    return _nodes(spec) > _nodes(seen.spec) or _devices(spec) > _devices(seen.spec)


def _nodes(spec: DeploymentSpec) -> int:
    replicas = spec.autoscale.replicas_max if spec.autoscale else spec.replicas
    return replicas * spec.nodes


def _devices(spec: DeploymentSpec) -> int:
    return _nodes(spec) * spec.devices


def _over(
    spec: DeploymentSpec, asked: int, others: int, whose: str, devices_max: int
) -> RefusedError:
    left = max(0, devices_max - others)
    each = spec.nodes * spec.devices
    taken = f", of which other deployments take {others}" if others else ""
    near = f"at most {left // each} replicas of {each} devices fit"
    param = "autoscale.replicas_max" if spec.autoscale else "replicas"
    if left < each:
        near = f"at most {left} devices fit in all"
        param = "devices"
    message = (
        f"the deployment asks for {asked} devices in all, and the quota of its {whose} is "
        f"{devices_max}{taken}: {near}; ask for that or less, or an operator for a larger quota"
    )
    return refuse(Code.DOES_NOT_FIT, message, param=param)
