"""Whatever gateways ask, in whatever order, and whatever the clock does: no limit is exceeded."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tramontane.domain.spending.limits import Limit, LimitMeter, LimitScope, bound_of
from tramontane.domain.spending.slices import (
    DEAF_MS,
    HEARTBEAT_MS,
    HOLD_MAX_MS,
    SETTLED_MS,
    SILENCE_MAX_MS,
    SOON_MS,
    UNUSED_MS,
    WINDOW_MS,
    Ask,
    Books,
    Charge,
    Grant,
    Outdated,
    Reply,
    Report,
    Window,
    exchange,
    period_end_ms,
    period_of,
    period_start_ms,
    settle,
)

NOW_MS = 1_795_000_000_000  # 2026-11-18
LIMIT = Limit("lim", LimitScope.PROJECT, "prj", None, 10, 1_000, 4, 5)
LIMITS = {LIMIT.id: LIMIT}
GATEWAYS = ("a", "b", "c", "d")


@dataclass(slots=True)
class Gateway:
    """What one gateway remembers: its number, and what it was granted, by meter and window."""

    sequence: int = 0
    held: Counter[tuple[LimitMeter, int]] = field(default_factory=Counter[tuple[LimitMeter, int]])
    said: list[Report] = field(default_factory=list[Report])


@dataclass(slots=True)
class World:
    """The books and an independent count of what was handed out."""

    books: Books = field(default_factory=Books)
    now_ms: int = NOW_MS
    gateways: dict[str, Gateway] = field(default_factory=dict[str, Gateway])
    windows: Counter[tuple[LimitMeter, int]] = field(
        default_factory=Counter[tuple[LimitMeter, int]]
    )
    lives: Counter[str] = field(default_factory=Counter[str])

    def say(self, name: str, *asks: Ask, settled: tuple[str, ...] = ()) -> Reply:
        gateway = self.gateways.setdefault(name, Gateway())
        gateway.sequence += 1
        report = Report(f"{name}{self.lives[name]}", gateway.sequence, asks, settled)
        gateway.said.append(report)
        reply, self.books = exchange(self.books, LIMITS, report, self.now_ms)
        assert isinstance(reply, Reply)
        for ask, grant in zip(asks, reply.grants, strict=True):
            self._count(gateway, ask, grant)
        return reply

    def _count(self, gateway: Gateway, ask: Ask, grant: Grant) -> None:
        place = (ask.meter, grant.window)
        if ask.window == grant.window:
            self.windows[place] -= ask.give_back
        self.windows[place] += grant.granted
        gateway.held[place] += grant.granted
        assert 0 <= grant.granted <= ask.want + ask.extra
        assert (grant.retry_in_ms > 0) == (grant.granted < ask.want)
        assert 0 <= grant.remaining <= grant.bound

    def take_back(self, name: str, meter: LimitMeter, window: int, amount: int) -> Ask:
        """Return the ask that gives back at most what the gateway holds."""
        gateway = self.gateways.setdefault(name, Gateway())
        amount = min(amount, gateway.held[meter, window])
        gateway.held[meter, window] -= amount
        return Ask(LIMIT.id, meter, give_back=amount, window=window)

    def check(self) -> None:
        for (meter, window), amount in self.windows.items():
            if meter in {LimitMeter.REQUESTS, LimitMeter.TOKENS}:
                assert amount <= (bound_of(LIMIT, meter) or 0), (meter, window)
        for (_, meter, period), held in self.books.holds.items():
            standing = sum(amount for _, amount in held.values())
            spent = self.books.spent_nano.get((LIMIT.id, period), 0)
            assert standing + spent <= (bound_of(LIMIT, meter) or 0)
        in_flight = 0
        for name, gateway in self.gateways.items():
            known = self.books.holders.get(f"{name}{self.lives[name]}")
            if known is not None and not known.is_lapsed:
                in_flight += gateway.held[LimitMeter.IN_FLIGHT, known.lease]
        assert in_flight <= (LIMIT.requests_in_flight_max or 0)


amounts = st.sampled_from([0, 1, 2, 5, 50, 2_000, 1_000_000])
meters = st.sampled_from(list(LimitMeter))
steps = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(GATEWAYS), meters, amounts, amounts),
    st.tuples(st.just("give"), st.sampled_from(GATEWAYS), meters, amounts, st.integers(0, 3)),
    st.tuples(st.just("again"), st.sampled_from(GATEWAYS), st.integers(0, 5)),
    st.tuples(st.just("settle"), st.sampled_from(GATEWAYS), amounts),
    st.tuples(st.just("bury"), st.sampled_from(GATEWAYS), st.sampled_from(GATEWAYS)),
    st.tuples(
        st.just("wait"),
        st.sampled_from(
            [1, 1_000, HEARTBEAT_MS, DEAF_MS + 1, SILENCE_MAX_MS + 1, WINDOW_MS, HOLD_MAX_MS]
        ),
    ),
    st.tuples(st.just("step"), st.sampled_from([-1, -70_000, -3_600_000, 3_600_000])),
)


@given(st.lists(steps, max_size=60))
def test_no_limit_is_exceeded(course: list[tuple[Any, ...]]) -> None:
    world = World()
    for kind, *rest in course:
        _take(world, kind, rest)
        world.check()


def _take(world: World, kind: str, rest: list[Any]) -> None:
    match kind:
        case "ask":
            name, meter, want, extra = rest
            world.say(name, Ask(LIMIT.id, meter, want, extra))
        case "give":
            name, meter, amount, back = rest
            gateway = world.gateways.setdefault(name, Gateway())
            known = [window for of, window in gateway.held if of is meter] or [0]
            window = sorted(known)[-1 - min(back, len(known) - 1)]
            world.say(name, world.take_back(name, meter, window, amount))
        case "again":
            name, back = rest
            gateway = world.gateways.setdefault(name, Gateway())
            if f"{name}{world.lives[name]}" in world.books.holders:
                report = gateway.said[-1 - min(back, len(gateway.said) - 1)]
                reply, after = exchange(world.books, LIMITS, report, world.now_ms)
                assert after == world.books
                is_last = report.sequence == gateway.sequence
                assert isinstance(reply, Reply if is_last else Outdated)
        case "settle":
            name, cost = rest
            gateway = world.gateways.setdefault(name, Gateway())
            period = period_of(world.now_ms)
            cost = min(cost, gateway.held[LimitMeter.BUDGET, period])
            gateway.held[LimitMeter.BUDGET, period] -= cost
            charge = Charge(LIMIT.id, f"{name}{world.lives[name]}", period, cost)
            world.books = settle(world.books, [charge])
        case "bury":
            name, dead = rest
            if dead != name and dead in world.gateways:
                world.say(name, settled=(f"{dead}{world.lives[dead]}",))
                world.lives[dead] += 1
                del world.gateways[dead]
        case _:
            world.now_ms += rest[0]


def _exchange(
    books: Books, name: str, sequence: int, now_ms: int, *asks: Ask
) -> tuple[Reply, Books]:
    reply, books = exchange(books, LIMITS, Report(name, sequence, asks), now_ms)
    assert isinstance(reply, Reply)
    return reply, books


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(GATEWAYS), min_size=30, max_size=120),
    st.integers(1, 40),
    st.integers(0, 20),
)
def test_a_low_limit_is_used_up_by_whoever_asks(
    arrivals: list[str], bound: int, extra: int
) -> None:
    """Requests that arrive anywhere are admitted until the bound, though gateways ask ahead."""
    limits = {"lim": replace(LIMIT, requests_per_minute_max=bound)}
    books, now_ms, admitted = Books(), NOW_MS, 0
    free, unused_since = Counter[str](), dict[str, int]()
    sequences = Counter[str]()
    waiting = list(arrivals)

    def ask(name: str, **amounts: int) -> Grant:
        nonlocal books
        sequences[name] += 1
        asked = Ask("lim", LimitMeter.REQUESTS, window=1, **amounts)
        report = Report(name, sequences[name], (asked,))
        reply, books = exchange(books, limits, report, now_ms)
        assert isinstance(reply, Reply)
        return reply.grants[0]

    while now_ms < NOW_MS + WINDOW_MS - 5_000 and waiting:
        name = waiting.pop(0)
        if not free[name]:
            free[name] += ask(name, want=1, extra=extra).granted
            unused_since[name] = now_ms
        if free[name]:
            free[name] -= 1
            admitted += 1
        else:
            waiting.append(name)
        now_ms += 100
        for each in GATEWAYS:
            if free[each] and now_ms - unused_since[each] >= 1_000:
                ask(each, give_back=free[each])
                free[each] = 0
    assert admitted == min(bound, len(arrivals))


def test_a_burst_gets_exactly_the_limit_and_the_next_window_is_whole() -> None:
    asks = Ask(LIMIT.id, LimitMeter.REQUESTS, want=125)
    books, granted = Books(), 0
    for number, name in enumerate("abcdefgh"):
        reply, books = _exchange(books, name, 1, NOW_MS + number, asks)
        granted += reply.grants[0].granted
        assert reply.grants[0].retry_in_ms == WINDOW_MS - number
    assert granted == 10
    reply, books = _exchange(books, "a", 2, NOW_MS + WINDOW_MS, asks)
    assert (reply.grants[0].granted, reply.grants[0].window) == (10, 2)


def test_a_low_limit_is_not_asked_ahead() -> None:
    books = Books()
    for name in GATEWAYS:
        _, books = _exchange(books, name, 1, NOW_MS)
    ask = Ask(LIMIT.id, LimitMeter.REQUESTS, want=1, extra=100)
    reply, _ = _exchange(books, "a", 2, NOW_MS, ask)
    assert reply.grants[0].granted == 1


def test_what_was_asked_ahead_may_come_back_soon() -> None:
    ahead = Ask(LIMIT.id, LimitMeter.TOKENS, want=10, extra=100)
    _, books = _exchange(Books(), "a", 1, NOW_MS, ahead)
    rest = Ask(LIMIT.id, LimitMeter.TOKENS, want=2_000)
    reply, books = _exchange(books, "b", 1, NOW_MS, rest)
    assert (reply.grants[0].granted, reply.grants[0].retry_in_ms) == (890, SOON_MS)
    back = Ask(LIMIT.id, LimitMeter.TOKENS, give_back=100, window=1)
    _, books = _exchange(books, "a", 2, NOW_MS + 1_000, back)
    reply, _ = _exchange(books, "b", 2, NOW_MS + UNUSED_MS, rest)
    assert (reply.grants[0].granted, reply.grants[0].retry_in_ms) == (100, WINDOW_MS - UNUSED_MS)


def test_what_comes_back_after_its_window_is_void() -> None:
    ask = Ask(LIMIT.id, LimitMeter.REQUESTS, want=10)
    _, books = _exchange(Books(), "a", 1, NOW_MS, ask)
    _, books = _exchange(books, "b", 1, NOW_MS + WINDOW_MS, ask)
    late = Ask(LIMIT.id, LimitMeter.REQUESTS, give_back=10, window=1)
    reply, _ = _exchange(books, "a", 2, NOW_MS + WINDOW_MS, late)
    assert reply.grants[0].remaining == 0


def test_a_clock_that_steps_back_keeps_what_was_granted() -> None:
    ask = Ask(LIMIT.id, LimitMeter.REQUESTS, want=8)
    _, books = _exchange(Books(), "a", 1, NOW_MS, ask)
    reply, books = _exchange(books, "a", 2, NOW_MS - 3_600_000, ask)
    grant = reply.grants[0]
    assert (grant.granted, grant.window, grant.expires_in_ms) == (2, 1, WINDOW_MS)
    assert books.windows["lim", LimitMeter.REQUESTS] == Window(
        1, NOW_MS - 3_600_000, NOW_MS - 3_540_000, 10
    )


def test_a_silent_holder_loses_what_it_held_in_flight() -> None:
    ask = Ask(LIMIT.id, LimitMeter.IN_FLIGHT, want=3)
    first, books = _exchange(Books(), "dead", 1, NOW_MS, ask)
    now_ms, got, gateways = NOW_MS, 0, 0
    for sequence in range(1, 5):
        reply, books = _exchange(books, "b", sequence, now_ms, replace(ask, want=3 - got))
        gateways = reply.gateways
        got += reply.grants[0].granted
        assert got == (1 if now_ms <= NOW_MS + SILENCE_MAX_MS else 3)
        now_ms += HEARTBEAT_MS + 100
    assert (got, gateways) == (3, 1)
    # It was not dead after all: what it held is void, and it learns that from the new window.
    back = Ask(LIMIT.id, LimitMeter.IN_FLIGHT, want=3, give_back=3, window=first.grants[0].window)
    reply, books = _exchange(books, "dead", 2, now_ms, back)
    assert reply.grants[0].window == first.grants[0].window + 1
    assert (reply.grants[0].granted, reply.grants[0].retry_in_ms) == (1, SOON_MS)
    late = Ask(LIMIT.id, LimitMeter.IN_FLIGHT, give_back=1, window=first.grants[0].window)
    reply, _ = _exchange(books, "dead", 3, now_ms, late)
    assert reply.grants[0].remaining == 0


def test_a_control_plane_that_was_away_takes_nobody_for_dead() -> None:
    ask = Ask(LIMIT.id, LimitMeter.IN_FLIGHT, want=3)
    _, books = _exchange(Books(), "a", 1, NOW_MS, ask)
    reply, books = _exchange(books, "b", 1, NOW_MS + 300_000, ask)
    assert (reply.gateways, reply.grants[0].granted) == (2, 1)
    reply, books = _exchange(books, "a", 2, NOW_MS + 301_000)
    assert books.holders["a"].lease == 1


def test_a_budget_settles_to_the_cost_and_is_whole_again_after_the_month() -> None:
    ask = Ask(LIMIT.id, LimitMeter.BUDGET, want=4_000)
    reply, books = _exchange(Books(), "a", 1, NOW_MS, ask)
    period = reply.grants[0].window
    assert (period, reply.grants[0].remaining) == (202611, 1_000)
    books = settle(books, [Charge(LIMIT.id, "a", period, 2_500)])
    back = Ask(LIMIT.id, LimitMeter.BUDGET, give_back=1_500, window=period)
    reply, books = _exchange(books, "a", 2, NOW_MS, back)
    assert reply.grants[0].remaining == 2_500
    reply, books = _exchange(books, "b", 1, NOW_MS, ask)
    end_ms = period_end_ms(period)
    assert (reply.grants[0].granted, reply.grants[0].retry_in_ms) == (2_500, end_ms - NOW_MS)
    reply, books = _exchange(books, "b", 2, end_ms, ask)
    assert (reply.grants[0].granted, reply.grants[0].window) == (4_000, 202612)


def test_a_dead_holders_budget_stands_until_it_is_settled_or_a_day_passed() -> None:
    ask = Ask(LIMIT.id, LimitMeter.BUDGET, want=5_000)
    _, books = _exchange(Books(), "dead", 1, NOW_MS, ask)
    reply, books = _exchange(books, "b", 1, NOW_MS + 3_600_000, ask)
    assert reply.grants[0].granted == 0
    settled = Report("b", 2, (ask,), ("dead",))
    reply, _ = exchange(books, LIMITS, settled, NOW_MS + 3_600_000)
    assert isinstance(reply, Reply)
    assert (reply.grants[0].granted, reply.gateways) == (5_000, 1)
    reply, _ = _exchange(books, "b", 2, NOW_MS + HOLD_MAX_MS + 1, ask)
    assert reply.grants[0].granted == 5_000


def test_a_settled_holder_is_remembered_for_a_while() -> None:
    """Its last report may have been overtaken: it must not begin anew by that."""
    _, books = _exchange(Books(), "dead", 1, NOW_MS)
    _, books = exchange(books, LIMITS, Report("b", 1, (), ("dead",)), NOW_MS + 1_000)
    assert books.holders["dead"].is_lapsed
    late = Report("dead", 1, (Ask(LIMIT.id, LimitMeter.BUDGET, want=5_000),))
    reply, books = exchange(books, LIMITS, late, NOW_MS + 2_000)
    assert reply == Reply(1, ())
    _, books = _exchange(books, "b", 2, NOW_MS + 1_000 + SETTLED_MS + 1)
    assert set(books.holders) == {"b"}


def test_a_resent_report_gets_the_same_grants_with_the_time_that_is_left() -> None:
    ask = Ask(LIMIT.id, LimitMeter.REQUESTS, want=12)
    first, books = _exchange(Books(), "a", 1, NOW_MS, ask)
    again, after = _exchange(books, "a", 1, NOW_MS + 20_000, ask)
    assert after == books
    left = {"expires_in_ms": 40_000, "retry_in_ms": 40_000}
    assert again.grants[0] == replace(first.grants[0], **left)


@pytest.mark.parametrize("meter", list(LimitMeter))
def test_a_limit_that_is_not_there_grants_nothing(meter: LimitMeter) -> None:
    report = Report("a", 1, (Ask("gone", meter, want=3),))
    reply, _ = exchange(Books(), {"gone": Limit("gone", LimitScope.PROJECT, "p")}, report, 0)
    assert reply == Reply(1, (Grant("gone", meter, 0),))


@pytest.mark.parametrize(
    ("at_ms", "period"),
    [(0, 197001), (NOW_MS, 202611), (1_798_761_599_999, 202612), (1_798_761_600_000, 202701)],
)
def test_months(at_ms: int, period: int) -> None:
    assert period_of(at_ms) == period
    assert period_start_ms(period) <= at_ms < period_end_ms(period)
