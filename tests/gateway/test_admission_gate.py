"""The gate in simulated time: exact, fair, and right again after whatever went wrong."""

import random
from dataclasses import replace

import pytest

from tests.support.gates import Asked, World, make_key, make_limit, make_route
from tramontane.domain.refusal import Code
from tramontane.domain.spending.limits import LimitMeter
from tramontane.domain.spending.pricing import Prices, cost_nano
from tramontane.domain.spending.slices import Charge, period_of

EURO = 1_000_000  # in micro-euros


def count(asked: list[Asked]) -> int:
    return sum(item.is_in for item in asked)


def test_a_key_without_limits_costs_nothing_and_says_nothing():
    world = World()
    asked = world.gate("a").ask(make_key())
    assert asked.ticket is not None
    assert asked.ticket.header_lines() == b""
    asked.end()
    world.run(1)
    assert world.reports == []


@pytest.mark.parametrize("gates", [1, 2, 8])
def test_a_burst_over_many_gateways_gets_exactly_the_limit(gates: int):
    limit = make_limit(requests_per_minute_max=100)
    world = World(limit)
    key = make_key(limit)
    all_gates = [world.gate(f"g{number}") for number in range(gates)]
    asked = [all_gates[number % gates].ask(key) for number in range(1_000)]
    world.run(3)
    assert count(asked) == 100
    refused = [item.refusal for item in asked if item.refusal is not None]
    assert len(refused) == 900
    assert {refusal.code for refusal in refused} == {Code.RATE_LIMIT_EXCEEDED}
    waits = [refusal.retry_after_s or 0 for refusal in refused]
    assert 50 < min(waits) <= max(waits) <= 60
    assert "limit of 100 requests a minute of this project" in refused[0].message
    world.run(60)
    again = [all_gates[number % gates].ask(key) for number in range(1_000)]
    world.run(3)
    assert count(again) == 100


def test_a_low_limit_shared_by_four_gateways_neither_exceeds_nor_starves():
    """A client goes round the gateways: whoever it asks, the limit is the same."""
    limit = make_limit(requests_per_minute_max=6)
    world = World(limit)
    key = make_key(limit)
    gates = [world.gate(f"g{number}") for number in range(4)]
    for _ in range(3):
        asked = []
        for number in range(12):
            asked.append(gates[number % 4].ask(key))
            world.run(0.5)
        assert count(asked) == 6
        assert [item.is_in for item in asked[:6]] == [True] * 6
        world.run(60)


def test_a_limit_that_is_asked_for_one_by_one_is_spent_to_the_last():
    limit = make_limit(requests_per_minute_max=100)
    world = World(limit)
    key = make_key(limit)
    gates = [world.gate(f"g{number}") for number in range(4)]
    chance = random.Random(1)
    asked = []
    for _ in range(130):
        asked.append(chance.choice(gates).ask(key))
        world.run(0.2)
    world.run(5)
    assert count(asked) == 100


def test_a_steady_load_hardly_waits():
    limit = make_limit(requests_per_minute_max=60_000)
    world = World(limit)
    key = make_key(limit)
    gate = world.gate("a")
    waited = 0
    for number in range(3_000):
        asked = gate.ask(key)
        waited += number > 1_000 and asked.waits
        world.run(0.002)
    assert waited < 40
    assert len(world.reports) < 1_500


def test_every_limit_that_binds_has_to_have_room_and_nothing_is_taken_from_the_others():
    wide = make_limit(1, requests_per_minute_max=100)
    narrow = make_limit(2, requests_per_minute_max=3)
    other = make_limit(3, requests_per_minute_max=1, model="another")
    world = World(wide, narrow, other)
    gate = world.gate("a")
    asked = [gate.ask(make_key(wide, narrow, other)) for _ in range(10)]
    world.run(1)
    assert count(asked) == 3
    rest = [gate.ask(make_key(wide, name="key_b")) for _ in range(200)]
    world.run(1)
    assert count(rest) == 97


