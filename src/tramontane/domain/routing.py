"""The route table: all that a gateway needs to authenticate and route, as one value.

The control plane publishes it with a growing revision; a gateway keeps the last good copy on
disk and outlives the control plane with it.
"""

from dataclasses import dataclass

from tramontane.domain.tenancy import Role


@dataclass(frozen=True, slots=True)
class RouteKey:
    """An API key as a gateway knows it; the table is keyed by the HMAC of its text."""

    id: str
    project_id: str
    organization_id: str
    role: Role
    expires_at_ms: int | None = None
    requests_in_flight_max: int | None = None


@dataclass(frozen=True, slots=True)
class RouteReplica:
    """Where one replica answers. ``address`` is ``host:port``; ``secret`` is its bearer token."""

    id: str
    address: str
    secret: str


@dataclass(frozen=True, slots=True)
class Route:
    """What serves one model name in one project.

    ``upstream_model`` is the name that the engine answers to. ``retry_after_s`` is the honest
    wait when no replica is ready: measured start time less what has passed of it, or None when
    nothing is being started.
    """

    project_id: str
    model: str
    deployment_id: str
    upstream_model: str
    engine: str
    context_length: int
    created_at_ms: int
    replicas: tuple[RouteReplica, ...]
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class RouteTable:
    """One published revision. ``probe_deployment_id`` is the deployment that /ready asks about."""

    revision: int
    hmac_key: str
    keys: dict[str, RouteKey]
    routes: tuple[Route, ...]
    probe_deployment_id: str | None = None
