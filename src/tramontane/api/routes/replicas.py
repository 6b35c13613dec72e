"""/cloud/v1/replicas"""

from typing import Annotated

from fastapi import Query

from tramontane.api import views
from tramontane.api.access import requires
from tramontane.api.routes.declared import RefInPath, Using, guarded_router
from tramontane.domain.tenancy import Permission, Principal
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_requests as requests

router = guarded_router("replicas")
Reader = Annotated[Principal, requires(Permission.REPLICAS_READ)]


@router.get("", operation_id="replicas_list")
def list_replicas(
    principal: Reader, services: Using, query: Annotated[requests.ReplicaPageQuery, Query()]
) -> replies.Page[replies.Replica]:
    """List replicas, the ended ones that are still kept too."""
    found = services.replicas.list(
        principal,
        deployment=query.deployment,
        project=query.project,
        after=query.after,
        limit=query.limit,
    )
    return views.page(found, lambda replica: views.replica(replica, principal))


@router.get("/{replica}", operation_id="replicas_get")
def get_replica(principal: Reader, services: Using, replica: RefInPath) -> replies.Replica:
    """Return one replica by its id."""
    return views.replica(services.replicas.get(principal, replica), principal)