def test_tokens_are_reserved_and_settled_to_what_was_used():
    limit = make_limit(tokens_per_minute_max=1_000)
    world = World(limit)
    gate = world.gate("a")
    key = make_key(limit)
    asked = [gate.ask(key, completion=290) for _ in range(4)]
    world.run(0.5)
    assert count(asked) == 3  # of 300 tokens each
    assert asked[3].waits  # the others may give back
    asked[0].end((10, 40, 0))
    world.run(0.5)
    assert asked[3].is_in
    for item in asked[1:]:
        item.end((10, 240, 0))  # 50 + 3 * 250 = 800
    last = gate.ask(key, completion=290)
    world.run(3)
    assert last.refusal is not None
    assert last.refusal.code is Code.TOKEN_LIMIT_EXCEEDED
    assert (last.refusal.retry_after_s or 0) > 50
    fits = gate.ask(key, completion=190)
    world.run(1)
    assert fits.is_in


def test_more_tokens_than_the_whole_limit_are_admitted_when_nothing_else_runs():
    limit = make_limit(tokens_per_minute_max=100)
    world = World(limit)
    gate = world.gate("a")
    key = make_key(limit)
    first = gate.ask(key, completion=5_000)
    world.run(1)
    assert first.is_in
    first.end((10, 400, 0))
    second = gate.ask(key, completion=1)
    world.run(3)
    assert second.refusal is not None  # what was used beyond the limit is a debt of its minute
    world.run(60)
    third = gate.ask(key, completion=1)
    world.run(1)
    assert third.is_in


def test_what_ends_in_a_later_minute_gives_nothing_back_to_it():
    limit = make_limit(tokens_per_minute_max=1_000)
    world = World(limit)
    gate = world.gate("a")
    key = make_key(limit)
    old = gate.ask(key, completion=990)
    world.run(61)
    assert old.is_in
    new = gate.ask(key, completion=990)
    world.run(1)
    assert new.is_in
    old.end((10, 0, 0))
    another = gate.ask(key, completion=90)
    world.run(0.5)
    assert not another.is_in


def test_what_ends_in_a_later_month_gives_nothing_back_to_it():
    limit = make_limit(budget_micro=EURO)
    world = World(limit, start_ms=1_764_547_100_000)  # 2025-11-30T23:58:20Z
    gate = world.gate("a")
    route = make_route(PRICES, context_length=1 << 20)
    old = gate.ask(make_key(limit), route, prompt=0, completion=300_000)
    world.run(200)
    new = gate.ask(make_key(limit), route, prompt=0, completion=300_000)
    world.run(1)
    assert old.is_in
    assert new.is_in
    old.end((0, 0, 0), 0)
    another = gate.ask(make_key(limit), route, prompt=0, completion=90_000)
    world.run(0.5)
    assert not another.is_in


@pytest.mark.parametrize(("bound", "gates"), [(1, 3), (2, 4), (5, 2), (8, 4)])
def test_requests_in_flight_are_never_more_and_every_gateway_gets_its_turn(bound: int, gates: int):
    limit = make_limit(requests_in_flight_max=bound)
    world = World(limit)
    key = make_key(limit)
    all_gates = [world.gate(f"g{number}", waiting_s=30.0) for number in range(gates)]
    chance = random.Random(bound * 10 + gates)
    running: list[tuple[float, Asked]] = []
    waiting: list[Asked] = []
    served = dict.fromkeys(all_gates, 0)
    end = world.now + 30
    while world.now < end:
        for gate in all_gates:  # each always has one more that wants in
            if not any(item.gate is gate and item.waits for item in waiting):
                waiting.append(gate.ask(key))
        for item in [item for item in waiting if item.is_in]:
            waiting.remove(item)
            running.append((world.now + chance.uniform(0.01, 0.2), item))
            served[item.gate] += 1
        waiting = [item for item in waiting if item.waits]
        assert len(running) <= bound
        for at, item in [pair for pair in running if pair[0] <= world.now]:
            running.remove((at, item))
            item.end()
        world.run(0.01)
    assert min(served.values()) > 5, served


