"""/cloud/v1/api-keys"""

from typing import Annotated

from fastapi import Query

from tramontane.api import views
from tramontane.api.access import requires
from tramontane.api.routes.declared import RefInPath, Using, guarded_router
from tramontane.domain.tenancy import Permission, Principal, Role
from tramontane.services.api_keys import NewApiKey
from tramontane.services.scope import ALL_MODELS
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_requests as requests

router = guarded_router("api-keys")
Reader = Annotated[Principal, requires(Permission.API_KEYS_READ)]
Writer = Annotated[Principal, requires(Permission.API_KEYS_WRITE)]
Limiter = Annotated[Principal, requires(Permission.LIMITS_WRITE)]


@router.get("", operation_id="api_keys_list")
def list_api_keys(
    principal: Reader, services: Using, query: Annotated[requests.ProjectPageQuery, Query()]
) -> replies.Page[replies.ApiKey]:
    """List keys, revoked ones too; never their texts."""
    found = services.api_keys.list(
        principal, project=query.project, after=query.after, limit=query.limit
    )
    return views.page(found, views.api_key)


@router.post("", operation_id="api_keys_create", status_code=201)
def create_api_key(
    principal: Writer, services: Using, body: requests.CreateApiKey
) -> replies.NewApiKey:
    """Create a key. Its text is in this reply and never shown again."""
    allowed = [ALL_MODELS] if body.allowed_models is None else body.allowed_models
    new = NewApiKey(
        name=body.name,
        role=Role(body.role),
        expires_at_ms=body.expires_at_ms,
        project=body.project,
        requests_in_flight_max=body.requests_in_flight_max,
        allowed_models=tuple(allowed),
    )
    key, text = services.api_keys.create(principal, new)
    return views.new_api_key(key, text)


@router.get("/{api_key}", operation_id="api_keys_get")
def get_api_key(principal: Reader, services: Using, api_key: RefInPath) -> replies.ApiKey:
    """Return one key by its id, without its text."""
    return views.api_key(services.api_keys.get(principal, api_key))


@router.patch("/{api_key}", operation_id="api_keys_update")
def update_api_key(
    principal: Limiter, services: Using, api_key: RefInPath, body: requests.PatchApiKey
) -> replies.ApiKey:
    """Block or unblock a key, or say which models it may call; gateways hear of it at once."""
    allowed = None if body.allowed_models is None else tuple(body.allowed_models)
    changed = services.api_keys.change(
        principal, api_key, is_blocked=body.is_blocked, allowed_models=allowed
    )
    return views.api_key(changed)


@router.delete("/{api_key}", operation_id="api_keys_revoke")
def revoke_api_key(principal: Writer, services: Using, api_key: RefInPath) -> replies.ApiKey:
    """Revoke a key for good; every gateway refuses it within 5 seconds."""
    return views.api_key(services.api_keys.revoke(principal, api_key))
