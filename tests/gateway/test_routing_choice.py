"""Which replica a prefix belongs to, what moves when replicas come and go, how load bounds it."""

from collections import Counter
from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.gateway import make_route, make_table
from tramontane.domain.routing import RouteReplica
from tramontane.gateway.routes import ActiveRoute, RouteIndex
from tramontane.gateway.routing.choice import HEIRS_MAX, LOAD_MIN, has_room, pick
from tramontane.gateway.routing.prefix import (
    OTHER_CHARACTERS,
    USER_CHARACTERS,
    prefix_of,
)
from tramontane.gateway.routing.ring import Ring
from tramontane.gateway.routing.traffic import Traffic
from tramontane.gateway.upstream.replica import Replica

KEYS = [number * 2_654_435_761 % 2**32 for number in range(2_000)]


def replicas_of(count: int, first: int = 0) -> list[Replica]:
    return [Replica(f"rep_{number}", f"h:{number + 1}", "s") for number in range(first, count)]


def active_of(count: int) -> ActiveRoute:
    return ActiveRoute(make_route([]), tuple(replicas_of(count)), Traffic("dep_x"))


def share_of(ring: Ring) -> Counter[str]:
    return Counter(ring.owner(key).id for key in KEYS)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.data())
def test_a_replica_that_goes_moves_only_its_own_prefixes(count: int, data: st.DataObject):
    replicas = replicas_of(count + 1)
    gone = data.draw(st.sampled_from(replicas))
    before, after = Ring(replicas), Ring([item for item in replicas if item is not gone])
    moved = [key for key in KEYS if before.owner(key) is not after.owner(key)]
    assert all(before.owner(key) is gone for key in moved)
    assert len(moved) == share_of(before)[gone.id]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12))
def test_a_replica_that_comes_takes_its_share_and_nothing_else_moves(count: int):
    replicas = replicas_of(count + 1)
    before, after = Ring(replicas[:-1]), Ring(replicas)
    moved = [key for key in KEYS if before.owner(key) is not after.owner(key)]
    assert {after.owner(key) for key in moved} <= {replicas[-1]}
    assert len(moved) < 2 * len(KEYS) / (count + 1)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_prefixes_are_shared_out(count: int):
    shares = share_of(Ring(replicas_of(count)))
    assert len(shares) == count
    assert max(shares.values()) < 1.4 * len(KEYS) / count


def test_every_gateway_and_every_order_finds_the_same_owner():
    one = Ring(replicas_of(5))
    two = Ring(list(reversed(replicas_of(5))))
    assert [one.owner(key).id for key in KEYS] == [two.owner(key).id for key in KEYS]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=2, max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_no_replica_is_taken_for_its_prefix_above_the_bound(loads: list[int], prefix: int):
    active = active_of(len(loads))
    for replica, load in zip(active.replicas, loads, strict=True):
        replica.inflight = load
    found = pick(active, prefix, 1.0, [], 1_000)
    assert found is not None
    mean = (sum(loads) + 1) / len(loads)
    is_least = found.inflight == min(loads)
    assert is_least or found.inflight + 1 < max(LOAD_MIN, mean * 1.25) + 1
    owner = Ring(active.replicas).owner(prefix)
    if owner.inflight + 1 <= max(LOAD_MIN, mean * 1.25):
        assert found is owner


def test_a_hot_prefix_spreads_over_all():
    active = active_of(4)
    for _ in range(100):
        found = pick(active, 7, 1.0, [], 1_000)
        assert found is not None
        found.inflight += 1
    assert max(item.inflight for item in active.replicas) <= 32  # 1.25 * 100 / 4, rounded up
    assert min(item.inflight for item in active.replicas) >= 4


def test_the_owner_gets_its_prefix_back_when_it_has_room_again():
    active = active_of(3)
    owner = pick(active, 99, 1.0, [], 1_000)
    assert owner is not None
    owner.inflight = 50
    heir = pick(active, 99, 1.0, [], 1_000)
    assert heir is not owner
    assert pick(active, 99, 1.0, [], 1_000) is heir  # the same one, while it lasts
    owner.inflight = 0
    assert pick(active, 99, 1.0, [], 1_000) is owner


def test_aside_tried_retired_and_full_replicas_are_passed_over():
    active = active_of(3)
    owner = pick(active, 5, 1.0, [], 10)
    assert owner is not None
    owner.aside_until = 2.0
    assert pick(active, 5, 1.0, [], 10) is not owner
    assert pick(active, 5, 2.0, [], 10) is owner
    assert pick(active, 5, 3.0, [owner], 10) is not owner
    owner.inflight = 10
    assert pick(active, 5, 3.0, [], 10) is not owner
    for replica in active.replicas:
        replica.inflight = 10
    assert has_room(active, 10) is False
    assert pick(active, 5, 3.0, [], 10) is None
    owner.inflight = 9
    assert pick(active, 5, 3.0, [], 10) is owner
    owner.is_retired = True
    assert has_room(active, 10) is False


def test_when_all_are_aside_one_is_still_tried():
    active = active_of(2)
    for replica in active.replicas:
        replica.aside_until = 9.0
    assert pick(active, 5, 1.0, [], 10) is not None
    assert pick(active, None, 1.0, [], 10) is not None


