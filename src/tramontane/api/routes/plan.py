"""/cloud/v1/plan"""

from typing import Annotated

from tramontane.api.access import requires
from tramontane.api.routes.declared import Using, guarded_router
from tramontane.domain.tenancy import Permission, Principal
from tramontane.wire import cloud_replies as replies

router = guarded_router("plan")
Reader = Annotated[Principal, requires(Permission.PLAN_READ)]


@router.get("", operation_id="plan_get")
def get_plan(_: Reader, services: Using) -> replies.Plan:
    """Return what the replica reconciler would do now, why, and from which snapshot."""
    return replies.Plan.model_validate(dict(services.plan()))
