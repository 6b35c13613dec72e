"""What a driver saw: the only input about the world that decisions are made from.

`Unreachable` is not an empty list. A cluster that did not answer says nothing about its replicas:
unknown is not gone.
"""

from dataclasses import dataclass
from enum import StrEnum

from tramontane.domain.fleet import Device
from tramontane.domain.jobs.attempt import AttemptObservation
from tramontane.domain.resources import NOTHING, Resources


class RunState(StrEnum):
    """Where a started process is in its life."""

    STARTING = "starting"  # the runner is up, the engine does not answer its health check yet
    READY = "ready"  # the engine answers; `Observation.address` is set
    DRAINING = "draining"  # asked to stop, finishing what it has
    EXITED = "exited"  # ended; `Observation.reason` says why


@dataclass(frozen=True, slots=True)
class Observation:
    """One process that the driver knows by our replica id.

    ``address`` is ``host:port``. ``reason`` holds the engine's last lines when it failed.
    ``requests_running`` and ``requests_waiting`` are the engine's own counts, None if unheard.
    ``ends_at_ms`` is when its cluster will end it whatever it does; None: never. While it starts,
    ``reason`` may say what it waits for, and while it drains why it serves no more.
    """

    replica_id: str
    node_name: str
    run_state: RunState
    address: str | None = None
    reason: str | None = None
    requests_running: int | None = None
    requests_waiting: int | None = None
    ends_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class NodeObservation:
    """One node as the driver sees it; ``is_lost`` when the cluster declares it gone.

    ``is_drained``: nothing new may start there, and what serves there moves. ``reason`` says why
    it is lost or drained. ``used`` is what others hold there: neither our replicas nor what gives
    way to them.
    """

    name: str
    capacity: Resources
    devices: tuple[Device, ...] = ()
    is_lost: bool = False
    is_drained: bool = False
    reason: str | None = None
    rack: str | None = None
    used: Resources = NOTHING


@dataclass(frozen=True, slots=True)
class Reachable:
    """The cluster answered: what is not listed does not run.

    ``attempts`` are those of jobs; ``observations`` are replicas.
    """

    nodes: tuple[NodeObservation, ...]
    observations: tuple[Observation, ...]
    attempts: tuple[AttemptObservation, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The cluster did not answer, and why; nothing may be concluded about its replicas."""

    reason: str


ClusterView = Reachable | Unreachable
