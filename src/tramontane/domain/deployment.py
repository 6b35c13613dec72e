"""Deployments: what a project wants to be served, and how far that has come."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

REPLICAS_MAX: Final = 256  # a deployment beyond this is a typing error, not a wish
DEFAULT_START_MS: Final = 5_000  # until a replica of the deployment was measured


class DeploymentStatus(StrEnum):
    """What the deployment can do now."""

    PENDING = "pending"  # nothing serves yet
    READY = "ready"  # as many replicas as wanted serve the wanted generation
    DEGRADED = "degraded"  # it serves, with fewer replicas or an older generation than wanted
    STOPPING = "stopping"  # deleted, replicas still drain
    STOPPED = "stopped"  # nothing runs and nothing is wanted


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """What is wanted. A change to anything but ``replicas`` replaces the replicas, one by one.

    ``resources_*`` are per replica; None lets the engine's recipe decide. ``context_length``
    counts tokens per request; ``parallel`` is how many requests a replica serves at a time.
    ``engine_options`` are further options, each checked by the recipe.
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


@dataclass(frozen=True, slots=True)
class Deployment:
    """A desired state (``spec``, ``generation``) and what was made of it.

    ``generation`` counts changes that need new replicas; a change of ``replicas`` alone keeps it.
    ``observed_generation`` is the newest generation that the reconciler acted on.
    ``start_ms`` is the last measured time from start to ready. ``failures`` counts failed starts
    in a row; no start is tried before ``retry_at_ms``. ``reason`` says in words what is missing.
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
    revision: int = 1


@dataclass(frozen=True, slots=True)
class SpecChange:
    """A partial change of a spec; None leaves a field as it is."""

    replicas: int | None = None
    model_version_id: str | None = None
    context_length: int | None = None
    parallel: int | None = None
    devices: int | None = None
    cpu_millicores: int | None = None
    memory_bytes: int | None = None
    engine_options: tuple[tuple[str, str], ...] | None = field(default=None)