def test_requests_in_flight_beyond_the_limit_are_refused_at_once_where_all_are_known():
    limit = make_limit(requests_in_flight_max=2)
    world = World(limit)
    gate = world.gate("a")
    asked = [gate.ask(make_key(limit)) for _ in range(3)]
    world.run(0.2)
    assert count(asked) == 2
    refusal = asked[2].refusal
    assert refusal is not None
    assert refusal.code is Code.RATE_LIMIT_EXCEEDED
    assert "2 requests in flight" in refusal.message
    asked[0].end()
    later = gate.ask(make_key(limit))
    assert later.is_in


PRICES = Prices(prompt_micro=1_000_000, completion_micro=3_000_000)  # 1 and 3 euros a million


def test_a_budget_is_never_overspent_and_whole_again_after_the_month():
    limit = make_limit(budget_micro=10 * EURO)
    november_30 = 1_764_543_000_000  # 2025-11-30T22:50:00Z
    world = World(limit, start_ms=november_30)
    route = make_route(PRICES, context_length=1 << 20)
    key = make_key(limit)
    gates = [world.gate(f"g{number}") for number in range(4)]
    chance = random.Random(7)
    spent = 0
    most = cost_nano(PRICES, 20_000, 20_000)
    asked = []
    for number in range(400):
        item = gates[number % 4].ask(key, route, prompt=20_000, completion=20_000)
        world.run(0.3)
        if item.is_in:
            used = (20_000, chance.randint(0, 20_000), 0)
            cost = cost_nano(PRICES, *used)
            spent += cost
            item.end(used, cost)
            period = period_of(world.now_ms)
            world.accept((Charge(limit.id, item.gate.name, period, cost),))
        asked.append(item)
    world.run(3)
    for item in asked:
        if item.is_in and not item.is_over:
            spent += most
            item.end((20_000, 20_000, 0), most)
            charge = Charge(limit.id, item.gate.name, period_of(world.now_ms), most)
            world.accept((charge,))
    world.run(3)
    asked.append(gates[0].ask(key, route, prompt=20_000, completion=20_000))
    world.run(3)
    assert 10 * EURO * 1_000 - 2 * most < spent <= 10 * EURO * 1_000
    assert asked[-1].refusal is not None
    assert asked[-1].refusal.code is Code.INSUFFICIENT_QUOTA
    assert "10 EUR" in asked[-1].refusal.message
    assert asked[-1].refusal.retry_after_s == pytest.approx(4_000, abs=150)
    world.run(70 * 60)
    december = []
    for number in range(150):  # each holds 0.08 euros
        december.append(gates[number % 4].ask(key, route, prompt=20_000, completion=20_000))
        world.run(0.3)
    world.run(3)
    assert most * count(december) <= 10 * EURO * 1_000 < most * (count(december) + 1)


def test_a_request_that_could_cost_more_than_the_budget_is_told_so():
    limit = make_limit(budget_micro=EURO)
    world = World(limit)
    asked = world.gate("a").ask(
        make_key(limit), make_route(PRICES, context_length=1 << 20), completion=400_000
    )
    assert asked.refusal is not None
    assert asked.refusal.code is Code.INSUFFICIENT_QUOTA
    assert "1.20001 EUR" in asked.refusal.message
    assert "lower max_tokens" in asked.refusal.message


def test_what_is_free_does_not_ask_a_budget():
    limit = make_limit(budget_micro=0)
    world = World(limit)
    gate = world.gate("a")
    assert gate.ask(make_key(limit)).is_in
    costs = gate.ask(make_key(limit), make_route(PRICES))
    world.run(1)
    assert costs.refusal is not None


