"""/cloud/v1/organizations"""

from typing import Annotated

from fastapi import Query

from tramontane.api import views
from tramontane.api.access import requires
from tramontane.api.routes.declared import RefInPath, Using, guarded_router
from tramontane.domain.tenancy import Permission, Principal
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_requests as requests

router = guarded_router("organizations")
Reader = Annotated[Principal, requires(Permission.ORGANIZATIONS_READ)]
Writer = Annotated[Principal, requires(Permission.ORGANIZATIONS_WRITE)]


@router.get("", operation_id="organizations_list")
def list_organizations(
    principal: Reader, services: Using, query: Annotated[requests.PageQuery, Query()]
) -> replies.Page[replies.Organization]:
    """List organizations: an operator sees all, a member its own."""
    found = services.organizations.list(principal, after=query.after, limit=query.limit)
    return views.page(found, views.organization)


@router.post("", operation_id="organizations_create", status_code=201)
def create_organization(
    principal: Writer, services: Using, body: requests.CreateOrganization
) -> replies.Organization:
    """Create an organization."""
    return views.organization(services.organizations.create(principal, body.name))


@router.get("/{organization}", operation_id="organizations_get")
def get_organization(
    principal: Reader, services: Using, organization: RefInPath
) -> replies.Organization:
    """Return one organization."""
    return views.organization(services.organizations.get(principal, organization))


@router.patch("/{organization}", operation_id="organizations_update")
def update_organization(
    principal: Writer,
    services: Using,
    organization: RefInPath,
    body: requests.PatchOrganization,
) -> replies.Organization:
    """Block or unblock an organization, or say whether responses may be kept."""
    changed = services.organizations.change(
        principal,
        organization,
        is_blocked=body.is_blocked,
        may_store_responses=body.may_store_responses,
    )
    return views.organization(changed)
