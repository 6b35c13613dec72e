"""What holds for every plan: it fits, it does not depend on order, and carrying it out ends."""

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.support.planning import (
    GIB,
    NOW_MS,
    deployment_of,
    launch_of,
    node_of,
    replica_of,
    snapshot_of,
    state_of,
    typed_id,
)
from tramontane.domain import ids
from tramontane.domain.deployment import Deployment
from tramontane.domain.fleet import Node
from tramontane.domain.observation import Observation, Reachable, RunState
from tramontane.domain.planning.placement import explain_no_room, rooms_of
from tramontane.domain.planning.plan import (
    Ensure,
    Place,
    Plan,
    SetStatus,
    Stop,
    StopOrphan,
    Transition,
)
from tramontane.domain.planning.replica_plan import plan_replicas
from tramontane.domain.planning.rollout import SURGE_MAX
from tramontane.domain.planning.snapshot import Need, ReplicaSnapshot, from_json, to_json
from tramontane.domain.replica import Replica, ReplicaStatus, check_transition
from tramontane.domain.resources import Resources

STEPS_MAX = 80
GENERATIONS = 3

needs = st.builds(
    Resources,
    st.integers(0, 4_000),
    st.integers(1, 8).map(lambda gib: gib * GIB),
    st.integers(0, 2),
)


@st.composite
def snapshots(draw: st.DrawFn) -> ReplicaSnapshot:
    """Return a world in which what is recorded fits; some of it is of older generations."""
    nodes = tuple(
        node_of(
            number,
            Resources(draw(st.integers(1, 16)) * 1_000, draw(st.integers(4, 32)) * GIB),
            devices=draw(st.integers(0, 4)),
        )
        for number in range(1, draw(st.integers(1, 4)) + 1)
    )
    deployments = tuple(
        deployment_of(
            number,
            replicas=draw(st.integers(0, 4)),
            generation=draw(st.integers(1, GENERATIONS)),
            deleted_at_ms=draw(st.sampled_from([None, None, None, NOW_MS])),
        )
        for number in range(1, draw(st.integers(1, 4)) + 1)
    )
    known_needs = tuple(Need(deployment.id, draw(needs)) for deployment in deployments)
    replicas = _fitting(draw, nodes, deployments, known_needs)
    base = snapshot_of(deployments, tuple(replicas), nodes=nodes)
    return replace(base, needs=known_needs)


def _fitting(
    draw: st.DrawFn,
    nodes: tuple[Node, ...],
    deployments: tuple[Deployment, ...],
    known_needs: tuple[Need, ...],
) -> list[Replica]:
    statuses = [s for s in ReplicaStatus if s not in {ReplicaStatus.FAILED, ReplicaStatus.STOPPED}]
    replicas: list[Replica] = []
    for number in range(draw(st.integers(0, 6))):
        index = draw(st.integers(0, len(deployments) - 1))
        deployment, need = deployments[index], known_needs[index].resources
        assert need is not None
        node = draw(st.integers(1, len(nodes)))
        room = rooms_of(nodes, replicas)[typed_id(ids.NODE, node)]
        if room.holds(need):
            made = replica_of(
                number + 1,
                deployment,
                draw(st.sampled_from(statuses)),
                node=node,
                need=need,
                devices=room.free_device_indexes[: need.devices],
                generation=draw(st.integers(1, deployment.generation)),
            )
            replicas.append(made)
    return replicas


def oversubscribed(nodes: tuple[Node, ...], replicas: tuple[Replica, ...]) -> str | None:
    """Return which node holds too much, by arithmetic that shares nothing with the planner."""
    for node in nodes:
        there = [r.launch for r in replicas if r.node_id == node.id and r.holds_capacity]
        indexes = [index for launch in there for index in launch.device_indexes]
        memory = sum(launch.resources.memory_bytes for launch in there)
        cpu = sum(launch.resources.cpu_millicores for launch in there)
        known = {device.index for device in node.devices}
        if len(set(indexes)) < len(indexes) or not set(indexes) <= known:
            return f"{node.name}: devices {indexes} of {sorted(known)}"
        if memory > node.capacity.memory_bytes or cpu > node.capacity.cpu_millicores:
            return f"{node.name}: {memory} bytes, {cpu} millicores"
        if any(len(launch.device_indexes) != launch.resources.devices for launch in there):
            return f"{node.name}: a replica without its devices"
    return None


