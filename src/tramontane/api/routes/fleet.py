"""/cloud/v1/sites, /cloud/v1/clusters and /cloud/v1/nodes"""

from typing import Annotated

from fastapi import Query

from tramontane.api import views
from tramontane.api.access import requires
from tramontane.api.routes.declared import RefInPath, Using, guarded_router
from tramontane.domain.tenancy import Permission, Principal
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_requests as requests

sites = guarded_router("sites")
clusters = guarded_router("clusters")
nodes = guarded_router("nodes")
Reader = Annotated[Principal, requires(Permission.CLUSTERS_READ)]
Writer = Annotated[Principal, requires(Permission.CLUSTERS_WRITE)]
OnCluster = Annotated[requests.NodeQuery, Query()]


@sites.get("", operation_id="sites_list")
def list_sites(
    _: Reader, services: Using, query: Annotated[requests.SiteQuery, Query()]
) -> replies.Page[replies.Site]:
    """List the sites, by name, with what stands there."""
    return views.sites(services.fleet.sites(limit=query.limit))


@clusters.get("", operation_id="clusters_list")
def list_clusters(
    _: Reader, services: Using, query: Annotated[requests.PageQuery, Query()]
) -> replies.Page[replies.Cluster]:
    """List clusters and whether their drivers answer."""
    found = services.fleet.clusters(after=query.after, limit=query.limit)
    return views.page(found, views.cluster)


@clusters.get("/{cluster}", operation_id="clusters_get")
def get_cluster(_: Reader, services: Using, cluster: RefInPath) -> replies.ClusterDetail:
    """Return one cluster with its racks, their nodes and what runs on them."""
    return views.cluster_detail(services.fleet.cluster(cluster))


@nodes.get("", operation_id="nodes_list")
def list_nodes(
    _: Reader, services: Using, query: Annotated[requests.NodePageQuery, Query()]
) -> replies.Page[replies.Node]:
    """List nodes with what replicas may use of them."""
    found = services.fleet.nodes(query.cluster, after=query.after, limit=query.limit)
    return views.page(found, views.node)


@nodes.get("/{node}", operation_id="nodes_get")
def get_node(_: Reader, services: Using, node: RefInPath, query: OnCluster) -> replies.Node:
    """Return one node with what runs on it."""
    return views.node(services.fleet.node(node, query.cluster))


@nodes.post("/{node}/drain", operation_id="nodes_drain")
def drain_node(
    principal: Writer,
    services: Using,
    node: RefInPath,
    query: OnCluster,
    body: requests.DrainNode,
) -> replies.Node:
    """Start nothing more on the node; what serves there moves as soon as there is room."""
    return views.node(services.fleet.drain(principal, node, query.cluster, body.reason))


@nodes.post("/{node}/resume", operation_id="nodes_resume")
def resume_node(
    principal: Writer, services: Using, node: RefInPath, query: OnCluster
) -> replies.Node:
    """Let things start on the node again, whoever drained it."""
    return views.node(services.fleet.resume(principal, node, query.cluster))
