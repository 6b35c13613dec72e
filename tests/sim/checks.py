"""What must hold in every simulated world, at every moment, and once the faults are over.

Each check compares what the product recorded with what the fake cluster knows to be true. A
violation names its check, so that a planted bug can be shown to be caught by the right one.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from tests.sim.users import DOWN_COOLDOWN_MS, IDLE_MS, UP_COOLDOWN_MS
from tramontane.domain.deployment import Deployment, DeploymentStatus
from tramontane.domain.event import Event
from tramontane.domain.fleet import Node
from tramontane.domain.observation import Reachable, RunState
from tramontane.domain.planning.demand import Demand, total_load
from tramontane.domain.planning.rollout import SURGE_MAX, wanted_replicas
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.resources import Resources
from tramontane.domain.routing import RouteTable
from tramontane.drivers.fake import FakeDriver, FakeNode, FakeProcess
from tramontane.drivers.faults import LoseNode
from tramontane.store import demands, deployments, events, fleet, replicas, routes, usage
from tramontane.store.db import Database, Transaction

FOR_EVER_MS = 1 << 60
EVENTS_MAX = 1_000


class ViolationError(BaseException):
    """Something that must never be was seen; ``check`` names the rule.

    No `Exception`, because some are raised inside calls from a reconciler, which survives those.
    """

    def __init__(self, check: str, told: str) -> None:
        super().__init__(f"{check}: {told}")
        self.check = check


def require(condition: bool, check: str, told: str) -> None:
    if not condition:
        raise ViolationError(check, told)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is recorded, at one moment."""

    live: list[Deployment]
    holding: list[Replica]
    nodes: dict[str, Node]
    table: RouteTable | None
    cluster_ids: dict[str, str]
    demands: list[Demand]
    scalings: list[Event]
    moves: list[Event]