def test_the_books_of_a_gateway_and_of_the_control_plane_agree():
    """After everything ended and was given back, the control plane holds nothing for anybody."""
    limit = make_limit(
        budget_micro=10 * EURO, requests_in_flight_max=50, tokens_per_minute_max=10_000_000
    )
    world = World(limit)
    route = make_route(PRICES)
    gates = [world.gate(f"g{number}") for number in range(3)]
    chance = random.Random(3)
    running: list[Asked] = []
    spent = 0
    for _ in range(2_000):
        running.append(chance.choice(gates).ask(make_key(limit), route))
        world.run(0.005)
        for item in [item for item in running if item.is_in and chance.random() < 0.2]:
            running.remove(item)
            used = (10, chance.randint(0, 90), 0)
            cost = cost_nano(PRICES, *used)
            item.end(used, cost)
            spent += cost
            world.accept((Charge(limit.id, item.gate.name, period_of(world.now_ms), cost),))
        if chance.random() < 0.01:
            world.lose_replies = 1
    for _ in range(5):
        for item in running:
            if item.is_in and not item.is_over:
                item.end(None, 0)
        world.run(3)
    assert not [item for item in running if item.waits]
    held = {
        key: sum(amount for _, amount in holds.values()) for key, holds in world.books.holds.items()
    }
    assert set(held.values()) == {0}, held
    assert sum(world.books.spent_nano.values()) == spent
    budgets = [key for key in held if key[1] is LimitMeter.BUDGET]
    assert budgets


def test_a_lost_reply_is_asked_for_again_and_counts_once():
    limit = make_limit(requests_per_minute_max=10)
    world = World(limit)
    gate = world.gate("a")
    world.lose_replies = 1
    asked = [gate.ask(make_key(limit)) for _ in range(10)]
    world.run(2)
    assert count(asked) == 10
    assert world.reports[0] == world.reports[1]
    assert next(iter(world.books.windows.values())).granted == 10


def test_without_a_control_plane_each_gateway_keeps_to_its_share():
    limit = make_limit(
        requests_per_minute_max=100, requests_in_flight_max=1_000, tokens_per_minute_max=10**6
    )
    world = World(limit)
    key = make_key(limit)
    gates = [world.gate(f"g{number}") for number in range(4)]
    for gate in gates:
        gate.ask(key)
    world.run(6)  # all have heard of each other by now
    for gate in gates:
        gate.ask(key)
    world.run(2)
    world.is_up = False
    world.run(60)
    for _ in range(3):
        asked = [gates[number % 4].ask(key) for number in range(400)]
        world.run(5)
        assert count(asked) == 100
        assert not [item for item in asked if item.waits]
        assert {item.refusal.code for item in asked if item.refusal} == {Code.RATE_LIMIT_EXCEEDED}
        world.run(57)
    for gate in gates:  # each begins a share of 25 and spends one of it
        gate.ask(key)
    world.is_up = True
    while any(gate.leases.is_away for gate in gates):
        world.run(0.05)
    back = [gates[number % 4].ask(key) for number in range(400)]
    world.run(3)
    assert count(back) == 100


def test_without_a_control_plane_a_share_of_tokens_admits_a_request_that_could_take_all():
    limit = make_limit(tokens_per_minute_max=4_000)
    world = World(limit)
    key = make_key(limit)
    gates = [world.gate(f"g{number}") for number in range(4)]
    for _ in range(2):
        for gate in gates:
            early = gate.ask(key, completion=5)
            world.run(0.1)
            early.end((10, 5, 0))
        world.run(6)
    world.is_up = False
    world.run(60)
    asked = [gate.ask(key, completion=50_000) for gate in gates]
    world.run(3)
    assert count(asked) == 4
    for item in asked:
        item.end((10, 40, 0))
    again = [gate.ask(key, completion=50_000) for gate in gates]
    world.run(1)
    assert count(again) == 0
    assert count([gate.ask(key, completion=900) for gate in gates]) == 4


def test_the_first_start_without_a_control_plane_goes_by_what_was_last_known():
    limit = make_limit(requests_per_minute_max=100)
    world = World(limit)
    world.is_up = False
    gate = world.gate("a", gateways=4)
    asked = [gate.ask(make_key(limit)) for _ in range(60)]
    world.run(2.5)
    assert count(asked) == 25


