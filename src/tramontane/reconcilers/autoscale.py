"""The autoscale reconciler: from what gateways say of the demand to how many replicas are wanted.

It writes a deployment's scale only when the number changes; the replica reconciler does the rest.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from tramontane.domain.deployment import Deployment, Scale
from tramontane.domain.event import Event
from tramontane.domain.planning.autoscale import Decision, History, plan_scale
from tramontane.domain.planning.demand import Demand, total_load
from tramontane.runtime.clock import Clock
from tramontane.store import demands, deployments, events
from tramontane.store.db import Database, StaleError, Transaction

log = logging.getLogger(__name__)

ACTOR: Final = "reconciler/autoscale"
# What another copy of the control plane was told wakes nobody here: it is found this soon.
WATCH_S: Final = 2.0
# Nothing scales by itself: only another copy's change could be missed.
REST_S: Final = 15.0


class AutoscaleReconciler:
    """Keeps the scale of each autoscaled deployment as the rule says.

    ``wake`` is called after a change was recorded. What it remembers between passes, the history
    of each deployment, can be lost: that only puts off scaling down.
    """

    def __init__(
        self, db: Database, clock: Clock, *, wake: Callable[[], None] = lambda: None
    ) -> None:
        self._db = db
        self._clock = clock
        self._wake = wake
        self._histories: dict[str, History] = {}
        self._pause_s = REST_S

    def pause_s(self) -> float:
        """Return how long the next pass may wait when nobody wakes it."""
        return self._pause_s

    def step(self) -> bool:
        """Decide for each deployment; return whether one moved on meanwhile: look again soon."""
        with self._db.read() as tx:
            ids = deployments.autoscaled_ids(tx)
            found = [d for d in deployments.list_live(tx) if d.id in ids] if ids else []
            said = demands.list_all(tx) if found else []
        now_ms = self._clock.now_ms()
        decided = [(d, self._decide(d, said, now_ms)) for d in found]
        self._histories = {d.id: decision.history for d, decision in decided}
        changed = [(d, e.scale) for d, e in decided if e.scale != d.scale]
        recorded = [self._record(d, scale) for d, scale in changed]
        if any(recorded):
            self._wake()
        self._pause_s = _pause_s((decision for _, decision in decided), now_ms)
        return not all(recorded)

    def _decide(self, deployment: Deployment, said: list[Demand], now_ms: int) -> Decision:
        load = total_load((d for d in said if d.deployment_id == deployment.id), now_ms)
        return plan_scale(deployment, load, self._histories.get(deployment.id), now_ms)

    def _record(self, seen: Deployment, scale: Scale) -> bool:
        """Write the scale; return whether that was still the deployment that was looked at."""
        try:
            self._db.write(lambda tx: _record(tx, seen, scale))
        except StaleError as stale:
            log.info("%s: decided again: %s", seen.id, stale)
            return False
        return True


def _record(tx: Transaction, seen: Deployment, scale: Scale) -> None:
    deployments.update(tx, seen, replace(seen, scale=scale))
    before = seen.wanted_replicas
    if scale.wanted == before:
        return
    event = Event(
        at_ms=scale.changed_at_ms,
        subject_id=seen.id,
        project_id=seen.project_id,
        kind="deployment.autoscaled",
        message=f"replicas {before} -> {scale.wanted}: {scale.reason}",
        actor=ACTOR,
        data={"from": before, "to": scale.wanted},
    )
    events.append(tx, event)


def _pause_s(decisions: Iterable[Decision], now_ms: int) -> float:
    """Return how long until time alone may change a decision, within the bounds."""
    dues = [decision.due_at_ms for decision in decisions]
    if not dues:
        return REST_S
    soonest_ms = min((due for due in dues if due is not None), default=now_ms + 60_000)
    return max(0.01, min(WATCH_S, (soonest_ms - now_ms) / 1_000))
