"""Demand: what gateways say is asked of a deployment, and its sum over all of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# A gateway with traffic posts every second: one that was silent for so long is gone, and so are
# its requests.
SILENT_MS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Demand:
    """What one gateway said of one deployment at ``at_ms`` by the control plane's clock.

    ``holder`` names one life of the gateway's process. ``requests_in_flight`` are at replicas,
    ``requests_queued`` wait for one. ``idle_ms`` is how long before ``at_ms`` the last of them
    ended, 0 while there is one.
    """

    gateway: str
    holder: str
    deployment_id: str
    requests_in_flight: int
    requests_queued: int
    tokens_per_s: int
    idle_ms: int
    at_ms: int

    def is_fresh(self, now_ms: int) -> bool:
        """Tell whether it still counts; one from the future was written before a clock step."""
        return abs(now_ms - self.at_ms) <= SILENT_MS_MAX


@dataclass(frozen=True, slots=True)
class Load:
    """The demand for one deployment over all gateways. ``busy_at_ms``: when it last had any."""

    requests: int = 0
    tokens_per_s: int = 0
    busy_at_ms: int | None = None


def total_load(demands: Iterable[Demand], now_ms: int) -> Load:
    """Return the sum of the ``demands`` for one deployment that are fresh."""
    fresh = [demand for demand in demands if demand.is_fresh(now_ms)]
    requests = sum(d.requests_in_flight + d.requests_queued for d in fresh)
    tokens = sum(d.tokens_per_s for d in fresh)
    if requests or tokens:
        return Load(requests, tokens, now_ms)
    ended = [min(now_ms, d.at_ms) - d.idle_ms for d in fresh]
    return Load(busy_at_ms=max(ended, default=None))
