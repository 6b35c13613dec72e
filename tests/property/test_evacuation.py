"""Replicas leave drained nodes and clusters that end them: none is missing meanwhile."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.test_planning import Carrier, oversubscribed
from tests.support.planning import (
    GIB,
    NOW_MS,
    deployment_of,
    launch_of,
    node_of,
    replica_of,
    snapshot_of,
)
from tramontane.domain.deployment import Deployment
from tramontane.domain.fleet import Node, NodeStatus
from tramontane.domain.observation import Observation, RunState
from tramontane.domain.planning.placement import explain_no_room, rooms_of
from tramontane.domain.planning.plan import Plan, SetStatus, Stop, StopOrphan
from tramontane.domain.planning.replica_plan import plan_replicas
from tramontane.domain.planning.rollout import SURGE_MAX
from tramontane.domain.planning.snapshot import Need, ReplicaSnapshot
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.resources import Resources
from tramontane.domain.upkeep.evacuation import lead_ms

STEPS_MAX = 200
DRAIN_S = 30
SECOND_MS = 1_000


@st.composite
def worlds(draw: st.DrawFn) -> ReplicaSnapshot:
    """Return a world in which every deployment has what it wants, and some nodes are drained."""
    nodes = tuple(
        replace(
            node_of(number, Resources(64_000, draw(st.integers(2, 8)) * GIB)),
            rack=draw(st.sampled_from(["a", "b"])),
        )
        for number in range(1, draw(st.integers(2, 5)) + 1)
    )
    kinds: list[tuple[int, int]] = [
        (draw(st.integers(1, 3)), draw(st.integers(1, 2)))  # GiB and nodes per replica
        for _ in range(draw(st.integers(1, 3)))
    ]
    deployments: list[Deployment] = []
    replicas: list[Replica] = []
    for number, (gib, width) in enumerate(kinds, start=1):
        base = deployment_of(number)
        need = Resources(1_000, gib * GIB)
        base = replace(base, spec=replace(base.spec, nodes=width))
        there = _fitting(draw, nodes, replicas, base, need)
        deployments.append(replace(base, spec=replace(base.spec, replicas=len(there))))
        replicas += there
    drained = draw(st.sets(st.integers(1, len(nodes))))
    fleet = tuple(
        replace(n, status=NodeStatus.DRAINED) if int(n.name[5:]) in drained else n for n in nodes
    )
    base = snapshot_of(tuple(deployments), tuple(replicas), nodes=fleet)
    needs = tuple(
        Need(d.id, Resources(1_000, gib * GIB))
        for d, (gib, _) in zip(deployments, kinds, strict=True)
    )
    return replace(base, needs=needs)


def _fitting(
    draw: st.DrawFn,
    nodes: tuple[Node, ...],
    taken: list[Replica],
    deployment: Deployment,
    need: Resources,
) -> list[Replica]:
    made: list[Replica] = []
    width = deployment.spec.nodes
    for _ in range(draw(st.integers(0, 3))):
        rooms = rooms_of(nodes, [*taken, *made])
        fit = [n for n in nodes if rooms[n.id].holds(need)]
        rack = draw(st.sampled_from(["a", "b"]))
        fit = [n for n in fit if width == 1 or n.rack == rack]
        if len(fit) >= width:
            first, *peers = draw(st.permutations(fit))[:width]
            made.append(
                replica_of(
                    len(taken) + len(made) + 1,
                    deployment,
                    node=int(first.name[5:]),
                    need=need,
                    peer_node_ids=tuple(node.id for node in peers),
                )
            )
    return made


def _ready(snapshot: ReplicaSnapshot, deployment: Deployment) -> int:
    return sum(
        r.deployment_id == deployment.id and r.status is ReplicaStatus.READY
        for r in snapshot.replicas
    )


def _on_drained(replica: Replica, nodes: tuple[Node, ...]) -> bool:
    drained = {node.id for node in nodes if node.status is NodeStatus.DRAINED}
    return bool(drained & set(replica.node_ids))


@given(worlds())
def test_leaving_drained_nodes_never_takes_what_is_wanted(snapshot: ReplicaSnapshot) -> None:
    carrier = Carrier(snapshot)
    nodes = snapshot.clusters[0].nodes
    for _ in range(STEPS_MAX):
        plan = plan_replicas(carrier.snapshot)
        if not plan.actions:
            break
        carrier.carry_out(plan)
        for deployment in carrier.snapshot.deployments:
            mine = [r for r in carrier.snapshot.replicas if r.deployment_id == deployment.id]
            holding = [r for r in mine if r.holds_capacity]
            assert _ready(carrier.snapshot, deployment) >= deployment.spec.replicas
            assert len(holding) <= deployment.spec.replicas + SURGE_MAX
        assert oversubscribed(nodes, _flat(carrier.snapshot.replicas)) is None
    else:
        raise AssertionError(f"still planning {plan.actions}")
    _check_left(carrier.snapshot, nodes)


def _flat(replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
    """Return one replica for each node that one runs on."""
    return tuple(
        replace(replica, node_id=node_id) for replica in replicas for node_id in replica.node_ids
    )


def _check_left(snapshot: ReplicaSnapshot, nodes: tuple[Node, ...]) -> None:
    """Whoever is still on a drained node has no other place, and its deployment says so."""
    rooms = rooms_of(nodes, snapshot.replicas)
    needs = {need.deployment_id: need.resources for need in snapshot.needs}
    for deployment in snapshot.deployments:
        left = [
            replica
            for replica in snapshot.replicas
            if replica.deployment_id == deployment.id
            and replica.holds_capacity
            and _on_drained(replica, nodes)
        ]
        if not left:
            assert deployment.reason is None
            continue
        need, width = needs[deployment.id], deployment.spec.nodes
        assert need is not None
        fitting = [room.node.rack for room in rooms.values() if room.holds(need)]
        assert not any(fitting.count(rack) >= width for rack in ("a", "b"))
        assert "is drained" in str(deployment.reason)
        assert explain_no_room(rooms, need, width) in str(deployment.reason)


class Timed(Carrier):
    """A world whose cluster ends each replica ``walltime_ms`` after its start."""

    def __init__(self, snapshot: ReplicaSnapshot, start_ms: int, walltime_ms: int) -> None:
        self._start_ms = start_ms
        self._walltime_ms = walltime_ms
        self._born: dict[str, int] = {}
        self._gone: dict[str, int] = {}
        self.made = 0
        super().__init__(snapshot)

    def pass_time(self, ms: int) -> None:
        self.snapshot = replace(self.snapshot, now_ms=self.snapshot.now_ms + ms - 2 * SECOND_MS)
        self.carry_out(Plan((), ()))

    def carry_out(self, plan: Plan) -> None:
        for action in plan.actions:
            if isinstance(action, (Stop, StopOrphan)):
                self._gone.setdefault(action.replica_id, self.snapshot.now_ms)
        super().carry_out(plan)

    def _run(self, replica_id: str, state: RunState) -> None:
        if replica_id not in self._born:
            self._born[replica_id] = self.snapshot.now_ms
            self.made += 1
        super()._run(replica_id, state)

    def _look(self) -> None:
        now_ms = self.snapshot.now_ms
        for replica_id, seen in self.running.items():
            self.running[replica_id] = self._at(replica_id, seen, now_ms)
        super()._look()

    def _at(self, replica_id: str, seen: Observation, now_ms: int) -> Observation:
        born_ms = self._born.get(replica_id, NOW_MS)
        ends_at_ms = born_ms + self._walltime_ms
        state = RunState.READY if now_ms >= born_ms + self._start_ms else RunState.STARTING
        if replica_id in self._gone or now_ms >= ends_at_ms:
            state = RunState.EXITED
        address = "127.0.0.1:1" if state is RunState.READY else None
        return replace(seen, run_state=state, address=address, ends_at_ms=ends_at_ms)


def _timed(replicas: int, start_ms: int, walltime_ms: int) -> Timed:
    me = deployment_of(replicas=replicas, start_ms=start_ms)
    node = node_of(1, Resources(64_000, 64 * GIB))
    return Timed(snapshot_of((me,), nodes=(node,)), start_ms, walltime_ms)


@pytest.mark.slow
@given(
    st.integers(1, 4),
    st.integers(1, 50).map(lambda s: s * SECOND_MS),  # below what a start may take
    st.integers(1, 4),
)
def test_at_the_end_of_their_time_replicas_have_successors(
    replicas: int, start_ms: int, ample: int
) -> None:
    assert launch_of().drain_timeout_s == DRAIN_S
    walltime_ms = start_ms + (1 + ample) * lead_ms(start_ms, DRAIN_S, replicas + SURGE_MAX)
    world = _timed(replicas, start_ms, walltime_ms)
    has_started = False
    for _ in range(150):
        plan = plan_replicas(world.snapshot)
        world.carry_out(plan)
        world.pass_time((2 if plan.actions else 15) * SECOND_MS)
        ready = _ready(world.snapshot, world.snapshot.deployments[0])
        has_started = has_started or ready == replicas
        assert not has_started or ready >= replicas
    assert has_started


@pytest.mark.slow
@given(
    st.integers(1, 3),
    st.integers(1, 900).map(lambda s: s * SECOND_MS),
    st.integers(1, 900).map(lambda s: s * SECOND_MS),
)
def test_however_short_its_time_a_replica_is_not_replaced_without_end(
    replicas: int, start_ms: int, walltime_ms: int
) -> None:
    world = _timed(replicas, start_ms, walltime_ms)
    began_ms = world.snapshot.now_ms
    for _ in range(150):
        plan = plan_replicas(world.snapshot)
        world.carry_out(plan)
        world.pass_time(2 * SECOND_MS)
    passed_ms = world.snapshot.now_ms - began_ms
    serving_ms = max(2 * SECOND_MS, (walltime_ms - start_ms) // 2)
    # Each replica lives until half of its serving time; one that never serves is backed off from.
    assert world.made <= (replicas + SURGE_MAX) * (2 + passed_ms // serving_ms)


@pytest.mark.slow
def test_at_rest_nothing_is_planned_between_two_replacements() -> None:
    world = _timed(3, 5 * SECOND_MS, 3_600 * SECOND_MS)
    written = 0
    for _ in range(3_600):
        plan = plan_replicas(world.snapshot)
        written += any(isinstance(action, SetStatus) for action in plan.actions)
        world.carry_out(plan)
    assert world.made <= 3 * 4, "two hours of walltimes of one hour"
    assert written < 10 * world.made
