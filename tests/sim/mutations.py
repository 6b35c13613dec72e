"""Planted bugs, each of a kind that loses money or machines, and the check that finds it."""

from dataclasses import dataclass, replace

from tests.sim.world import Parts
from tramontane.domain.deployment import Deployment
from tramontane.domain.fleet import NodeStatus
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.observation import Reachable, Unreachable
from tramontane.domain.planning.autoscale import Decision
from tramontane.domain.planning.demand import Demand
from tramontane.domain.planning.plan import Place, Plan, Stop, Transition
from tramontane.domain.planning.snapshot import ReplicaSnapshot
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.drivers.fake import FakeDriver
from tramontane.reconcilers.autoscale import AutoscaleReconciler
from tramontane.reconcilers.replicas import ReplicaReconciler


class ActsBeforeCommit(ReplicaReconciler):
    """Starts a replica, then records it: a crash between leaves a process nobody knows."""

    def _new_replica(self, place: Place, snapshot: ReplicaSnapshot) -> Replica:
        replica = super()._new_replica(place, snapshot)
        names = {state.cluster.id: state.cluster.name for state in snapshot.clusters}
        self._ensure(replica, names[replica.cluster_id], snapshot)
        return replica


class FreesDevicesEarly(ReplicaReconciler):
    """Records a replica as stopped when it is asked to stop, not when it ended."""

    def _plan(self, snapshot: ReplicaSnapshot) -> Plan:
        plan = super()._plan(snapshot)
        asked = {action.replica_id for action in plan.actions if isinstance(action, Stop)}
        freed = tuple(
            Transition(r.id, r.deployment_id, ReplicaStatus.STOPPED, "asked to stop")
            for r in snapshot.replicas
            if r.id in asked
        )
        return replace(plan, actions=(*freed, *plan.actions))


class TakesUnknownForGone(ReplicaReconciler):
    """Reads a cluster's silence as the news that nothing runs there."""

    def _plan(self, snapshot: ReplicaSnapshot) -> Plan:
        clusters = tuple(
            replace(state, view=Reachable((), ())) if isinstance(state.view, Unreachable) else state
            for state in snapshot.clusters
        )
        return super()._plan(replace(snapshot, clusters=clusters))


class LeavesAtOnce(ReplicaReconciler):
    """Drains what serves on a drained node before anything else serves in its place."""

    def _plan(self, snapshot: ReplicaSnapshot) -> Plan:
        plan = super()._plan(snapshot)
        planned = {a.replica_id for a in plan.actions if isinstance(a, Transition)}
        nodes = {node.id: node for state in snapshot.clusters for node in state.nodes}
        hasty = tuple(
            Transition(
                r.id,
                r.deployment_id,
                ReplicaStatus.STOPPING,
                f"its node {nodes[r.node_id].name} is drained",
            )
            for r in snapshot.replicas
            if r.status is ReplicaStatus.READY
            and r.id not in planned
            and nodes[r.node_id].status is NodeStatus.DRAINED
        )
        return replace(plan, actions=(*hasty, *plan.actions))


class StartsAgain(FakeDriver):
    """Starts a process at each call, however often the id was started before."""

    def start(self, replica_id: str, node_name: str, launch: LaunchSpec) -> None:
        self.spawn(replica_id, node_name, launch)


class HearsOneGateway(AutoscaleReconciler):
    """Takes the word of one gateway for that of all."""

    def _decide(self, deployment: Deployment, said: list[Demand], now_ms: int) -> Decision:
        mine = [demand for demand in said if demand.deployment_id == deployment.id]
        return super()._decide(deployment, mine[-1:], now_ms)


class HasNoPatience(AutoscaleReconciler):
    """Scales down as soon as fewer are needed, and up as soon as more are."""

    def _decide(self, deployment: Deployment, said: list[Demand], now_ms: int) -> Decision:
        auto = deployment.spec.autoscale
        assert auto is not None
        hasty = replace(auto, up_cooldown_ms=0, down_cooldown_ms=0)
        spec = replace(deployment.spec, autoscale=hasty)
        return super()._decide(replace(deployment, spec=spec), said, now_ms)


class ForgetsTheBound(AutoscaleReconciler):
    """Gives every deployment one replica more than may be."""

    def _decide(self, deployment: Deployment, said: list[Demand], now_ms: int) -> Decision:
        decision = super()._decide(deployment, said, now_ms)
        auto, scale = deployment.spec.autoscale, decision.scale
        assert auto is not None
        if scale.wanted < auto.replicas_max or scale == deployment.scale:
            return decision
        return replace(decision, scale=replace(scale, wanted=auto.replicas_max + 1))


class SleepsAtZero(AutoscaleReconciler):
    """Leaves a deployment at zero when it is asked for."""

    def _decide(self, deployment: Deployment, said: list[Demand], now_ms: int) -> Decision:
        return super()._decide(deployment, said if deployment.wanted_replicas else [], now_ms)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A planted bug; ``check`` is the one that must catch it."""

    parts: Parts
    check: str


MUTATIONS = {
    "act-before-commit": Mutation(Parts(reconciler=ActsBeforeCommit), "intent first"),
    "forgets-the-bound": Mutation(Parts(autoscale=ForgetsTheBound), "scale within bounds"),
    "free-devices-early": Mutation(Parts(reconciler=FreesDevicesEarly), "freed when ended"),
    "has-no-patience": Mutation(Parts(autoscale=HasNoPatience), "no flapping"),
    "hears-one-gateway": Mutation(Parts(autoscale=HearsOneGateway), "not to zero under requests"),
    "leaves-at-once": Mutation(Parts(reconciler=LeavesAtOnce), "successor first"),
    "sleeps-at-zero": Mutation(Parts(autoscale=SleepsAtZero), "wakes"),
    "start-again": Mutation(Parts(driver=StartsAgain), "started once"),
    "unknown-is-gone": Mutation(Parts(reconciler=TakesUnknownForGone), "unknown is not gone"),
}