def test_a_full_replica_is_awaited_rather_than_an_ejected_one_tried():
    active = active_of(2)
    sound, ejected = active.replicas
    ejected.is_suspect, ejected.aside_until, ejected.eject_s = True, 9.0, 5.0
    sound.inflight = 10
    assert pick(active, None, 1.0, [], 10) is None
    assert pick(active, 5, 1.0, [], 10) is None
    assert has_room(active, 10) is False
    assert pick(active, None, 1.0, [sound], 10) is ejected  # nothing else is left
    ejected.aside_until = 9.0
    assert pick(active, None, 10.0, [], 10) is ejected  # a probe
    assert pick(active, None, 11.0, [], 10) is None  # one at a time
    sound.inflight = 9
    assert pick(active, None, 11.0, [], 10) is sound


def test_without_a_prefix_the_least_loaded_is_taken_and_ties_are_shared_out():
    active = active_of(3)
    active.replicas[1].inflight = 1
    found = Counter(item.id for _ in range(30) if (item := pick(active, None, 1.0, [], 10)))
    assert found == {"rep_0": 15, "rep_2": 15} or set(found) == {"rep_0", "rep_2"}


def test_more_replicas_than_heirs_looked_at_still_find_one():
    active = active_of(64)
    for replica in active.replicas[1:]:
        replica.inflight = 9
    assert pick(active, 5, 1.0, [], 9) is active.replicas[0]
    assert HEIRS_MAX < 64


@pytest.mark.parametrize("percent", [0, 1, 7, 30, 50, 99, 100])
def test_any_hundred_requests_hold_exactly_the_canarys_share(percent: int):
    route = make_route([], canary=make_route([]), canary_percent=percent)
    active = ActiveRoute(route, (), Traffic("dep_x"))
    taken = [active.takes_canary() for _ in range(350)]
    assert {sum(taken[at : at + 100]) for at in range(250)} == {percent}


# What identifies a prefix.

SYSTEM = {"role": "system", "content": "You answer about winds."}
FIRST = {"role": "user", "content": "Where does the tramontane blow?"}
LATER = [{"role": "assistant", "content": "In the south."}, {"role": "user", "content": "And now?"}]


@given(st.text(max_size=3_000), st.text(max_size=3_000), st.lists(st.text(max_size=50), max_size=5))
def test_the_turns_of_a_conversation_have_one_prefix(system: str, first: str, later: list[str]):
    try:
        orjson.dumps([system, first, later])
    except TypeError:
        return  # half a surrogate pair, which no body can hold
    head = [{"role": "system", "content": system}, {"role": "user", "content": first}]
    turns = [head]
    for number, text in enumerate(later):
        role = ("assistant", "user")[number % 2]
        turns.append([*turns[-1], {"role": role, "content": text}])
    assert len({prefix_of(turn, 1) for turn in turns}) == 1
    for one, two in pairwise(turns):
        assert prefix_of(one, 1) == prefix_of(two, 1)


def test_other_questions_systems_and_projects_are_other_prefixes():
    found = {
        prefix_of([SYSTEM, FIRST], 1),
        prefix_of([SYSTEM, {**FIRST, "content": "Where does the mistral blow?"}], 1),
        prefix_of([{**SYSTEM, "content": "You answer about seas."}, FIRST], 1),
        prefix_of([SYSTEM, FIRST], 2),
        prefix_of([FIRST], 1),
    }
    assert len(found) == 5
    assert prefix_of([SYSTEM, FIRST, *LATER], 1) in found


def test_only_the_head_of_a_long_message_counts():
    long = "w" * USER_CHARACTERS
    assert prefix_of([{**FIRST, "content": long}], 1) == prefix_of(
        [{**FIRST, "content": long + "x"}], 1
    )
    system = {**SYSTEM, "content": "s" * OTHER_CHARACTERS}
    more = {**SYSTEM, "content": "s" * OTHER_CHARACTERS + "t"}
    assert prefix_of([system, FIRST], 1) == prefix_of([more, FIRST], 1)


@pytest.mark.parametrize(
    "prompt",
    [
        "once upon a time",
        ["once upon", "a time"],
        [1, 2, 3, 4],
        [[1, 2], [3]],
        [{"role": "user", "content": [{"type": "text", "text": "look"}]}],
        [{"role": "user", "content": ["look", 3, None]}],
        [{"role": "user", "content": {"odd": 1}}, FIRST],
        [{"content": "no role"}, {"role": 5, "content": "é🌍"}],
    ],
)
def test_prompts_of_every_form_have_a_stable_prefix(prompt: object):
    found = prefix_of(prompt, 1)
    assert found == prefix_of(orjson.loads(orjson.dumps(prompt)), 1)
    assert found is None or 0 <= found < 2**32


@pytest.mark.parametrize("prompt", [None, "", [], [{"role": "user", "content": None}], 5])
def test_what_says_nothing_has_no_prefix(prompt: object):
    assert prefix_of(prompt, 1) is None


def test_a_new_table_keeps_ring_share_and_counters():
    addresses = ["h:1", "h:2"]
    others = (RouteReplica("rep_other", "h:3", "s"),)
    canary = make_route([], replicas=others, deployment_id="dep_" + "b" * 20)
    table = make_table(make_route(addresses, canary=canary, canary_percent=30))
    before = RouteIndex(table)
    old = next(iter(before.by_name.values()))
    ring = old.make_ring()
    old.takes_canary()
    old.traffic.requests = 5
    new = next(iter(RouteIndex(table, before).by_name.values()))
    assert new is not old
    assert new.ring is ring
    assert new.share == 30
    assert new.traffic is old.traffic
    assert new.canary is not None
    assert new.canary.traffic is not new.traffic
    wider = make_table(make_route([*addresses, "h:4"], canary=canary, canary_percent=30))
    other = next(iter(RouteIndex(wider, before).by_name.values()))
    assert other.ring is None
    assert other.replicas[:2] == old.replicas
