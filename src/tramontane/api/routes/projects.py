"""/cloud/v1/projects"""

from typing import Annotated

from fastapi import Query

from tramontane.api import views
from tramontane.api.access import requires
from tramontane.api.routes.declared import RefInPath, Using, guarded_router
from tramontane.domain.tenancy import Permission, Principal
from tramontane.services.projects import ProjectChange
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_requests as requests

router = guarded_router("projects")
Reader = Annotated[Principal, requires(Permission.PROJECTS_READ)]
Writer = Annotated[Principal, requires(Permission.PROJECTS_WRITE)]


@router.get("", operation_id="projects_list")
def list_projects(
    principal: Reader, services: Using, query: Annotated[requests.OrganizationPageQuery, Query()]
) -> replies.Page[replies.Project]:
    """List projects, archived ones too: an operator sees all, a member its own."""
    found = services.projects.list(
        principal, organization=query.organization, after=query.after, limit=query.limit
    )
    return views.page(found, views.project)


@router.post("", operation_id="projects_create", status_code=201)
def create_project(
    principal: Writer, services: Using, body: requests.CreateProject
) -> replies.Project:
    """Create a project in an organization."""
    return views.project(services.projects.create(principal, body.name, body.organization))


@router.get("/{project}", operation_id="projects_get")
def get_project(principal: Reader, services: Using, project: RefInPath) -> replies.Project:
    """Return one project."""
    return views.project(services.projects.get(principal, project))


@router.patch("/{project}", operation_id="projects_update")
def update_project(
    principal: Writer, services: Using, project: RefInPath, body: requests.PatchProject
) -> replies.Project:
    """Block or unblock a project, make it strict, or say which models its keys may call."""
    change = ProjectChange(
        is_blocked=body.is_blocked,
        is_strict=body.is_strict,
        allowed_models=None if body.allowed_models is None else tuple(body.allowed_models),
    )
    return views.project(services.projects.change(principal, project, change))


@router.delete("/{project}", operation_id="projects_archive")
def archive_project(principal: Writer, services: Using, project: RefInPath) -> replies.Project:
    """Archive a project: its keys stop working, its records stay. It must have no deployments."""
    return views.project(services.projects.archive(principal, project))
