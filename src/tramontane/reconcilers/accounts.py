"""The accounts reconciler: clusters know the tenants, their quotas, classes and reserved racks.

It observes, plans, applies, and writes only what a person should read: what somebody changed by
hand and was set back (``cluster.drift``), and what only a person can do (``cluster.warned``).
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from tramontane.domain.event import Event
from tramontane.domain.quotas.accounts import Book, Observed, wanted
from tramontane.domain.quotas.accounts_plan import (
    AccountsPlan,
    Action,
    PutAccount,
    PutMembership,
    PutQos,
    PutReservation,
    describe,
    plan_accounts,
)
from tramontane.drivers.accounts import Accounts, ClusterRefusedError
from tramontane.drivers.base import DriverUnavailableError
from tramontane.runtime.clock import Clock
from tramontane.store import events, fleet
from tramontane.store.db import Database
from tramontane.store.quotas import tenants

log = logging.getLogger(__name__)

ACTOR: Final = "reconciler/accounts"
INTERVAL_S: Final = 30.0  # what was changed by hand is set back within it


class AccountsReconciler:
    """Makes the accounts of clusters equal to what the store says; ``ports`` are by cluster name.

    What it remembers can be lost: then a change by hand that was made meanwhile is told only if
    what it changed is still there, and warnings are told again.
    """

    def __init__(self, db: Database, ports: Mapping[str, Accounts], clock: Clock) -> None:
        self._db = db
        self._ports = ports
        self._clock = clock
        self._settled: dict[str, Book] = {}
        self._warned: dict[str, frozenset[str]] = {}
        self._silent: set[str] = set()

    def step(self) -> bool:
        """Make one pass over every cluster; return False: nothing is under way."""
        for name, port in self._ports.items():
            try:
                self._settle(name, port)
            except DriverUnavailableError as error:
                if name not in self._silent:
                    log.warning("%s: its accounts wait until it answers: %s", name, error)
                self._silent.add(name)
        return False

    def _settle(self, name: str, port: Accounts) -> None:
        with self._db.read() as tx:
            now = tenants.read(tx, name)
        observed = port.observe()
        if name in self._silent:
            self._silent.discard(name)
            log.info("%s: its accounts can be read again", name)
        book = wanted(now, port.policy, observed.racks)
        plan = plan_accounts(book, observed, port.policy.prefix)
        drifted = self._drifted(name, plan, observed, port.policy.prefix)
        refused: dict[Action, str] = {}
        for action in plan.actions:
            try:
                port.apply(action)
            except ClusterRefusedError as error:
                refused[action] = f"{describe(action)}: refused by the cluster: {error}"
            else:
                log.info("%s: %s", name, describe(action))
        if not refused:
            self._settled[name] = book
        self._tell(name, drifted, refused, (*plan.findings, *refused.values()))

    def _drifted(
        self, name: str, plan: AccountsPlan, observed: Observed, prefix: str
    ) -> list[Action]:
        """Return what differs from what the last pass left; on a first one, what was changed."""
        settled = self._settled.get(name)
        if settled is not None:
            actions = plan_accounts(settled, observed, prefix).actions
        else:
            actions = tuple(action for action in plan.actions if _changes(action))
        return [action for action in actions if not _renews(action)]

    def _tell(
        self,
        name: str,
        drifted: Iterable[Action],
        refused: Mapping[Action, str],
        warnings: Iterable[str],
    ) -> None:
        told = frozenset(warnings)
        new = sorted(told - self._warned.get(name, frozenset()))
        for line in new:
            log.warning("%s: %s", name, line)
        now_ms = self._clock.now_ms()
        lines = [("warned", line, 0) for line in new]
        for action in drifted:
            is_back = action not in refused
            end = "set back" if is_back else "it could not be set back"
            lines.append(("drift", f"changed outside: {describe(action)}; {end}", int(is_back)))
        if lines:
            self._record(name, lines, now_ms)
        self._warned[name] = told

    def _record(self, name: str, lines: Iterable[tuple[str, str, int]], now_ms: int) -> None:
        with self._db.read() as tx:
            ids = {cluster.name: cluster.id for cluster in fleet.list_clusters(tx)}
        if name not in ids:
            return  # it never answered the driver: there is nothing yet that a story is about
        made = [
            Event(
                at_ms=now_ms,
                subject_id=ids[name],
                project_id=None,
                kind=f"cluster.{kind}",
                message=message,
                actor=ACTOR,
                data={"is_repaired": repaired} if kind == "drift" else {},
            )
            for kind, message, repaired in lines
        ]
        self._db.write(lambda tx: [events.append(tx, event) for event in made])


def _changes(action: Action) -> bool:
    match action:
        case PutQos() | PutAccount() | PutMembership() | PutReservation():
            return action.seen is not None
        case _:
            return False


def _renews(action: Action) -> bool:
    """Tell whether only time made the action necessary."""
    if not isinstance(action, PutReservation) or action.seen is None:
        return False
    return replace(action.seen, is_ending=False) == action.new