def test_without_a_control_plane_a_budget_is_what_is_held():
    limit = make_limit(budget_micro=10 * EURO)
    world = World(limit)
    gate = world.gate("a")
    route = make_route(PRICES)
    first = gate.ask(make_key(limit), route)
    world.run(0.1)
    assert first.is_in
    world.is_up = False
    first.end((10, 0, 0), 10_000)
    second = gate.ask(make_key(limit), route, completion=80)
    assert second.is_in  # from what the first one gave back
    third = gate.ask(make_key(limit), route, completion=80)
    world.run(3)
    assert third.refusal is not None
    assert third.refusal.code is Code.UNAVAILABLE
    assert "budget" in third.refusal.message
    world.is_up = True
    world.run(2)
    fourth = gate.ask(make_key(limit), route)
    world.run(1)
    assert fourth.is_in


def test_a_short_absence_of_the_control_plane_is_only_waited_for():
    limit = make_limit(requests_per_minute_max=5)
    world = World(limit)
    gate = world.gate("a")
    world.is_up = False
    asked = [gate.ask(make_key(limit)) for _ in range(8)]
    world.run(0.6)
    assert all(item.waits for item in asked)
    world.is_up = True
    world.run(2)
    assert count(asked) == 5


def test_a_gateway_that_was_cut_off_learns_that_its_permits_went_to_another():
    limit = make_limit(requests_in_flight_max=4)
    world = World(limit)
    one, two = world.gate("one"), world.gate("two")
    key = make_key(limit)
    kept = [one.ask(key) for _ in range(4)]
    world.run(1)
    assert count(kept) == 4
    one.line.is_up = False
    asked = []
    for _ in range(25):
        asked.append(two.ask(key))
        world.run(1)
    taken = [item for item in asked if item.is_in]
    assert len(taken) == 4
    assert asked.index(taken[0]) > 10  # not before the permits had lapsed
    one.line.is_up = True
    world.run(3)
    for item in kept[:3]:
        item.end()
    late = one.ask(key)
    world.run(1)
    assert not late.is_in  # one of its own still runs, and four of the other
    for item in [*kept[3:], *taken]:
        item.end()
    world.run(3)
    last = one.ask(key)
    world.run(0.5)
    assert last.is_in


def test_a_dead_gateways_budget_comes_back_once_its_books_were_handed_in():
    limit = make_limit(budget_micro=EURO)
    world = World(limit)
    route = make_route(PRICES, context_length=1 << 20)
    dead = world.gate("dead").ask(make_key(limit), route, prompt=0, completion=300_000)
    world.run(0.5)
    assert dead.is_in
    dead.gate.line.is_up = False
    heir = world.gate("heir")
    early = heir.ask(make_key(limit), route, prompt=0, completion=100_000)
    world.run(3)
    assert early.refusal is not None
    heir.settled.names = ("dead",)
    heir.admission.start()
    world.run(1)
    assert heir.settled.told == ["dead"]
    late = heir.ask(make_key(limit), route, prompt=0, completion=100_000)
    world.run(0.5)
    assert late.is_in


def test_a_limit_that_changes_counts_at_once_and_who_waits_is_asked_for_anew():
    limit = make_limit(requests_per_minute_max=2)
    world = World(limit)
    gate = world.gate("a")
    key = make_key(limit)
    asked = [gate.ask(key) for _ in range(3)]
    world.run(0.5)
    assert count(asked) == 2
    for bound, further in ((5, 3), (1, 0), (None, 50)):
        changed = make_limit(requests_per_minute_max=bound)
        world.limits = {changed.id: changed}
        gate.apply(world.limits, key)
        more = [gate.ask(key) for _ in range(50)]
        world.run(1)
        assert count(more) == further, bound


def test_who_waits_is_refused_when_the_key_is_revoked_or_blocked():
    limit = make_limit(requests_per_minute_max=2)
    world = World(limit)
    gate = world.gate("a")
    world.is_up = False
    gone, blocked, narrowed, stays = (
        make_key(limit, name=f"key_{name}") for name in ("gone", "blocked", "narrowed", "stays")
    )
    asked = [gate.ask(key) for key in (gone, blocked, narrowed, stays)]
    gate.apply(
        world.limits,
        replace(blocked, blocked="project"),
        replace(narrowed, models=("another",)),
        stays,
    )
    world.run(0.01)
    codes = [item.refusal.code if item.refusal else None for item in asked]
    assert codes == [
        Code.INVALID_API_KEY,
        Code.PERMISSION_DENIED,
        Code.MODEL_NOT_ALLOWED,
        None,
    ]
    world.is_up = True
    world.run(1)
    assert asked[3].is_in


