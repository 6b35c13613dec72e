"""Ending every attempt, when the control plane of one machine shuts down for good."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from tramontane.domain.jobs.attempt import AttemptState
from tramontane.domain.jobs.job import Attempt, AttemptStatus
from tramontane.domain.observation import Reachable
from tramontane.drivers.base import Driver
from tramontane.reconcilers.look import ask
from tramontane.runtime.clock import Clock
from tramontane.store import fleet
from tramontane.store.db import Database, Transaction
from tramontane.store.jobs import attempts

log = logging.getLogger(__name__)

POLL_S: Final = 0.1
WHY: Final = "its machine shut down"


def drain_attempts(
    db: Database,
    drivers: Mapping[str, Driver],
    clock: Clock,
    timeout_s: float,
    *,
    wait: Callable[[float], None],
) -> tuple[str, ...]:
    """Stop every attempt on ``drivers``; return the ids of those whose end was not confirmed.

    Those that end because of it are recorded as interrupted: the next start makes other attempts,
    which go on from what these have saved.
    """
    with db.read() as tx:
        live = _live_on(tx, drivers)
    for attempt_id, name in live.items():
        try:
            drivers[name].stop(attempt_id, drain=True)
        except Exception:
            log.exception("%s: it could not be asked to end", attempt_id)
    left = set(live)
    for _ in range(max(1, round(timeout_s / POLL_S))):
        views = {name: ask(driver) for name, driver in drivers.items()}
        seen = {
            (name, attempt.attempt_id): attempt.state
            for name, view in views.items()
            if isinstance(view, Reachable)
            for attempt in view.attempts
        }
        states = {id_: seen.get((live[id_], id_)) for id_ in left}
        # One that was never started is not listed: the next start submits it.
        heard = {name for name, view in views.items() if isinstance(view, Reachable)}
        over = {
            id_
            for id_, state in states.items()
            if live[id_] in heard and (state is None or state.is_over)
        }
        asked = {id_ for id_ in over if states[id_] is AttemptState.CANCELLED}
        if asked:
            db.write(lambda tx, asked=asked: _record(tx, asked, clock.now_ms()))
        left -= over
        if not left:
            break
        wait(POLL_S)
    return tuple(sorted(left))


def _live_on(tx: Transaction, drivers: Mapping[str, Driver]) -> dict[str, str]:
    """Return the live attempts on clusters that ``drivers`` reach: id and cluster name."""
    names = {cluster.id: cluster.name for cluster in fleet.list_clusters(tx)}
    found = {attempt.id: names.get(attempt.cluster_id, "") for attempt in attempts.list_live(tx)}
    return {attempt_id: name for attempt_id, name in found.items() if name in drivers}


def _record(tx: Transaction, asked: set[str], now_ms: int) -> None:
    for attempt in attempts.list_live(tx):
        if attempt.id in asked:
            attempts.update(tx, attempt, _interrupted(attempt, now_ms))


def _interrupted(attempt: Attempt, now_ms: int) -> Attempt:
    return replace(
        attempt,
        status=AttemptStatus.NODE_FAILED,
        reason=WHY,
        ended_at_ms=now_ms,
        changed_at_ms=now_ms,
    )