class Checks:
    """Looks at a world from outside: the database through its own reads, the clusters directly."""

    def __init__(
        self, db: Database, drivers: Mapping[str, FakeDriver], nodes: Mapping[str, list[FakeNode]]
    ) -> None:
        self._db = db
        self._drivers = drivers
        self._nodes = nodes
        self._ended: set[str] = set()
        self._known: set[str] = set()
        self._ready: dict[str, int] = {}
        self._active: dict[str, int] = {}
        self._lost_nodes: set[str] = set()
        self._scaled_at: dict[str, int] = {}
        self._told = 0

    def before_ensure(self, replica_id: str) -> None:
        """Only what is recorded is ever started."""
        with self._db.read() as tx:
            row = replicas.get_for(tx, None, replica_id)
        require(row is not None, "intent first", f"{replica_id} is started without a record")

    def before_stop(self, replica_id: str) -> None:
        """A replica that drains is no longer in the published routes."""
        with self._db.read() as tx:
            row = replicas.get_for(tx, None, replica_id)
            table = routes.current(tx)
        routed = {r.id for route in (table.routes if table else ()) for r in route.replicas}
        if row is not None and row.status is ReplicaStatus.STOPPING:
            told = f"{replica_id} is stopped while requests are sent to it"
            require(replica_id not in routed, "routes first", told)

    def look(self) -> Seen:
        """Read once what the checks of a tick compare with the truth."""
        with self._db.read() as tx:
            news = self._news(tx)
            return Seen(
                live=deployments.list_live(tx),
                holding=replicas.list_holding(tx),
                nodes={node.id: node for node in fleet.list_nodes(tx)},
                table=routes.current(tx),
                cluster_ids={c.name: c.id for c in fleet.list_clusters(tx)},
                demands=demands.list_all(tx),
                scalings=[event for event in news if event.kind == "deployment.autoscaled"],
                moves=[event for event in news if _is_move(event)],
            )

    def always(self, seen: Seen, now_ms: int) -> None:
        """Check what holds at every moment."""
        self._never_twice()
        self._within_capacity(seen)
        self._processes_within_capacity(seen, now_ms)
        self._no_end_before_the_end(seen, now_ms)
        self._scales_within_bounds(seen)
        for event in seen.scalings:
            self._scales_calmly(event, seen)

    def after_clean_pass(self, seen: Seen, now_ms: int) -> None:
        """Check what holds after a pass of all reconcilers that nothing interrupted."""
        self._wakes(seen, now_ms)
        named = seen.table.routes if seen.table else ()
        routed = {replica.id for route in named for replica in route.replicas}
        self._no_dead_routes(routed, seen)
        for event in seen.moves:
            self._successor_first(event, seen)

    def after_pass(self, seen: Seen) -> None:
        """Check what holds after a pass that ran to its end, whoever came between."""
        for deployment in seen.live:
            active = [
                r
                for r in seen.holding
                if r.deployment_id == deployment.id and r.status is not ReplicaStatus.STOPPING
            ]
            wanted = wanted_replicas(deployment)
            most = max(wanted + SURGE_MAX, self._active.get(deployment.id, 0))
            told = f"{deployment.name} has {len(active)} replicas, wants {wanted}"
            require(len(active) <= most, "no double placement", told)
            self._active[deployment.id] = len(active)

    def calm(self, seen: Seen) -> None:
        """Without faults, a change never takes away a ready replica that is wanted."""
        named = seen.table.routes if seen.table else ()
        serving = {route.deployment_id: len(route.replicas) for route in named}
        for deployment in seen.live:
            ready = serving.get(deployment.id, 0)
            floor = min(self._ready.get(deployment.id, 0), wanted_replicas(deployment))
            told = f"{deployment.name} serves with {ready}, had {floor} of what is wanted"
            require(ready >= floor, "never below wanted", told)
            self._ready[deployment.id] = ready

    def usage_is_exact(self, sent: int, tokens: int) -> None:
        """Every request that was reported is counted once."""
        with self._db.read() as tx:
            sums = usage.totals(tx, None, from_ms=0, to_ms=FOR_EVER_MS, group_by=())
        counted = sum(total.requests for total in sums)
        summed = sum(total.prompt_tokens + total.completion_tokens for total in sums)
        told = f"{counted} requests and {summed} tokens are counted of {sent} and {tokens}"
        require((counted, summed) == (sent, tokens), "counted once", told)

    def unsettled(self, seen: Seen, now_ms: int) -> str | None:
        """Return what has not converged yet, or None when everything is as wanted."""
        for deployment in seen.live:
            told = self._unsettled_one(deployment, seen)
            if told is not None:
                return f"{deployment.name}: {told}"
        owned = {replica.id for replica in seen.holding}
        orphans = [p.replica_id for p in self._alive(now_ms) if p.replica_id not in owned]
        return f"orphans {orphans} live on" if orphans else None

    def _successor_first(self, event: Event, seen: Seen) -> None:
        """What leaves a drained node is drained only when as many as wanted serve without it."""
        owner = event.data["deployment_id"]
        ready = [
            r for r in seen.holding if r.deployment_id == owner and r.status is ReplicaStatus.READY
        ]
        for deployment in seen.live:
            if deployment.id == owner:
                wanted = wanted_replicas(deployment)
                told = f"{event.message}; {len(ready)} of {wanted} serve"
                require(len(ready) >= wanted, "successor first", told)

    def _news(self, tx: Transaction) -> list[Event]:
        """Return what happened since the last look, oldest first."""
        recent = [e for e in events.recent(tx, None, limit=EVENTS_MAX) if e.sequence > self._told]
        self._told = max((event.sequence for event in recent), default=self._told)
        assert len(recent) < EVENTS_MAX, "more happened than is looked at"
        return list(reversed(recent))

    def _scales_within_bounds(self, seen: Seen) -> None:
        for deployment in seen.live:
            auto, scale = deployment.spec.autoscale, deployment.scale
            told = f"{deployment.name} wants {scale} within {auto}"
            require((auto is None) == (scale is None), "scale within bounds", told)
        for event in seen.scalings:
            bounds = {d.id: d.spec.autoscale for d in seen.live}.get(event.subject_id)
            to = int(event.data["to"] or 0)
            if bounds is not None:
                within = bounds.replicas_min <= to <= bounds.replicas_max
                require(within, "scale within bounds", f"{event.message} within {bounds}")

    def _scales_calmly(self, event: Event, seen: Seen) -> None:
        """No cool-down is cut short, and the last replica ends when nobody asks."""
        subject, to = event.subject_id, int(event.data["to"] or 0)
        passed_ms = event.at_ms - self._scaled_at.get(subject, 0)
        self._scaled_at[subject] = event.at_ms
        if to == 0:
            asked = [d for d in seen.demands if d.deployment_id == subject]
            load = total_load(asked, event.at_ms)
            told = f"{event.message}; {load} is asked"
            require(load.requests == 0, "not to zero under requests", told)
            require(passed_ms >= IDLE_MS, "no flapping", f"{event.message} after {passed_ms} ms")
        elif to > int(event.data["from"] or 0):
            is_due = passed_ms >= UP_COOLDOWN_MS or not event.data["from"]
            require(is_due, "no flapping", f"{event.message} after {passed_ms} ms")
        else:
            is_due = passed_ms >= DOWN_COOLDOWN_MS
            require(is_due, "no flapping", f"{event.message} after {passed_ms} ms")

    def _wakes(self, seen: Seen, now_ms: int) -> None:
        """What is asked for has a replica, or one is being started."""
        for deployment in seen.live:
            if deployment.spec.autoscale is not None and deployment.deleted_at_ms is None:
                asked = [d for d in seen.demands if d.deployment_id == deployment.id]
                load = total_load(asked, now_ms)
                told = f"{deployment.name} is at zero, and {load} is asked"
                require(not load.requests or deployment.wanted_replicas > 0, "wakes", told)

    def _never_twice(self) -> None:
        starts: Counter[str] = sum((d.starts for d in self._drivers.values()), Counter())
        twice = [replica_id for replica_id, count in starts.items() if count > 1]
        require(not twice, "started once", f"{twice} were started more than once")

    def _within_capacity(self, seen: Seen) -> None:
        by_node: dict[str, list[Replica]] = defaultdict(list)
        for replica in seen.holding:
            by_node[replica.node_id].append(replica)
        for node_id, there in by_node.items():
            node = seen.nodes[node_id]
            launches = [replica.launch for replica in there]
            need = sum((launch.resources for launch in launches), Resources())
            indexes = [index for launch in launches for index in launch.device_indexes]
            known = {device.index for device in node.devices}
            told = f"{node.name} holds {need}, devices {indexes}, and has {node.capacity}"
            fits = need.fits_in(node.capacity)
            require(fits and len(indexes) == len(set(indexes)), "within capacity", told)
            require(set(indexes) <= known, "within capacity", told)

    def _processes_within_capacity(self, seen: Seen, now_ms: int) -> None:
        owned = {replica.id for replica in seen.holding}
        by_node: dict[tuple[str, str], list[FakeProcess]] = defaultdict(list)
        for cluster, driver in self._drivers.items():
            for process in driver.processes():
                is_alive = process.state_at(now_ms) is not RunState.EXITED
                is_owned = process.replica_id in owned
                if is_alive and (is_owned or not self._was_started_late(process)):
                    by_node[cluster, process.node_name].append(process)
        for (cluster, node_name), there in by_node.items():
            node = next(n for n in self._nodes[cluster] if n.name == node_name)
            need = sum((p.launch.resources for p in there), Resources())
            indexes = [index for p in there for index in p.launch.device_indexes]
            told = f"{node_name} runs {need}, devices {indexes}, and has {node.capacity}"
            fits = need.fits_in(node.capacity) and len(indexes) == len(set(indexes))
            require(fits, "machines not oversubscribed", told)

    def _no_end_before_the_end(self, seen: Seen, now_ms: int) -> None:
        """A replica is recorded as ended only when its process is: silence is no end."""
        for driver in self._drivers.values():
            self._lost_nodes |= {f.node_name for f in driver.begun(LoseNode)}
        current = {replica.id for replica in seen.holding}
        gone = self._known - current - self._ended
        self._known |= current
        alive = {p.replica_id: p for p in self._alive(now_ms)}
        for replica_id in gone:
            self._ended.add(replica_id)
            with self._db.read() as tx:
                row = replicas.get_for(tx, None, replica_id)
            process = alive.get(replica_id)
            if row is None or process is None or process.node_name in self._lost_nodes:
                continue
            if self._was_started_late(process):
                continue
            is_failed = row.status is ReplicaStatus.FAILED
            check = "unknown is not gone" if is_failed else "freed when ended"
            require(False, check, f"{replica_id} is {row.status} and still runs: {row.reason}")

    def _was_started_late(self, process: FakeProcess) -> bool:
        """Tell whether it is an orphan from its start: the call arrived after its row had ended."""
        with self._db.read() as tx:
            row = replicas.get_for(tx, None, process.replica_id)
        if row is None or row.holds_capacity:
            return False
        return process.started_at_ms >= row.changed_at_ms

    def _no_dead_routes(self, routed: set[str], seen: Seen) -> None:
        """What a cluster that answers does not list, or lists as ended, gets no requests."""
        clusters = {replica.id: replica.cluster_id for replica in seen.holding}
        strangers = routed - clusters.keys()
        told = f"{sorted(strangers)} are routed and recorded as ended"
        require(not strangers, "no route to the dead", told)
        for name, driver in self._drivers.items():
            view = driver.view()
            if isinstance(view, Reachable):
                serving = {
                    o.replica_id for o in view.observations if o.run_state is not RunState.EXITED
                }
                there = {i for i in routed if clusters[i] == seen.cluster_ids.get(name)}
                told = f"{sorted(there - serving)} are routed and have ended"
                require(there <= serving, "no route to the dead", told)

    def _alive(self, now_ms: int) -> list[FakeProcess]:
        return [
            process
            for driver in self._drivers.values()
            for process in driver.processes()
            if process.state_at(now_ms) is not RunState.EXITED
        ]

    def _unsettled_one(self, deployment: Deployment, seen: Seen) -> str | None:
        wanted = wanted_replicas(deployment)
        if deployment.wakes and wanted:
            return f"nobody asks, and {wanted} are wanted"
        mine = [r for r in seen.holding if r.deployment_id == deployment.id]
        current = [r for r in mine if r.generation == deployment.generation]
        ready = [r for r in current if r.status is ReplicaStatus.READY]
        if len(ready) == len(mine) == wanted:
            settled = DeploymentStatus.READY if wanted else DeploymentStatus.STOPPED
            is_settled = deployment.status is settled and deployment.ready_replicas == wanted
            return None if is_settled else f"is {deployment.status}, should be {settled}"
        serves = all(replica.status is ReplicaStatus.READY for replica in seen.holding)
        if serves and _is_full(deployment, seen):
            return None if deployment.reason else "waits for room without saying so"
        return f"{len(ready)} of {wanted} ready, {[str(r.status) for r in mine]}"


def _is_move(event: Event) -> bool:
    """Tell whether a replica that served was asked to leave its drained node."""
    is_drain = event.kind == "replica.stopping" and event.message.startswith("its node")
    return is_drain and event.data["from"] == "ready"


def _is_full(deployment: Deployment, seen: Seen) -> bool:
    spec = deployment.spec
    need = Resources(1_000, spec.memory_bytes or 0, spec.devices)
    for node in seen.nodes.values():
        there = [r.launch.resources for r in seen.holding if r.node_id == node.id]
        if need.fits_in(node.capacity - sum(there, Resources())):
            return False
    return True
