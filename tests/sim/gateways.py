"""A simulated gateway: routes by the last table it got, spools usage, ships it with bad luck."""

import contextlib
import random

from tests.sim.cuts import Crash, CutDatabase
from tests.support.planning import typed_id
from tramontane.domain import ids
from tramontane.domain.routing import Route, RouteTable
from tramontane.domain.usage import Outcome, TokenSource, UsageEvent
from tramontane.services.gateways import Demands, DeploymentDemand
from tramontane.store import routes, usage

REQUESTS_PER_TICK_MAX = 3
BATCH_MAX = 5
IN_FLIGHT_MAX = 12


class SimGateway:
    """Every request that reached an engine becomes one event, whatever happens to the shipping."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.name = f"gw-{number}"
        self.events: list[UsageEvent] = []
        self.spool: list[UsageEvent] = []
        self._number = number
        self._chance = chance
        self._table: RouteTable | None = None
        self._asked: dict[str, int] = {}

    def ask(self, chance: random.Random, demands: Demands) -> None:
        """Have clients ask more or less of what scales by itself, and report that, with luck."""
        said: list[DeploymentDemand] = []
        for route in self._table.routes if self._table else ():
            before = self._asked.get(route.deployment_id, 0)
            change = chance.choice([-IN_FLIGHT_MAX, -1, 0, 0, 0, 0, 3])
            now = min(IN_FLIGHT_MAX, max(0, before + change))
            self._asked[route.deployment_id] = now
            if now or before:
                running = now if route.replicas else 0
                said.append(DeploymentDemand(route.deployment_id, running, now - running, 0, 0))
        if said and chance.random() < 0.8:
            with contextlib.suppress(Crash):
                demands.accept(self.name, f"life of {self.name}", said)

    def refresh(self, db: CutDatabase) -> None:
        with db.read() as tx:
            self._table = routes.current(tx)

    def serve(self, now_ms: int) -> None:
        """Answer a few requests, by the table of before, however old it is."""
        serving = [r for r in (self._table.routes if self._table else ()) if r.replicas]
        if serving:
            for _ in range(self._chance.randint(0, REQUESTS_PER_TICK_MAX)):
                event = self._event(self._chance.choice(serving), now_ms)
                self.events.append(event)
                self.spool.append(event)

    def ship(self, db: CutDatabase, now_ms: int, *, is_lucky: bool = False) -> None:
        """Send a batch: it may be lost, or its answer may be, and some events are sent twice."""
        batch = self.spool[:BATCH_MAX]
        if not batch:
            return
        luck = 1.0 if is_lucky else self._chance.random()
        if luck < 0.2:
            return
        again = self._chance.sample(self.events, min(2, len(self.events)))
        try:
            db.write(lambda tx: usage.accept(tx, [*batch, *again], now_ms))
        except Crash:
            return
        if luck >= 0.4:
            del self.spool[: len(batch)]

    def _event(self, route: Route, now_ms: int) -> UsageEvent:
        number = (self._number << 32) + len(self.events)
        return UsageEvent(
            id=typed_id(ids.USAGE_EVENT, number),
            request_id=typed_id(ids.REQUEST, number),
            organization_id="org",
            project_id=route.project_id,
            api_key_id="key",
            deployment_id=route.deployment_id,
            replica_id=self._chance.choice(route.replicas).id,
            model=route.model,
            endpoint="chat.completions",
            outcome=Outcome.COMPLETED,
            status=200,
            is_stream=False,
            prompt_tokens=self._chance.randint(1, 100),
            completion_tokens=self._chance.randint(1, 100),
            cached_tokens=0,
            token_source=TokenSource.ENGINE,
            started_at_ms=now_ms,
            duration_ms=10,
            first_byte_ms=5,
            gateway=self.name,
        )
