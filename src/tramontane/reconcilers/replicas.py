"""The replica reconciler: look, plan, commit the intent, then act on the drivers by id.

No driver is called inside a transaction, and only what the store says is ever started. A crash
after any of the four leaves a state that the next pass continues from.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from tramontane.domain import ids
from tramontane.domain.catalog import ModelVersion
from tramontane.domain.event import Event
from tramontane.domain.fleet import Site
from tramontane.domain.observation import Observation, Reachable, RunState
from tramontane.domain.planning.plain import to_plain
from tramontane.domain.planning.plan import (
    Ensure,
    Forget,
    Place,
    Plan,
    Stop,
    StopOrphan,
    plan_to_plain,
)
from tramontane.domain.planning.replica_plan import plan_replicas
from tramontane.domain.planning.snapshot import ReplicaSnapshot, redact
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.drivers.base import Driver, DriverUnavailableError
from tramontane.reconcilers import look
from tramontane.reconcilers.commit import ACTOR, Intent, commit
from tramontane.reconcilers.drain import drain
from tramontane.reconcilers.needs import Recipes, adapters_of, tenancy_of
from tramontane.runtime.clock import Clock, IdSource
from tramontane.store import events, replicas
from tramontane.store.db import Database, StaleError, StoreUnavailableError

log = logging.getLogger(__name__)

SECRET_BYTES: Final = 24  # of a replica's bearer token: 192 bits
_UNDER_WAY: Final = {ReplicaStatus.PENDING, ReplicaStatus.STARTING, ReplicaStatus.STOPPING}


class ReplicaReconciler:
    """Makes what runs equal to what is wanted.

    ``drivers`` maps the name of each cluster to its driver, ``sites`` to where it stands.
    ``wake_routes`` is called after each commit. ``report`` takes one line for people about what a
    first pass found again or ended. What the reconciler remembers between passes can be lost
    (docs/decisions/0008).
    """

    def __init__(
        self,
        db: Database,
        drivers: Mapping[str, Driver],
        recipes: Recipes,
        clock: Clock,
        ids: IdSource,
        *,
        sites: Mapping[str, Site] = look.NOWHERE,
        wake_routes: Callable[[], None] = lambda: None,
        report: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._db = db
        self._drivers = drivers
        self._recipes = recipes
        self._clock = clock
        self._ids = ids
        self._sites = sites
        self._wake_routes = wake_routes
        self._report = report
        self._versions: Mapping[str, ModelVersion] = {}
        self._ended: dict[str, Replica] = {}
        self._refused: dict[str, dict[str, Observation]] = {name: {} for name in drivers}
        self._start_errors: dict[str, str] = {}
        self._seen_at_ms: dict[str, int] = {}
        self._adopted: set[str] = set()
        self._reported_orphans: set[str] = set()

    def step(self) -> bool:
        """Make one pass; return whether anything is under way, so that the next comes soon."""
        try:
            snapshot = self._look(record=True)
        except StaleError as stale:
            log.info("looked again: %s", stale)
            return True
        self._adopt(snapshot)
        plan = self._plan(snapshot)
        placed = self._commit(snapshot, plan)
        self._act(snapshot, plan, placed)
        return _is_under_way(snapshot) or bool(plan.store_actions())

    def report_plan(self) -> dict[str, Any]:
        """Return ``{snapshot, plan}`` of now as plain data without secrets; change nothing.

        It looks with eyes of its own, so any thread may call it while the loop runs.
        """
        other = ReplicaReconciler(
            self._db, self._drivers, self._recipes, self._clock, self._ids, sites=self._sites
        )
        other._refused = {name: dict(seen) for name, seen in self._refused.items()}
        other._start_errors = dict(self._start_errors)
        snapshot = other._look(record=False)
        plan = plan_replicas(snapshot)
        return {"snapshot": to_plain(redact(snapshot)), "plan": plan_to_plain(plan)}

    def drain_all(
        self, timeout_s: float, *, wait: Callable[[float], None] = time.sleep
    ) -> tuple[str, ...]:
        """Stop every replica of this machine and wait until all ended, about ``timeout_s`` at most.

        Those on clusters that queue, such as Slurm's, serve on. Call it when no loop runs any
        more. The next start places new replicas. Returns the ids of those whose end could not
        be confirmed; their rows stay ``stopping``.
        """
        own = {name: driver for name, driver in self._drivers.items() if not driver.queues}
        left = drain(self._db, own, self._clock, timeout_s, wait=wait)
        self._wake_routes()
        return left

    def _look(self, *, record: bool) -> ReplicaSnapshot:
        with self._db.read() as tx:
            rows = look.read_rows(tx, self._versions)
        views = {
            name: (driver, look.with_refusals(look.ask(driver, rows.reports), self._refused[name]))
            for name, driver in self._drivers.items()
        }
        now_ms = self._clock.now_ms()
        for name, (_, view) in views.items():
            if isinstance(view, Reachable):
                self._seen_at_ms[name] = now_ms
        states = look.merge_fleet(
            rows,
            views,
            lambda name: self._seen_at_ms.get(name, 0),
            now_ms,
            self._ids,
            sites=self._sites,
        )
        if record:
            look.record_fleet(self._db, rows, states)
            holding = [replica.id for replica in rows.replicas if replica.holds_capacity]
            look.prune_reports(self._db, rows.reports, holding)
        listed = look.listed_ids(states)
        found = look.with_listed(self._db, rows, listed, self._ended)
        self._ended = {r.id: r for r in found if not r.holds_capacity and r.id in listed}
        self._reported_orphans &= listed
        self._versions = rows.versions
        pending = {r.id for r in found if r.status is ReplicaStatus.PENDING}
        self._start_errors = {i: e for i, e in self._start_errors.items() if i in pending}
        return look.snapshot_of(
            rows,
            states,
            found,
            recipes=self._recipes,
            start_errors=self._start_errors,
            now_ms=now_ms,
        )

    def _adopt(self, snapshot: ReplicaSnapshot) -> None:
        """Tell, once per cluster and start of this process, which engines were found again."""
        for state in snapshot.clusters:
            cluster = state.cluster
            if cluster.name in self._adopted or not isinstance(state.view, Reachable):
                continue
            self._adopted.add(cluster.name)
            holding = {r.id: r for r in snapshot.replicas if r.holds_capacity}
            for observation in state.view.observations:
                replica = holding.get(observation.replica_id)
                if replica is not None and observation.run_state is not RunState.EXITED:
                    self._adopt_one(replica, observation, snapshot.now_ms)

    def _adopt_one(self, replica: Replica, observation: Observation, now_ms: int) -> None:
        line = f"found {replica.id} again on {observation.node_name}: {observation.run_state}"
        event = Event(
            at_ms=now_ms,
            subject_id=replica.id,
            project_id=replica.project_id,
            kind="replica.adopted",
            message=line,
            actor=ACTOR,
            data={"deployment_id": replica.deployment_id},
        )
        self._db.write(lambda tx: events.append(tx, event))
        log.info("%s", line)
        self._report(line)

    def _plan(self, snapshot: ReplicaSnapshot) -> Plan:
        return plan_replicas(snapshot)

    def _commit(self, snapshot: ReplicaSnapshot, plan: Plan) -> list[Replica]:
        """Write the plan's intent, deployment by deployment; return what may be started."""
        placed: list[Replica] = []
        has_written = False
        for deployment_id, actions in plan.store_actions().items():
            try:
                new = tuple(
                    self._new_replica(action, snapshot)
                    for action in actions
                    if isinstance(action, Place)
                )
                intent = Intent(deployment_id, actions, snapshot, new)
                placed += self._db.write(
                    lambda tx, intent=intent: commit(tx, intent, snapshot.now_ms)
                )
            except StaleError as stale:
                log.info("%s: planned again: %s", deployment_id, stale)
            except StoreUnavailableError:
                raise
            except Exception:
                log.exception("%s: its plan could not be recorded", deployment_id)
            else:
                has_written = True
        if has_written:
            self._wake_routes()
        return placed

    def _new_replica(self, place: Place, snapshot: ReplicaSnapshot) -> Replica:
        deployment = next(d for d in snapshot.deployments if d.id == place.deployment_id)
        version = self._versions[deployment.spec.model_version_id]
        secret = self._ids.entropy(SECRET_BYTES).hex()
        launch = self._recipes[deployment.spec.engine].launch(
            deployment.spec,
            version,
            served_name=deployment.name,
            secret=secret,
            device_indexes=place.device_indexes,
            adapters=adapters_of(deployment, self._versions),
        )
        with self._db.read() as tx:
            owner = tenancy_of(tx, deployment.project_id)
        launch = replace(launch, tenancy=owner, priority_class=deployment.spec.priority_class)
        return Replica(
            id=self._ids.new(ids.REPLICA),
            deployment_id=deployment.id,
            project_id=deployment.project_id,
            generation=place.generation,
            status=ReplicaStatus.PENDING,
            cluster_id=place.cluster_id,
            node_id=place.node_id,
            launch=launch,
            secret=secret,
            created_at_ms=snapshot.now_ms,
            changed_at_ms=snapshot.now_ms,
            peer_node_ids=place.peer_node_ids,
        )

    def _act(self, snapshot: ReplicaSnapshot, plan: Plan, placed: list[Replica]) -> None:
        names = {state.cluster.id: state.cluster.name for state in snapshot.clusters}
        calls = plan.driver_actions()
        wanted = {call.replica_id for call in calls if isinstance(call, Ensure)}
        pending = [r for r in snapshot.replicas if r.id in wanted]
        for replica in self._still_pending([*pending, *placed]):
            self._ensure(replica, names[replica.cluster_id], snapshot)
        for call in calls:
            if not isinstance(call, Ensure):
                self._call(call, names[call.cluster_id])

    def _still_pending(self, planned: list[Replica]) -> list[Replica]:
        """Return those that the store says, now, are to be started: the last look before acting."""
        if not planned:
            return []
        with self._db.read() as tx:
            current = [replicas.get_for(tx, None, replica.id) for replica in planned]
        return [r for r in current if r is not None and r.status is ReplicaStatus.PENDING]

    def _ensure(self, replica: Replica, cluster: str, snapshot: ReplicaSnapshot) -> None:
        nodes = {node.id: node.name for state in snapshot.clusters for node in state.nodes}
        node_name, *peers = (nodes[node_id] for node_id in replica.node_ids)
        try:
            self._drivers[cluster].ensure(replica.id, node_name, replica.launch, peers)
        except DriverUnavailableError as error:
            if self._start_errors.get(replica.id) != str(error):  # it may be so five times a second
                log.warning("%s: its start is tried again: %s", replica.id, error)
            self._start_errors[replica.id] = str(error)
        except Exception as error:
            log.exception("%s: its driver refused to start it", replica.id)
            self._refused[cluster][replica.id] = look.refusal(replica, node_name, error)

    def _call(self, call: Stop | StopOrphan | Forget, cluster: str) -> None:
        driver = self._drivers[cluster]
        try:
            match call:
                case Stop():
                    driver.stop(call.replica_id, drain=call.drain)
                case StopOrphan():
                    driver.stop(call.replica_id, drain=False)
                    self._report_orphan(call.replica_id)
                case Forget():
                    driver.forget(call.replica_id)
                    self._refused[cluster].pop(call.replica_id, None)
        except DriverUnavailableError as error:
            log.warning("%s: %s is tried again: %s", call.replica_id, type(call).__name__, error)
        except Exception:
            log.exception("%s: %s failed", call.replica_id, type(call).__name__)

    def _report_orphan(self, replica_id: str) -> None:
        if replica_id not in self._reported_orphans:
            self._reported_orphans.add(replica_id)
            line = f"orphan ended: {replica_id}, a process that no replica owns"
            log.info("%s", line)
            self._report(line)


def _is_under_way(snapshot: ReplicaSnapshot) -> bool:
    """Tell whether something starts or stops where it can be seen."""
    heard = {s.cluster.id for s in snapshot.clusters if isinstance(s.view, Reachable)}
    return any(r.status in _UNDER_WAY and r.cluster_id in heard for r in snapshot.replicas)