def test_a_model_that_the_key_may_not_call():
    refused = World().gate("a").ask(make_key(models=("another",)))
    assert refused.refusal is not None
    assert refused.refusal.code is Code.MODEL_NOT_ALLOWED
    assert refused.refusal.param == "model"


def test_projects_that_share_a_limit_are_served_in_turn():
    limit = make_limit(requests_per_minute_max=10)
    world = World(limit)
    gate = world.gate("a")
    big, small = make_key(limit), make_key(limit, name="key_b", project="prj_b")
    many = [gate.ask(big) for _ in range(100)]
    few = [gate.ask(small) for _ in range(5)]
    world.run(2)
    assert count(few) == 5
    assert count(many) == 5


def test_a_queue_is_bounded_as_a_whole_and_for_one_project():
    limit = make_limit(requests_per_minute_max=100)
    world = World(limit)
    gate = world.gate("a", waiting_max=8, waiting_project_max=5)
    mine = [gate.ask(make_key(limit)) for _ in range(10)]
    assert sum(item.waits for item in mine) == 5
    others = [gate.ask(make_key(limit, name="b", project="prj_b")) for _ in range(10)]
    assert sum(item.waits for item in others) == 3
    refusal = mine[-1].refusal
    assert refusal is not None
    assert refusal.code is Code.RATE_LIMIT_EXCEEDED
    assert refusal.retry_after_s == 1


def test_nobody_is_overtaken_by_those_who_need_less_of_the_same():
    limit = make_limit(tokens_per_minute_max=1_000)
    world = World(limit)
    gate = world.gate("a")
    key = make_key(limit)
    first = gate.ask(key, completion=890)
    world.run(0.1)
    big = gate.ask(key, completion=490)
    world.run(0.1)
    small = gate.ask(key, completion=40)
    assert big.waits
    assert small.waits
    first.end((10, 440, 0))
    world.run(0.1)
    assert big.is_in
    assert small.is_in


def test_who_leaves_the_queue_takes_nothing():
    limit = make_limit(requests_per_minute_max=5)
    world = World(limit)
    gate = world.gate("a")
    asked = [gate.ask(make_key(limit)) for _ in range(3)]
    gate.admission.leave_queue(asked[1])
    world.run(1)
    assert [item.is_in for item in asked] == [True, False, True]
    assert asked[1].waits
    gate.admission.leave_queue(asked[1])


def test_headers_tell_the_tightest_limit_in_both_forms():
    wide = make_limit(1, requests_per_minute_max=1_000, tokens_per_minute_max=5_000)
    narrow = make_limit(2, requests_per_minute_max=10)
    world = World(wide, narrow)
    gate = world.gate("a")
    asked = gate.ask(make_key(wide, narrow))
    world.run(1)
    assert asked.ticket is not None
    before = asked.ticket.header_lines().decode()
    assert "tokens-query-cost" not in before
    asked.end((10, 20, 5))
    told = dict(line.split(": ") for line in asked.ticket.header_lines().decode().splitlines())
    assert told == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": told["x-ratelimit-reset-requests"],
        "x-ratelimit-limit-req-minute": "10",
        "x-ratelimit-remaining-req-minute": "9",
        "x-ratelimit-limit-tokens": "5000",
        "x-ratelimit-remaining-tokens": "4970",
        "x-ratelimit-reset-tokens": told["x-ratelimit-reset-tokens"],
        "x-ratelimit-limit-tokens-minute": "5000",
        "x-ratelimit-remaining-tokens-minute": "4970",
        "x-ratelimit-tokens-query-cost": "30",
    }
    assert told["x-ratelimit-reset-requests"] in {"59s", "1m0s"}
    assert gate.admission.header_lines(make_key(narrow), None).startswith(
        b"x-ratelimit-limit-requests: 10\r\n"
    )
    assert gate.admission.header_lines(make_key(), None) == b""