class Carrier:
    """Carries plans out in a perfect world: what was asked for has happened at the next look."""

    def __init__(self, snapshot: ReplicaSnapshot) -> None:
        self.snapshot = snapshot
        self.running = {o.replica_id: o for o in _observations(snapshot)}
        self._made = 1_000
        for observation in _observations(snapshot):
            if observation.run_state is RunState.STARTING:
                self._run(observation.replica_id, RunState.READY)
        self._look()

    def carry_out(self, plan: Plan) -> None:
        for action in plan.actions:
            match action:
                case Place():
                    self._place(action)
                case Transition():
                    self._move(action)
                case SetStatus():
                    self._describe(action)
                case Ensure():
                    self._run(action.replica_id, RunState.READY)
                case Stop() | StopOrphan():
                    self._run(action.replica_id, RunState.EXITED)
                case _:
                    self.running.pop(action.replica_id, None)
        self.snapshot = replace(self.snapshot, now_ms=self.snapshot.now_ms + 2_000)
        self._look()

    def _look(self) -> None:
        state = self.snapshot.clusters[0]
        assert isinstance(state.view, Reachable)
        view = replace(state.view, observations=tuple(self.running.values()))
        self.snapshot = replace(self.snapshot, clusters=(replace(state, view=view),))

    def _place(self, place: Place) -> None:
        self._made += 1
        deployment = next(d for d in self.snapshot.deployments if d.id == place.deployment_id)
        replica = replace(
            replica_of(self._made, deployment, ReplicaStatus.PENDING),
            node_id=place.node_id,
            generation=place.generation,
            launch=launch_of(place.resources, place.device_indexes),
            created_at_ms=self.snapshot.now_ms,
        )
        self.snapshot = replace(self.snapshot, replicas=(*self.snapshot.replicas, replica))

    def _move(self, transition: Transition) -> None:
        def moved(replica: Replica) -> Replica:
            if replica.id != transition.replica_id:
                return replica
            check_transition(replica, transition.to)
            return replace(
                replica,
                status=transition.to,
                changed_at_ms=self.snapshot.now_ms,
                address=transition.address or replica.address,
                ready_at_ms=transition.ready_at_ms or replica.ready_at_ms,
            )

        replicas = tuple(moved(replica) for replica in self.snapshot.replicas)
        self.snapshot = replace(self.snapshot, replicas=replicas)

    def _describe(self, told: SetStatus) -> None:
        def described(deployment: Deployment) -> Deployment:
            if deployment.id != told.deployment_id:
                return deployment
            return replace(
                deployment,
                status=told.status,
                ready_replicas=told.ready_replicas,
                reason=told.reason,
                observed_generation=told.observed_generation,
                failures=told.failures,
                retry_at_ms=told.retry_at_ms,
                start_ms=told.start_ms,
            )

        deployments = tuple(described(d) for d in self.snapshot.deployments)
        self.snapshot = replace(self.snapshot, deployments=deployments)

    def _run(self, replica_id: str, state: RunState) -> None:
        replica = next(r for r in self.snapshot.replicas if r.id == replica_id)
        node = next(n for n in self.snapshot.clusters[0].nodes if n.id == replica.node_id)
        address = "127.0.0.1:1" if state is RunState.READY else None
        self.running[replica_id] = Observation(replica_id, node.name, state, address=address)


def _observations(snapshot: ReplicaSnapshot) -> tuple[Observation, ...]:
    view = snapshot.clusters[0].view
    assert isinstance(view, Reachable)
    return view.observations


@given(snapshots())
def test_carrying_plans_out_ends_in_an_empty_plan(snapshot: ReplicaSnapshot) -> None:
    carrier = Carrier(snapshot)
    nodes = snapshot.clusters[0].nodes
    for _ in range(STEPS_MAX):
        plan = plan_replicas(carrier.snapshot)
        if not plan.actions:
            break
        carrier.carry_out(plan)
        assert oversubscribed(nodes, carrier.snapshot.replicas) is None
    else:
        raise AssertionError(f"still planning {plan.actions}")
    _check_settled(carrier.snapshot, plan)


