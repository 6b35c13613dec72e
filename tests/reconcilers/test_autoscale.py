"""The autoscale reconciler with the others: from a gateway's report to a route, and back."""

from dataclasses import replace

from tests.reconcilers.conftest import CountingDatabase, Small
from tests.support.planning import stored_deployment
from tramontane.domain.deployment import AutoscaleSpec, Deployment, DeploymentStatus
from tramontane.domain.planning.autoscale import first_scale
from tramontane.domain.routing import Route
from tramontane.reconcilers.autoscale import REST_S, WATCH_S, AutoscaleReconciler
from tramontane.services.gateways import Demands, DeploymentDemand
from tramontane.store import demands, deployments
from tramontane.store.db import Database, Transaction

SPEC = AutoscaleSpec(
    0, 3, requests_in_flight=4, idle_ms=20_000, up_cooldown_ms=2_000, down_cooldown_ms=10_000
)


class Scaled:
    """The small world with autoscaling, one deployment that scales, and a gateway."""

    def __init__(self, small: Small, replicas: int = 1) -> None:
        self.small = small
        self.wakes: list[str] = []
        made = stored_deployment(replicas=replicas)
        scale = first_scale(SPEC, replicas, small.clock.now_ms())
        self.id = small.want(replace(made, spec=replace(made.spec, autoscale=SPEC), scale=scale)).id
        self.autoscale = self.restarted()
        self.demands = Demands(small.db, small.clock, lambda: self.wakes.append("demand"))

    def restarted(self) -> AutoscaleReconciler:
        return AutoscaleReconciler(
            self.small.db, self.small.clock, wake=lambda: self.wakes.append("scale")
        )

    def say(self, in_flight: int = 0, queued: int = 0, holder: str = "one") -> None:
        said = DeploymentDemand(self.id, in_flight, queued, 0, 0)
        self.demands.accept("gw", holder, [said])

    def passes(self, count: int, in_flight: int | None = None) -> None:
        for _ in range(count):
            if in_flight is not None:
                self.say(in_flight)
            self.autoscale.step()
            self.small.passes()

    @property
    def deployment(self) -> Deployment:
        return self.small.deployment(self.id)

    @property
    def route(self) -> Route:
        (route,) = self.small.table().routes
        return route


def test_from_zero_to_many_and_back(small_on_both: Small) -> None:
    scaled = Scaled(small_on_both, replicas=0)
    scaled.passes(3)
    assert scaled.deployment.status is DeploymentStatus.STOPPED
    assert (scaled.route.wakes, scaled.route.replicas, scaled.route.retry_after_s) == (True, (), 5)

    scaled.say(queued=1)
    assert scaled.wakes == ["demand"]
    scaled.autoscale.step()
    assert scaled.wakes == ["demand", "scale"]
    assert scaled.deployment.wanted_replicas == 1
    scaled.small.routes.step()
    assert scaled.route.retry_after_s == 5, "nobody placed it yet, and something is being started"
    scaled.passes(4, in_flight=1)
    assert len(scaled.route.replicas) == 1
    assert scaled.route.start_ms == scaled.deployment.start_ms != 5_000, "as it was measured"

    scaled.passes(6, in_flight=11)
    assert scaled.deployment.wanted_replicas == len(scaled.route.replicas) == 3
    scaled.passes(14, in_flight=5)
    assert scaled.deployment.wanted_replicas == 2
    scaled.passes(60)
    assert scaled.deployment.status is DeploymentStatus.STOPPED
    assert scaled.route.replicas == ()
    told = [e.message for e in scaled.small.story(scaled.id) if e.kind.endswith("autoscaled")]
    assert told == [
        "replicas 0 -> 1: 1 request in flight, 4 per replica",
        "replicas 1 -> 3: 11 requests in flight, 4 per replica",
        "replicas 3 -> 2: 2 were enough for 10 s",
        "replicas 2 -> 1: 1 were enough for 10 s",
        "replicas 1 -> 0: no request for 20 s; the next one starts a replica",
    ]


def test_gateways_are_added_up_and_forgotten(small: Small) -> None:
    scaled = Scaled(small)
    scaled.passes(3, in_flight=3)
    scaled.say(5, holder="two")
    scaled.passes(1)
    assert scaled.deployment.wanted_replicas == 2
    scaled.passes(12, in_flight=3)
    assert scaled.deployment.wanted_replicas == 2, "the window since its last word is not over"
    scaled.passes(10, in_flight=3)
    assert scaled.deployment.wanted_replicas == 1
    with small.db.read() as tx:
        assert [demand.holder for demand in demands.list_all(tx)] == ["one"]


def test_a_restart_ends_nothing(small: Small) -> None:
    scaled = Scaled(small)
    scaled.passes(3, in_flight=1)
    small.clock.advance(300_000)
    scaled.autoscale = scaled.restarted()
    scaled.passes(19)
    assert scaled.deployment.wanted_replicas == 1
    scaled.passes(2)
    assert scaled.deployment.wanted_replicas == 0


def test_what_does_not_scale_by_itself_is_left_alone(small: Small) -> None:
    made = small.want(stored_deployment(replicas=2))
    small.passes(4)
    autoscale = AutoscaleReconciler(small.db, small.clock)
    said = [DeploymentDemand(made.id, 90, 9, 0, 0), DeploymentDemand("dep_gone", 1, 1, 0, 0)]
    Demands(small.db, small.clock, lambda: None).accept("gw", "one", said)
    assert autoscale.step() is False
    assert autoscale.pause_s() == REST_S
    assert small.deployment(made.id).wanted_replicas == 2
    with small.db.read() as tx:
        assert demands.list_all(tx) == [], "nobody asks for it"


def test_at_rest_nothing_is_written(sqlite_url: str) -> None:
    db = CountingDatabase(sqlite_url)
    try:
        scaled = Scaled(Small(db))
        scaled.passes(3, in_flight=1)
        scaled.passes(3)
        writes = db.writes
        for _ in range(5):
            scaled.autoscale.step()
        assert db.writes == writes
        assert 0 < scaled.autoscale.pause_s() <= WATCH_S
    finally:
        db.close()


def test_who_comes_between_is_not_overwritten(sqlite_url: str) -> None:
    """A change between look and write stands; the next pass decides from it."""

    class Between(CountingDatabase):
        change = False

        def write(self, fn):
            if self.change:
                self.change = False
                seen = scaled.deployment
                new = replace(seen, spec=replace(seen.spec, parallel=9), generation=2)
                Database.write(self, lambda tx: deployments.update(tx, seen, new))
            return super().write(fn)

    db = Between(sqlite_url)
    try:
        scaled = Scaled(Small(db), replicas=0)
        scaled.say(queued=1)
        db.change = True
        assert scaled.autoscale.step() is True, "it looks again soon"
        assert scaled.wakes == ["demand"]
        assert (scaled.deployment.spec.parallel, scaled.deployment.wanted_replicas) == (9, 0)
        assert scaled.autoscale.step() is False
        assert (scaled.deployment.spec.parallel, scaled.deployment.wanted_replicas) == (9, 1)
    finally:
        db.close()


def test_a_deleted_one_stays_deleted(small: Small) -> None:
    scaled = Scaled(small)
    scaled.passes(4, in_flight=1)
    gone = replace(scaled.deployment, deleted_at_ms=small.clock.now_ms())

    def delete(tx: Transaction) -> None:
        deployments.update(tx, scaled.deployment, gone)

    small.db.write(delete)
    scaled.passes(6, in_flight=9)
    assert scaled.deployment.wanted_replicas == 0
    assert scaled.deployment.status is DeploymentStatus.STOPPED
