"""What a principal may see: the one place that turns an identity into a store scope."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from tramontane.domain.deployment import Deployment, DeploymentStatus
from tramontane.domain.refusal import Code, RefusedError, refuse
from tramontane.domain.tenancy import Organization, Principal, Project
from tramontane.store import deployments, tenancy
from tramontane.store.db import Transaction

T = TypeVar("T")

ALL_MODELS: Final = "*"  # in a list of allowed models


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list in a stable order; ``has_more`` tells whether more follows."""

    items: Sequence[T]
    has_more: bool


def page_of(found: Sequence[T], limit: int) -> Page[T]:
    """Return a page of ``limit`` items from a query that asked for one more."""
    return Page(found[:limit], len(found) > limit)


def visible_project_id(principal: Principal) -> str | None:
    """Return the project whose objects the principal may see, or None for all projects."""
    return None if principal.is_operator else principal.project_id


def project_named(
    tx: Transaction, principal: Principal, ref: str | None, *, param: str | None = "project"
) -> Project:
    """Return the project that ``ref`` (id or name) means, the principal's own when it is None.

    A member may name only its own project; any other is refused as if it did not exist. A name
    means the project of the principal's own organization first. ``param`` is the field at fault.
    """
    own = tenancy.get_project(tx, principal.project_id)
    if own is not None and ref in (None, own.id, own.name):
        return own
    if own is None or ref is None or not principal.is_operator:
        raise not_found("project", ref or principal.project_id, param=param)
    home = tenancy.get_project(tx, ref, organization_id=principal.organization_id)
    found = home or tenancy.get_project(tx, ref)
    if found is None:
        raise not_found("project", ref, param=param)
    return found


def organization_named(
    tx: Transaction, principal: Principal, ref: str, *, param: str | None = "organization"
) -> Organization:
    """Return the organization that ``ref`` (id or name) means; a member may name only its own."""
    found = tenancy.get_organization(tx, ref)
    if found is None or not (principal.is_operator or found.id == principal.organization_id):
        raise not_found("organization", ref, param=param)
    return found


def live_project_named(tx: Transaction, principal: Principal, ref: str | None) -> Project:
    """Return the project that ``ref`` means, refused if it is archived."""
    project = project_named(tx, principal, ref)
    if project.archived_at_ms is not None:
        message = f"the project {project.name} is archived: name another one"
        raise refuse(Code.CONFLICT, message, param="project")
    return project


def list_scope(tx: Transaction, principal: Principal, ref: str | None) -> str | None:
    """Return the project id to list, None for all: ``ref`` narrows what the principal may see."""
    if ref is None:
        return visible_project_id(principal)
    return project_named(tx, principal, ref).id


def deployment_named(
    tx: Transaction, principal: Principal, ref: str, project: str | None = None
) -> Deployment:
    """Return the deployment that ``ref`` (id or name) means; one that has stopped is gone.

    A name is looked up in ``project`` if given, then in the principal's own project; an operator's
    then in all others, where a name that two projects use means none of them.
    """
    if project is not None:
        scope = project_named(tx, principal, project).id
        found = deployments.get_for(tx, scope, ref)
    else:
        found = deployments.get_for(tx, principal.project_id, ref)
        if found is None and principal.is_operator:
            found = deployments.get_for(tx, None, ref)
    is_gone = found is not None and (
        found.deleted_at_ms is not None and found.status is DeploymentStatus.STOPPED
    )
    if found is None or is_gone:
        raise not_found("deployment", ref)
    return found


def stored_names(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return a list of allowed models as it is stored: sorted, None for all."""
    return None if ALL_MODELS in names else tuple(sorted(set(names)))


def shown_names(names: tuple[str, ...] | None) -> list[str]:
    """Return a stored list of allowed models as clients see it."""
    return [ALL_MODELS] if names is None else list(names)


def not_found(noun: str, ref: str, *, param: str | None = None) -> RefusedError:
    """Return the refusal for an object that is not there or may not be seen."""
    return refuse(Code.NOT_FOUND, f"there is no {noun} {ref}", param=param)