def _check_settled(snapshot: ReplicaSnapshot, plan: Plan) -> None:
    waiting = {unplaced.deployment_id: unplaced.count for unplaced in plan.unplaced}
    nodes = snapshot.clusters[0].nodes
    for deployment in snapshot.deployments:
        mine = [r for r in snapshot.replicas if r.deployment_id == deployment.id]
        holding = [r for r in mine if r.holds_capacity]
        current = [r for r in holding if r.generation == deployment.generation]
        wanted = 0 if deployment.deleted_at_ms is not None else deployment.spec.replicas
        assert all(r.status is ReplicaStatus.READY for r in holding)
        if deployment.id not in waiting:
            assert len(current) == len(holding) == wanted
            assert deployment.reason is None
            continue
        # Whoever waits really has no room, and says so.
        need = next(d.resources for d in snapshot.needs if d.deployment_id == deployment.id)
        assert need is not None
        rooms = rooms_of(nodes, snapshot.replicas)
        assert not any(room.holds(need) for room in rooms.values())
        assert deployment.reason is not None
        assert explain_no_room(rooms, need) in deployment.reason


@given(snapshots())
def test_a_rollout_never_takes_what_is_wanted(snapshot: ReplicaSnapshot) -> None:
    carrier = Carrier(snapshot)
    for _ in range(STEPS_MAX):
        before = _ready(carrier.snapshot)
        active = _active(carrier.snapshot)
        plan = plan_replicas(carrier.snapshot)
        if not plan.actions:
            return
        carrier.carry_out(plan)
        for deployment in carrier.snapshot.deployments:
            wanted = 0 if deployment.deleted_at_ms is not None else deployment.spec.replicas
            ready = _ready(carrier.snapshot).get(deployment.id, 0)
            assert ready >= min(wanted, before.get(deployment.id, 0))
            most = max(wanted + SURGE_MAX, active.get(deployment.id, 0))
            assert _active(carrier.snapshot).get(deployment.id, 0) <= most


def _ready(snapshot: ReplicaSnapshot) -> dict[str, int]:
    return _count(snapshot, {ReplicaStatus.READY})


def _active(snapshot: ReplicaSnapshot) -> dict[str, int]:
    ended = {ReplicaStatus.STOPPING, ReplicaStatus.STOPPED, ReplicaStatus.FAILED}
    return _count(snapshot, set(ReplicaStatus) - ended)


def _count(snapshot: ReplicaSnapshot, statuses: set[ReplicaStatus]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for replica in snapshot.replicas:
        if replica.status in statuses:
            counts[replica.deployment_id] = counts.get(replica.deployment_id, 0) + 1
    return counts


@given(snapshots(), st.integers(0, 2**32))
def test_the_order_of_the_input_does_not_matter(snapshot: ReplicaSnapshot, seed: int) -> None:
    chance = random.Random(seed)

    def shuffled(values: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(chance.sample(values, len(values)))

    state = snapshot.clusters[0]
    view = replace(state.view, observations=shuffled(_observations(snapshot)))
    other = replace(
        snapshot,
        deployments=shuffled(snapshot.deployments),
        needs=shuffled(snapshot.needs),
        replicas=shuffled(snapshot.replicas),
        clusters=(replace(state, nodes=shuffled(state.nodes), view=view),),
    )
    assert plan_replicas(other) == plan_replicas(snapshot)


@given(snapshots())
def test_a_snapshot_plans_the_same_after_a_journey(snapshot: ReplicaSnapshot) -> None:
    assert plan_replicas(from_json(to_json(snapshot))) == plan_replicas(snapshot)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=6), st.integers(1, 12))
def test_nobody_starves(wants: list[int], slots: int) -> None:
    """Room for ``slots`` replicas: no one gets a second before each has had a first."""
    deployments = tuple(
        deployment_of(number, replicas=count) for number, count in enumerate(wants, start=1)
    )
    nodes = (node_of(1, Resources(slots * 1_000, slots * GIB)),)
    plan = plan_replicas(snapshot_of(deployments, nodes=nodes))
    placed = [action.deployment_id for action in plan.actions if isinstance(action, Place)]
    counts = [placed.count(deployment.id) for deployment in deployments]
    assert sum(counts) == min(slots, sum(wants))
    for index, (count, want) in enumerate(zip(counts, wants, strict=True)):
        for other in counts[index + 1 :]:  # the younger
            assert count == want or count >= other


def test_the_support_code_itself_finds_what_is_wrong() -> None:
    node = node_of(1, Resources(1_000, GIB), devices=1)
    need = Resources(1_000, GIB, 1)
    two = tuple(replica_of(n, deployment_of(), need=need, devices=(0,)) for n in (1, 2))
    assert oversubscribed((node,), two) is not None
    assert oversubscribed((node,), two[:1]) is None
    assert state_of((node,)).nodes == (node,)
