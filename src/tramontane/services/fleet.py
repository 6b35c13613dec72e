"""The machines, for operators. The reconcilers write what drivers see, and ask them for drains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tramontane.domain.event import Event
from tramontane.domain.fleet import Cluster, Node, NodeStatus, Site
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import Principal
from tramontane.domain.upkeep.health import WINDOW_MS, failures_in_row
from tramontane.runtime.clock import Clock
from tramontane.services.scope import Page, not_found, page_of
from tramontane.store import events, fleet, replicas
from tramontane.store.db import Database, Transaction
from tramontane.store.jobs import attempts


@dataclass(frozen=True, slots=True)
class DescribedNode:
    """A node and what Tramontane runs on it.

    ``devices_used`` are held by those; what others hold is not counted. ``failures`` is how many
    things in a row failed on it.
    """

    node: Node
    cluster: Cluster
    replica_ids: tuple[str, ...] = ()
    attempt_ids: tuple[str, ...] = ()
    devices_used: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class DescribedCluster:
    """A cluster and its nodes, by rack and name."""

    cluster: Cluster
    nodes: tuple[DescribedNode, ...]


@dataclass(frozen=True, slots=True)
class DescribedSite:
    """A site and what stands there. ``devices_free`` are those of ready nodes that we do not use.

    ``racks`` are those that its clusters tell of.
    """

    site: Site
    clusters: tuple[str, ...]
    racks: int
    nodes: int
    nodes_ready: int
    devices: int
    devices_free: int


class Fleet:
    """Use cases of sites, clusters and nodes. ``wake`` is called after a change."""

    def __init__(self, db: Database, clock: Clock, wake: Callable[[], None]) -> None:
        self._db = db
        self._clock = clock
        self._wake = wake

    def sites(self, *, limit: int) -> Page[DescribedSite]:
        """Return the sites of all nodes, by name and country, those without a name last."""
        with self._db.read() as tx:
            nodes = self._describe(tx, fleet.list_nodes(tx))
        found: dict[Site, list[DescribedNode]] = {}
        for it in nodes:
            found.setdefault(Site(it.node.site, it.node.country), []).append(it)
        order = sorted(found, key=lambda s: (s.name is None, s.name or "", s.country or ""))
        return page_of([_site(site, found[site]) for site in order[: limit + 1]], limit)

    def clusters(self, *, after: str | None, limit: int) -> Page[Cluster]:
        """Return a page of clusters, oldest first."""
        with self._db.read() as tx:
            found = fleet.list_clusters(tx)
        rest = _after([cluster.id for cluster in found], after)
        return page_of(found[rest : rest + limit + 1], limit)

    def cluster(self, ref: str) -> DescribedCluster:
        """Return one cluster (id or name) with all its nodes."""
        with self._db.read() as tx:
            found = _cluster(tx, ref, param=None)
            nodes = self._describe(tx, fleet.list_nodes(tx, found.id))
        nodes.sort(key=lambda it: (it.node.rack or "", it.node.name))
        return DescribedCluster(found, tuple(nodes))

    def nodes(self, cluster: str | None, *, after: str | None, limit: int) -> Page[DescribedNode]:
        """Return a page of nodes by cluster and name, of one cluster (id or name) if given."""
        with self._db.read() as tx:
            owner = None if cluster is None else _cluster(tx, cluster, param="cluster")
            found = fleet.list_nodes(tx, owner and owner.id)
            rest = _after([node.id for node in found], after)
            page = page_of(found[rest : rest + limit + 1], limit)
            return Page(self._describe(tx, page.items), page.has_more)

    def node(self, ref: str, cluster: str | None) -> DescribedNode:
        """Return one node, by id or by name; ``cluster`` tells nodes of the same name apart."""
        with self._db.read() as tx:
            (described,) = self._describe(tx, [_node(tx, ref, cluster)])
        return described

    def drain(
        self, principal: Principal, ref: str, cluster: str | None, reason: str
    ) -> DescribedNode:
        """Want nothing new to start on the node, and what serves there to move, for ``reason``."""

        def wish(seen: Node) -> Node:
            return replace(seen, wanted_drain_reason=reason, is_resume_wanted=False)

        return self._change(
            principal, ref, cluster, wish, "drained", words=f"to be drained: {reason}"
        )

    def resume(self, principal: Principal, ref: str, cluster: str | None) -> DescribedNode:
        """Want things to start on the node again, whoever drained it.

        What failed on it before is no longer held against it.
        """

        def wish(seen: Node) -> Node:
            if seen.status is not NodeStatus.DRAINED and seen.wanted_drain_reason is None:
                return seen
            return replace(
                seen,
                wanted_drain_reason=None,
                # The drain may be on its way: it is taken back once it is seen.
                is_resume_wanted=True,
                counted_from_ms=self._clock.now_ms(),
            )

        return self._change(principal, ref, cluster, wish, "resumed", words="to start things again")

    def _change(
        self,
        principal: Principal,
        ref: str,
        cluster: str | None,
        wish: Callable[[Node], Node],
        kind: str,
        *,
        words: str,
    ) -> DescribedNode:
        """Record what is wanted of a node from now on, with its event, unless that is no news."""

        def write(tx: Transaction) -> tuple[DescribedNode, bool]:
            seen = _node(tx, ref, cluster)
            new = wish(seen)
            if new != seen:
                fleet.upsert_node(tx, new)
                event = Event(
                    at_ms=self._clock.now_ms(),
                    subject_id=new.id,
                    project_id=None,
                    kind=f"node.{kind}",
                    message=f"node {new.name}: {words}",
                    actor=principal.key_id,
                )
                events.append(tx, event)
            return self._describe(tx, [new])[0], new != seen

        described, is_news = self._db.write(write)
        if is_news:
            self._wake()
        return described

    def _describe(self, tx: Transaction, nodes: Sequence[Node]) -> list[DescribedNode]:
        """Return ``nodes`` with what runs there; one look at the replicas serves all of them."""
        clusters = {cluster.id: cluster for cluster in fleet.list_clusters(tx)}
        endings = fleet.list_endings(tx, nodes, self._clock.now_ms() - WINDOW_MS)
        failures = failures_in_row(endings, nodes)
        loads = _loads(tx, nodes)
        return [
            DescribedNode(
                node,
                clusters[node.cluster_id],
                tuple(loads[node.id].replica_ids),
                tuple(loads[node.id].attempt_ids),
                loads[node.id].devices,
                len(failures[node.id]),
            )
            for node in nodes
        ]


def _site(site: Site, nodes: Sequence[DescribedNode]) -> DescribedSite:
    ready = [it for it in nodes if it.node.status is NodeStatus.READY]
    return DescribedSite(
        site,
        clusters=tuple(sorted({it.cluster.name for it in nodes})),
        racks=len({(it.cluster.id, it.node.rack) for it in nodes if it.node.rack}),
        nodes=len(nodes),
        nodes_ready=len(ready),
        devices=sum(len(it.node.devices) for it in nodes),
        devices_free=sum(max(0, len(it.node.devices) - it.devices_used) for it in ready),
    )


@dataclass(slots=True)
class _Load:
    """What Tramontane runs on one node."""

    replica_ids: list[str] = field(default_factory=list[str])
    attempt_ids: list[str] = field(default_factory=list[str])
    devices: int = 0


def _loads(tx: Transaction, nodes: Sequence[Node]) -> dict[str, _Load]:
    """Return what runs on each of ``nodes``, by id."""
    loads = {node.id: _Load() for node in nodes}
    ids = {(node.cluster_id, node.name): node.id for node in nodes}
    for replica in replicas.list_holding(tx):
        for node_id in replica.node_ids:
            if node_id in loads:
                loads[node_id].replica_ids.append(replica.id)
                loads[node_id].devices += replica.launch.resources.devices
    for attempt in attempts.list_live(tx):
        named = {ids.get((attempt.cluster_id, name)) for name in attempt.node_names}
        for node_id in {attempt.node_id, *named} & loads.keys():
            load = loads[node_id or ""]
            load.attempt_ids.append(attempt.id)
            of_all = attempt.devices // max(1, len(attempt.node_names))
            load.devices += len(attempt.device_indexes) or of_all
    return loads


def _cluster(tx: Transaction, ref: str, *, param: str | None) -> Cluster:
    found = fleet.get_cluster(tx, ref)
    if found is None:
        raise not_found("cluster", ref, param=param)
    return found


def _node(tx: Transaction, ref: str, cluster: str | None) -> Node:
    """Return the node that ``ref`` (id or name) means, on ``cluster`` if that is given."""
    owner = None if cluster is None else _cluster(tx, cluster, param="cluster")
    found = [it for it in fleet.find_nodes(tx, ref) if owner is None or it.cluster_id == owner.id]
    if not found:
        raise not_found("node", ref)
    if len(found) > 1:
        message = (
            f"{len(found)} clusters have a node named {ref!a}: name its `cluster`, or give its id"
        )
        raise refuse(Code.CONFLICT, message, param="cluster")
    return found[0]


def _after(ids: list[str], after: str | None) -> int:
    """Return the position behind ``after``. There are few machines: lists are read whole."""
    if after is None:
        return 0
    if after not in ids:
        message = "after must be the id of an item of this list: start again without it"
        raise refuse(Code.INVALID_VALUE, message, param="after")
    return ids.index(after) + 1
