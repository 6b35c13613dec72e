"""Deployments: what a project wants to be served, and how far that has come."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from tramontane.domain.launch import AdapterSpec, PriorityClass

ADAPTERS_MAX: Final = 32  # of one deployment; each takes memory in every replica
REPLICAS_MAX: Final = 256  # a deployment beyond this is a typing error, not a wish
NODES_MAX: Final = 64  # of one replica: more than any rack has
DEFAULT_START_MS: Final = 5_000  # until a replica of the deployment was measured

# Defaults of `AutoscaleSpec`. A start of a large model takes minutes and a stop loses its caches,
# so what was added stays a while; what is missing is felt at once.
IDLE_MS_DEFAULT: Final = 300_000
UP_COOLDOWN_MS_DEFAULT: Final = 3_000
DOWN_COOLDOWN_MS_DEFAULT: Final = 60_000
# Between posts of a gateway a second passes: nothing shorter can be told from noise.
IDLE_MS_MIN: Final = 1_000
AUTOSCALE_MS_MAX: Final = 7 * 86_400_000


class DeploymentStatus(StrEnum):
    """What the deployment can do now."""

    PENDING = "pending"  # nothing serves yet
    READY = "ready"  # as many replicas as wanted serve the wanted generation
    DEGRADED = "degraded"  # it serves, with fewer replicas or an older generation than wanted
    STOPPING = "stopping"  # deleted, replicas still drain
    STOPPED = "stopped"  # nothing runs and nothing is wanted


@dataclass(frozen=True, slots=True)
class AutoscaleSpec:
    """How the number of replicas follows the demand.

    ``requests_in_flight`` is how many requests, running and queued, one replica is wanted for;
    ``tokens_per_s`` adds a second target. With ``replicas_min`` 0 the last replica goes after
    ``idle_ms`` without a request, and the next request starts one. After a change, more are
    added no sooner than ``up_cooldown_ms`` later, and fewer are wanted only when the demand has
    been lower for ``down_cooldown_ms``.
    """

    replicas_min: int
    replicas_max: int
    requests_in_flight: int
    tokens_per_s: int | None = None
    idle_ms: int = IDLE_MS_DEFAULT
    up_cooldown_ms: int = UP_COOLDOWN_MS_DEFAULT
    down_cooldown_ms: int = DOWN_COOLDOWN_MS_DEFAULT

    def clamp(self, replicas: int) -> int:
        """Return the nearest number of replicas within the bounds."""
        return max(self.replicas_min, min(self.replicas_max, replicas))


@dataclass(frozen=True, slots=True)
class Scale:
    """What autoscaling last decided: how many replicas, since when, and why in words."""

    wanted: int
    changed_at_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Canary:
    """Makes its deployment the canary of another: ``percent`` of that one's requests go to it."""

    of_id: str
    percent: int


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """What is wanted. A change to more than the number of replicas replaces them, one by one.

    With ``autoscale``, ``replicas`` is only where scaling begins. A replica takes ``nodes`` nodes
    of one rack; ``devices``, ``cpu_millicores`` and ``memory_bytes`` are of each of them, and None
    lets the engine's recipe decide. ``context_length`` counts tokens per request; ``parallel`` is
    how many requests a replica serves at a time. ``engine_options`` are further options, each
    checked by the recipe. ``adapters`` are sorted by name. ``cluster`` is the name of the only
    one where replicas may run, None for any.
    """

    model_version_id: str
    engine: str
    replicas: int
    context_length: int
    parallel: int
    devices: int = 0
    cpu_millicores: int | None = None
    memory_bytes: int | None = None
    engine_options: tuple[tuple[str, str], ...] = ()
    autoscale: AutoscaleSpec | None = None
    adapters: tuple[AdapterSpec, ...] = ()
    cluster: str | None = None
    nodes: int = 1
    priority_class: PriorityClass = PriorityClass.STANDARD

    def differs_in_kind(self, other: "DeploymentSpec") -> bool:
        """Tell whether ``other`` differs in more than how many replicas are wanted."""
        return replace(self, replicas=other.replicas, autoscale=other.autoscale) != other


@dataclass(frozen=True, slots=True)
class Deployment:
    """A desired state (``spec``, ``generation``) and what was made of it.

    ``generation`` counts changes that need new replicas; a change of ``replicas`` alone keeps it.
    ``observed_generation`` is the newest generation that the reconciler acted on.
    ``start_ms`` is the last measured time from start to ready. ``failures`` counts failed starts
    in a row; no start is tried before ``retry_at_ms``. ``reason`` says in words what is missing.
    ``scale`` is set exactly while the spec autoscales. ``canary`` links it to what it is a canary
    of.
    """

    id: str
    project_id: str
    name: str
    spec: DeploymentSpec
    generation: int
    created_at_ms: int
    observed_generation: int = 0
    status: DeploymentStatus = DeploymentStatus.PENDING
    ready_replicas: int = 0
    reason: str | None = None
    failures: int = 0
    retry_at_ms: int = 0
    start_ms: int = DEFAULT_START_MS
    deleted_at_ms: int | None = None
    scale: Scale | None = None
    canary: Canary | None = None
    revision: int = 1

    @property
    def wanted_replicas(self) -> int:
        """Return how many replicas are wanted now: none once it is deleted."""
        if self.deleted_at_ms is not None:
            return 0
        if self.spec.autoscale is None:
            return self.spec.replicas
        wanted = self.spec.replicas if self.scale is None else self.scale.wanted
        return self.spec.autoscale.clamp(wanted)

    @property
    def wakes(self) -> bool:
        """Tell whether a request starts replicas when none runs."""
        auto = self.spec.autoscale
        return self.deleted_at_ms is None and auto is not None and auto.replicas_min == 0


@dataclass(frozen=True, slots=True)
class SpecChange:
    """A partial change of a spec; None leaves a field as it is.

    ``adapters`` are all that are wanted from now on: names, each with a reference to a model.
    An empty ``cluster`` is any.
    """

    replicas: int | None = None
    model_version_id: str | None = None
    context_length: int | None = None
    parallel: int | None = None
    devices: int | None = None
    cpu_millicores: int | None = None
    memory_bytes: int | None = None
    engine_options: tuple[tuple[str, str], ...] | None = field(default=None)
    adapters: tuple[tuple[str, str], ...] | None = None
    cluster: str | None = None
    nodes: int | None = None
    priority_class: PriorityClass | None = None
