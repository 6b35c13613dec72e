"""/cloud/v1/clusters and /cloud/v1/nodes"""

from typing import Annotated

from fastapi import Query

from tramontane.api import views
from tramontane.api.access import requires
from tramontane.api.routes.declared import Using, guarded_router
from tramontane.domain.tenancy import Permission, Principal
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_requests as requests

clusters = guarded_router("clusters")
nodes = guarded_router("nodes")
Reader = Annotated[Principal, requires(Permission.CLUSTERS_READ)]


@clusters.get("", operation_id="clusters_list")
def list_clusters(
    _: Reader, services: Using, query: Annotated[requests.PageQuery, Query()]
) -> replies.Page[replies.Cluster]:
    """List clusters and whether their drivers answer."""
    found = services.fleet.clusters(after=query.after, limit=query.limit)
    return views.page(found, views.cluster)


@nodes.get("", operation_id="nodes_list")
def list_nodes(
    _: Reader, services: Using, query: Annotated[requests.NodePageQuery, Query()]
) -> replies.Page[replies.Node]:
    """List nodes with what replicas may use of them."""
    found = services.fleet.nodes(query.cluster, after=query.after, limit=query.limit)
    return views.page(found, views.node)
