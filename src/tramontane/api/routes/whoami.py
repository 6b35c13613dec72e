"""/cloud/v1/whoami"""

from typing import Annotated

from tramontane.api import views
from tramontane.api.access import requires
from tramontane.api.routes.declared import guarded_router
from tramontane.domain.tenancy import Permission, Principal
from tramontane.wire import cloud_replies as replies

router = guarded_router("whoami")
# Every role may read its own project, so every usable key may ask who it is.
Anyone = Annotated[Principal, requires(Permission.PROJECTS_READ)]


@router.get("", operation_id="whoami_get")
def get_whoami(principal: Anyone) -> replies.Whoami:
    """Say whose key this is and what it may do."""
    return views.whoami(principal)
