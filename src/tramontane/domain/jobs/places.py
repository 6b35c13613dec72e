"""Where the next attempt goes: into a cluster's own queue, or onto a node with room.

Where Tramontane chooses, attempts share nodes with replicas, and wait for one another in the order
of their class and age. Small ones may pass a large one, but not for ever.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tramontane.domain.jobs.attempt import AttemptObservation
from tramontane.domain.jobs.fit import fits
from tramontane.domain.jobs.job import Attempt, Job
from tramontane.domain.jobs.snapshot import JobCluster, JobSnapshot, holding_of
from tramontane.domain.observation import Reachable, RunState, Unreachable
from tramontane.domain.planning.placement import (
    Owner,
    Room,
    explain_no_room,
    find_spot,
    rooms_of,
    whole_of,
)

# Who has waited so long lets nobody pass on the nodes that could hold it.
PATIENCE_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attempt goes; ``node_id`` None: its cluster finds the nodes."""

    cluster_id: str
    node_id: str | None = None
    device_indexes: tuple[int, ...] = ()


class Places:
    """What is free in a snapshot; each place that is found is taken."""

    def __init__(self, snapshot: JobSnapshot, live: Iterable[tuple[Attempt, Job]]) -> None:
        self._clusters = snapshot.clusters
        self._now_ms = snapshot.now_ms
        self._devices_max: Mapping[str, int] = dict(snapshot.devices_max)
        self._devices_used: Counter[str] = Counter()
        placed = [(attempt, job) for attempt, job in live if attempt.node_id is not None]
        for _, job in placed:
            self._devices_used[job.project_id] += job.spec.devices
        self._rooms = self._open_rooms(snapshot, placed)

    def find(self, job: Job, waits_since_ms: int) -> Place | str:
        """Return a place for one attempt, or in words why there is none now."""
        named = [
            state
            for state in self._clusters
            if job.spec.cluster in {None, state.cluster.name}
            and job.cluster_id in {None, state.cluster.id}
        ]
        heard = [state for state in named if isinstance(state.view, Reachable)]
        if not heard:
            return _why_silent(job, named)
        own = {state.cluster.id for state in heard if not state.queues}
        refusal = self._refuse_own(job, has_own=bool(own))
        if refusal is None:
            rooms = {id_: r for id_, r in self._rooms.items() if r.node.cluster_id in own}
            spot = find_spot(rooms, Owner(job.id, 0), job.spec.resources)
            if spot is not None:
                self._take(job, spot.node_id, spot.device_indexes)
                return Place(spot.cluster_id, spot.node_id, spot.device_indexes)
            refusal = explain_no_room(rooms, job.spec.resources)
        for state in sorted(heard, key=lambda state: state.cluster.name):
            if state.queues and (not state.nodes or fits(job.spec, state.nodes)):
                return Place(state.cluster.id)
        if self._now_ms - waits_since_ms > PATIENCE_MS:
            self._hold_for(job)
        return refusal if own else "no node of its cluster is large enough"

    def _refuse_own(self, job: Job, *, has_own: bool) -> str | None:
        """Return why it may not run where Tramontane places, whatever is free."""
        if not has_own:
            return "its cluster places by itself"
        if job.spec.nodes > 1:
            return f"it needs {job.spec.nodes} nodes, and this cluster runs jobs on one node only"
        most = self._devices_max.get(job.project_id)
        used = self._devices_used[job.project_id]
        if most is not None and job.spec.devices and used + job.spec.devices > most:
            return f"{used} of the {most} devices of its project's quota are in use"
        return None

    def _take(self, job: Job, node_id: str, device_indexes: tuple[int, ...]) -> None:
        room = self._rooms[node_id]
        self._rooms[node_id] = room.take(Owner(job.id, 0), job.spec.resources, device_indexes)
        self._devices_used[job.project_id] += job.spec.devices

    def _hold_for(self, job: Job) -> None:
        need = job.spec.resources
        self._rooms = {
            node_id: room
            for node_id, room in self._rooms.items()
            if not need.fits_in(whole_of(room.node))
        }

    def _open_rooms(
        self, snapshot: JobSnapshot, placed: list[tuple[Attempt, Job]]
    ) -> dict[str, Room]:
        """Return the rooms that may be used: none while something unknown lives on a node."""
        known = {replica.id for replica in snapshot.replicas if replica.holds_capacity}
        known |= {attempt.id for attempt, _ in placed}
        nodes = [
            node
            for state in snapshot.clusters
            if isinstance(state.view, Reachable) and not state.queues
            for node in state.nodes
            if node.name not in _strayed_on(state, known)
        ]
        holdings = [holding_of(attempt, job) for attempt, job in placed]
        return rooms_of(nodes, snapshot.replicas, holdings)


def _strayed_on(state: JobCluster, known: set[str]) -> set[str]:
    """Return the names of nodes on which runs what no row accounts for."""
    assert isinstance(state.view, Reachable)
    names = {
        seen.node_name
        for seen in state.view.observations
        if seen.replica_id not in known and seen.run_state is not RunState.EXITED
    }
    strays: list[AttemptObservation] = [
        seen
        for seen in state.view.attempts
        if seen.attempt_id not in known and not seen.state.is_over
    ]
    return names | {name for seen in strays for name in seen.node_names}


def _why_silent(job: Job, named: list[JobCluster]) -> str:
    if not named:
        return f"there is no cluster {job.spec.cluster or 'yet'}"
    first = min(named, key=lambda state: state.cluster.name)
    assert isinstance(first.view, Unreachable)
    return f"cluster {first.cluster.name} does not answer: {first.view.reason}"
