"""What gateways pull and report, besides usage: the route table, and the demand that they see."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tramontane.domain.planning.demand import Demand
from tramontane.domain.routing import RouteTable
from tramontane.runtime.clock import Clock
from tramontane.store import demands, deployments, routes
from tramontane.store.db import Database


class RouteTables:
    """Reads what the route reconciler published."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def revision(self) -> int:
        """Return the current revision, 0 before the first; cheap enough to ask often."""
        with self._db.read() as tx:
            return routes.current_revision(tx)

    def current(self) -> RouteTable | None:
        """Return the current table, None before the first."""
        with self._db.read() as tx:
            return routes.current(tx)


@dataclass(frozen=True, slots=True)
class DeploymentDemand:
    """What a gateway says of one deployment; see `Demand`."""

    deployment_id: str
    requests_in_flight: int
    requests_queued: int
    tokens_per_s: int
    idle_ms: int


class Demands:
    """Takes what gateways say. ``wake`` is called when it can matter, outside of transactions."""

    def __init__(self, db: Database, clock: Clock, wake: Callable[[], None]) -> None:
        self._db = db
        self._clock = clock
        self._wake = wake

    def accept(self, gateway: str, holder: str, said: Sequence[DeploymentDemand]) -> None:
        """Record what one life of a gateway says of the deployments that scale by themselves.

        What it says of others is dropped: nobody asks for it, and gateways say it every second.
        """
        with self._db.read() as tx:
            autoscaled = deployments.autoscaled_ids(tx)
        now_ms = self._clock.now_ms()
        news = {
            item.deployment_id: Demand(
                gateway=gateway,
                holder=holder,
                deployment_id=item.deployment_id,
                requests_in_flight=item.requests_in_flight,
                requests_queued=item.requests_queued,
                tokens_per_s=item.tokens_per_s,
                idle_ms=item.idle_ms,
                at_ms=now_ms,
            )
            for item in said
            if item.deployment_id in autoscaled
        }
        if news:
            self._db.write(lambda tx: demands.record(tx, tuple(news.values()), now_ms))
            self._wake()
