"""How many devices a project may use: what rules of jobs and deployments ask."""

from tramontane.domain.deployment import Deployment, DeploymentSpec
from tramontane.domain.refusal import Code, RefusedError, refuse
from tramontane.store import deployments, tenancy
from tramontane.store.db import Transaction
from tramontane.store.quotas import quotas


def devices_max_for(tx: Transaction, project_id: str) -> int | None:
    """Return the most devices that the project may use at once; None: any number.

    The smaller of its own quota and its organization's.
    """
    project = tenancy.get_project(tx, project_id)
    subjects = [project_id, project.organization_id] if project else [project_id]
    found = [quotas.find(tx, subject_id) for subject_id in subjects]
    bounds = [quota.devices_max for quota in found if quota and quota.devices_max is not None]
    return min(bounds, default=None)


def check_deployment(
    tx: Transaction, project_id: str, spec: DeploymentSpec, seen: Deployment | None = None
) -> None:
    """Refuse a spec whose replicas, with those of the other deployments, exceed a quota.

    ``seen`` is the deployment that gets the spec, if there is one: asking for less than before is
    never refused. Deployments count with as many replicas as they may scale to.
    """
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


def _devices(spec: DeploymentSpec) -> int:
    replicas = spec.autoscale.replicas_max if spec.autoscale else spec.replicas
    return replicas * spec.nodes * spec.devices


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
