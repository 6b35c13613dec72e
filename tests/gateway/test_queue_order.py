"""Who goes first when a replica has room, who gets a place, and what the queue adds up."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.gateway import HMAC_KEY, MODEL, make_route
from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.routing import Route, RouteKey, RouteReplica, RouteTable
from tramontane.domain.tenancy import Role
from tramontane.gateway.limits import Limits
from tramontane.gateway.routes import RouteIndex
from tramontane.gateway.routing.queue import WaitingQueue
from tramontane.gateway.routing.traffic import Traffic

LIMITS = Limits(replica_inflight_max=1_000)


class Sized:
    """As much of a call as the queue looks at."""

    def __init__(self, size_bytes: int = 100, model: str = MODEL) -> None:
        self.size_bytes = size_bytes
        self.model = model


class Waiting:
    """A request that waits, and writes down what it is told; it takes room when it goes."""

    def __init__(self, name: str, scene: "Scene", index: RouteIndex | None = None) -> None:
        self.name = name
        self.scene = scene
        self.told: str | Refusal | None = None

    def on_place(self) -> None:
        self.told = "go"
        self.scene.went.append(self.name)
        replica = next(iter(self.scene.index.replicas.values()))
        replica.inflight += 1

    def on_waited(self, refusal: Refusal) -> None:
        self.told = refusal


class Scene:
    """A queue and the table that it is flushed with. Projects are single letters."""

    def __init__(self, limits: Limits = LIMITS, **route: object) -> None:
        self.limits = limits
        self.firsts = 0
        self.went: list[str] = []
        self.queue = WaitingQueue(limits, self._first)
        self.asleep: dict[str, Route] = {}
        for project in "abc":
            made = make_route([], wakes=True, start_ms=10_000, project_id=project, **route)
            self.asleep[project] = made
        self.index = RouteIndex(self._table())

    def _first(self) -> None:
        self.firsts += 1

    def _table(self, *replicas: RouteReplica) -> RouteTable:
        routes = tuple(replace(route, replicas=replicas) for route in self.asleep.values())
        return RouteTable(1, HMAC_KEY, {}, routes)

    def wake(self, places: int) -> None:
        """Bring one replica with room for so many requests, and flush."""
        self.index = RouteIndex(self._table(RouteReplica("rep_x", "h:1", "s")), self.index)
        self.index.replicas["rep_x"].inflight = self.limits.replica_inflight_max - places
        self.queue.flush(self.index)

    def wait(
        self, name: str, *, now: float = 0.0, size_bytes: int = 100
    ) -> tuple[Waiting, Refusal | None]:
        """Let a request wait; ``name`` is project, key and a number, such as ``ax1``."""
        key = RouteKey(name[:2], name[0], "org", Role.MEMBER)
        waiter = Waiting(name, self)
        active = self.index.find(name[0], MODEL)
        assert active is not None
        call = Sized(size_bytes)
        return waiter, self.queue.wait(waiter, active, key, call, now, now)  # type: ignore[arg-type]

    def check(self) -> None:
        """The sums are those of the places."""
        queue = self.queue
        places = list(queue._places.values())
        assert queue.count == len(places)
        assert queue.bytes == sum(place.size_bytes for place in places)
        assert queue._by_project == Counter(place.key.project_id for place in places)
        lines = [w for line in queue._lines.values() for ks in line.values() for w in ks.values()]
        assert sum(map(len, lines)) == queue.count
        assert all(lines)
        traffic: dict[str, Traffic] = self.index.traffic
        assert sum(item.queued for item in traffic.values()) == queue.count


def test_projects_take_turns_and_within_them_keys():
    scene = Scene()
    for name in ("ax1", "ax2", "ax3", "ay1", "bx1", "bx2", "cx1"):
        assert scene.wait(name)[1] is None
    scene.wake(3)
    assert scene.went == ["ax1", "bx1", "cx1"]
    scene.wake(100)
    assert scene.went[3:] == ["ay1", "bx2", "ax2", "ax3"]
    scene.check()


def test_only_as_many_go_as_there_is_room_for():
    scene = Scene()
    for number in range(10):
        scene.wait(f"ax{number}")
    scene.wake(4)
    assert len(scene.went) == 4
    assert scene.queue.count == 6
    scene.wake(0)
    assert len(scene.went) == 4
    scene.check()


def test_only_the_first_of_a_deployment_is_told_of():
    scene = Scene()
    scene.wait("ax1")
    scene.wait("bx1")  # the same deployment, serving another project
    assert scene.firsts == 1
    scene.wake(9)
    scene.index = RouteIndex(scene._table(), scene.index)
    scene.wait("ax2")
    assert scene.firsts == 2


def test_the_deadline_is_half_as_long_again_as_a_start():
    scene = Scene(replace(LIMITS, queue_s_min=1.0))
    waiter, _ = scene.wait("ax1", now=100.0)
    scene.queue.sweep(114.9)
    assert waiter.told is None
    scene.queue.sweep(115.0)
    assert isinstance(waiter.told, Refusal)
    assert waiter.told.code is Code.NO_READY_REPLICA
    assert waiter.told.retry_after_s == 10
    scene.check()


@pytest.mark.parametrize(
    ("start_ms", "retry_after_s", "patience_s"),
    [(0, None, 20.0), (60_000, None, 90.0), (280_000, None, 300.0), (280_000, 4, 20.0)],
)
def test_the_deadline_has_bounds_and_knows_what_has_passed_of_the_start(
    start_ms: int, retry_after_s: int | None, patience_s: float
):
    scene = Scene()
    scene.asleep = {
        name: replace(route, start_ms=start_ms, retry_after_s=retry_after_s)
        for name, route in scene.asleep.items()
    }
    scene.index = RouteIndex(scene._table())
    waiter, refusal = scene.wait("ax1", now=50.0)
    assert refusal is None
    scene.queue.sweep(50.0 + patience_s - 0.1)
    assert waiter.told is None
    scene.queue.sweep(50.0 + patience_s)
    assert waiter.told is not None


def test_there_are_so_many_places():
    scene = Scene(replace(LIMITS, queue_max=3))
    found = [scene.wait(f"ax{number}")[1] for number in range(4)]
    assert found[:3] == [None] * 3
    assert found[3] is not None
    assert found[3].retry_after_s == 10
    scene.check()


def test_who_holds_the_most_gives_a_place_up():
    scene = Scene(replace(LIMITS, queue_max=4))
    mine = [scene.wait(f"ax{number}")[0] for number in range(4)]
    assert scene.wait("bx1")[1] is None
    assert [isinstance(waiter.told, Refusal) for waiter in mine] == [False] * 3 + [True]
    assert scene.wait("bx2")[1] is None
    assert scene.wait("bx3")[1] is not None  # two and two: nobody holds more
    assert scene.queue.count == 4
    scene.check()


def test_bodies_take_so_much_memory_and_a_project_half_of_it():
    scene = Scene(replace(LIMITS, queue_bytes_max=1_000))
    assert scene.wait("ax1", size_bytes=400)[1] is None
    assert scene.wait("ax2", size_bytes=200)[1] is not None
    assert scene.wait("bx1", size_bytes=500)[1] is None
    assert scene.wait("cx1", size_bytes=200)[1] is not None
    assert scene.wait("cx2", size_bytes=100)[1] is None
    scene.check()


def test_a_queue_that_is_closed_refuses_everybody():
    scene = Scene()
    waiter, _ = scene.wait("ax1")
    scene.queue.close()
    assert isinstance(waiter.told, Refusal)
    assert waiter.told.code is Code.UNAVAILABLE
    _, refusal = scene.wait("ax2")
    assert refusal is not None
    assert refusal.retry_after_s == 1
    scene.check()


def test_leaving_twice_or_without_a_place_is_nothing():
    scene = Scene()
    waiter, _ = scene.wait("ax1")
    scene.queue.leave(waiter)
    scene.queue.leave(waiter)
    scene.queue.leave(Waiting("bx1", scene))
    assert scene.queue.count == 0
    scene.check()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from(["ax", "ay", "bx", "cx"]), st.integers(1, 300)),
        st.tuples(st.just("leave"), st.integers(0, 30), st.none()),
        st.tuples(st.just("wake"), st.integers(0, 5), st.none()),
        st.tuples(st.just("sweep"), st.integers(1, 12), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_nobody_is_lost_and_nobody_is_told_twice(steps: list[tuple]):
    scene = Scene(replace(LIMITS, queue_max=8, queue_bytes_max=2_000, queue_s_min=1.0))
    waiters: list[Waiting] = []
    left: set[str] = set()
    now = 0.0
    for number, (what, one, two) in enumerate(steps):
        now += 0.5
        if what == "wait":
            waiter, refusal = scene.wait(f"{one}{number}", now=now, size_bytes=two)
            if refusal is None:
                waiters.append(waiter)
        elif what == "leave" and waiters:
            waiter = waiters[one % len(waiters)]
            scene.queue.leave(waiter)
            left.add(waiter.name)
        elif what == "wake":
            scene.wake(one)
        elif what == "sweep":
            now += one
            scene.queue.sweep(now)
        scene.check()
    scene.queue.close()
    assert scene.queue.count == 0
    assert len(scene.went) == len(set(scene.went))
    for waiter in waiters:
        assert waiter.told is not None or waiter.name in left
