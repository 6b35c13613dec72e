"""The route table: all that a gateway needs to authenticate and route, as one value.

The control plane publishes it with a growing revision; a gateway keeps the last good copy on
disk and outlives the control plane with it.
"""

from dataclasses import dataclass, field

from tramontane.domain.catalog import UNKNOWN, Capabilities
from tramontane.domain.spending.limits import Limit
from tramontane.domain.spending.pricing import FREE, Prices
from tramontane.domain.tenancy import Role


@dataclass(frozen=True, slots=True)
class RouteKey:
    """An API key as a gateway knows it; the table is keyed by the HMAC of its text.

    ``limit_ids`` are the limits of its organization, its project and its own. ``models`` are the
    names that it may call, None for all. ``blocked`` says who was blocked ("organization",
    "project" or "key"). ``is_strict``: fields that no API has are refused. ``may_store``:
    responses may be kept.
    """

    id: str
    project_id: str
    organization_id: str
    role: Role
    expires_at_ms: int | None = None
    limit_ids: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    blocked: str | None = None
    is_strict: bool = False
    may_store: bool = False

    def may_call(self, model: str) -> bool:
        """Tell whether the key may call the model that is asked for as ``model``."""
        return self.models is None or model in self.models


@dataclass(frozen=True, slots=True)
class RouteReplica:
    """Where one replica answers. ``address`` is ``host:port``; ``secret`` is its bearer token."""

    id: str
    address: str
    secret: str


@dataclass(frozen=True, slots=True)
class RouteAdapter:
    """A LoRA adapter of a route: its name, and its place among the ``count`` of its replicas."""

    name: str
    index: int
    count: int


@dataclass(frozen=True, slots=True)
class Route:
    """What serves one model name in one project.

    ``upstream_model`` is the name that the engine answers to. ``retry_after_s`` is the honest
    wait when no replica is ready: measured start time less what has passed of it, or None when
    nothing is being started. ``start_ms`` is the measured start time. ``wakes``: a request starts
    replicas when none runs, so it may wait. Of every hundred requests ``canary_percent`` go to
    ``canary``, a route of the same project. ``adapter_count`` counts the adapters that the
    replicas have loaded; ``adapter`` is the one that this name stands for. ``capabilities`` say
    what the engine can be asked with these weights.
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
    start_ms: int = 0
    wakes: bool = False
    prices: Prices = FREE
    canary: "Route | None" = None
    canary_percent: int = 0
    adapter: RouteAdapter | None = None
    adapter_count: int = 0
    capabilities: Capabilities = UNKNOWN


@dataclass(frozen=True, slots=True)
class RouteTable:
    """One published revision. ``probe_deployment_id`` is the deployment that /ready asks about."""

    revision: int
    hmac_key: str
    keys: dict[str, RouteKey]
    routes: tuple[Route, ...]
    probe_deployment_id: str | None = None
    limits: dict[str, Limit] = field(default_factory=dict)
