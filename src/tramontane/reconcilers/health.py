"""The health reconciler: drains nodes that things keep failing on, and does what nodes are to do.

What is wanted of a node is recorded first, whoever wants it; then its cluster is asked, again and
again until the node is seen to be so. A drain that somebody made on the cluster itself is left
alone: only an explicit resume ends it.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from tramontane.domain.event import Event
from tramontane.domain.fleet import Node, NodeStatus
from tramontane.domain.upkeep.health import WINDOW_MS, Drain, plan_drains
from tramontane.drivers.base import Driver, DriverUnavailableError
from tramontane.runtime.clock import Clock
from tramontane.store import events, fleet
from tramontane.store.db import Database, Transaction

log = logging.getLogger(__name__)

ACTOR: Final = "reconciler/health"


class HealthReconciler:
    """Watches the nodes. ``drivers`` are by the name of their cluster.

    A node is drained after ``failures_max`` failures in a row, never if that is 0.
    """

    def __init__(
        self, db: Database, drivers: Mapping[str, Driver], clock: Clock, *, failures_max: int
    ) -> None:
        self._db = db
        self._drivers = drivers
        self._clock = clock
        self._failures_max = failures_max
        self._refused: set[tuple[str, str | None]] = set()

    def step(self) -> bool:
        """Make one pass; it never asks for the next one soon, since clusters show drains late."""
        if self._failures_max:
            with self._db.read() as tx:
                drains = self._suspects(tx)
            if drains:
                self._db.write(self._record)
        self.carry_out()
        return False

    def _suspects(self, tx: Transaction) -> tuple[Drain, ...]:
        nodes = fleet.list_nodes(tx)
        endings = fleet.list_endings(tx, nodes, self._clock.now_ms() - WINDOW_MS)
        return plan_drains(nodes, endings, self._failures_max)

    def _record(self, tx: Transaction) -> None:
        """Decide again from the rows of this moment, and want those nodes drained."""
        for drain in self._suspects(tx):
            node = replace(drain.node, wanted_drain_reason=drain.reason)
            fleet.upsert_node(tx, node)
            events.append(tx, _drained(drain, self._clock.now_ms()))
            log.warning("node %s: %s", node.name, drain.reason)

    def carry_out(self) -> int:
        """Ask for what is not yet as it is wanted; return of how many nodes."""
        with self._db.read() as tx:
            nodes = [node for node in fleet.list_nodes(tx) if _is_due(node)]
            names = {it.id: it.name for it in fleet.list_clusters(tx)} if nodes else {}
        for node in nodes:
            driver = self._drivers.get(names[node.cluster_id])
            if driver is not None:
                self._ask(driver, node)
        return len(nodes)

    def _ask(self, driver: Driver, node: Node) -> None:
        reason = None if node.is_resume_wanted else node.wanted_drain_reason
        try:
            driver.set_drained(node.name, reason)
        except DriverUnavailableError as error:
            log.warning("node %s: its cluster is asked again: %s", node.name, error)
        except Exception:
            if (node.id, reason) not in self._refused:
                self._refused.add((node.id, reason))
                log.exception("node %s: its cluster refused to drain or resume it", node.name)


def _is_due(node: Node) -> bool:
    """Tell whether its cluster has to be asked: it answers, and the node is not as wanted."""
    if node.is_resume_wanted:
        return node.status is NodeStatus.DRAINED
    return node.wanted_drain_reason is not None and node.status is NodeStatus.READY


def _drained(drain: Drain, now_ms: int) -> Event:
    return Event(
        at_ms=now_ms,
        subject_id=drain.node.id,
        project_id=None,
        kind="node.drained",
        message=f"node {drain.node.name}: {drain.reason}",
        actor=ACTOR,
        data={f"evidence_{n}": id_ for n, id_ in enumerate(drain.subject_ids, start=1)},
    )
