"""When a replica is taken out, for how long, and what brings it back."""

from dataclasses import replace

import pytest

from tramontane.gateway.limits import Limits
from tramontane.gateway.routing.outliers import note_answer, note_failure
from tramontane.gateway.upstream.replica import Replica

LIMITS = Limits()


def replicas_of(count: int) -> list[Replica]:
    return [Replica(f"rep_{number}", f"h:{number + 1}", "s") for number in range(count)]


def fail(replica: Replica, siblings: list[Replica], now: float, *, is_probe: bool = False) -> float:
    return note_failure(replica, siblings, now, LIMITS, is_probe=is_probe)


def test_failures_in_a_row_eject():
    one, two = siblings = replicas_of(2)
    found = [fail(one, siblings, 100.0) for _ in range(LIMITS.eject_failures)]
    assert found == [0.0] * (LIMITS.eject_failures - 1) + [LIMITS.eject_s]
    assert one.is_suspect
    assert one.aside_until == 100.0 + LIMITS.eject_s
    assert not two.is_suspect


def test_an_answer_between_breaks_the_row():
    one, _ = siblings = replicas_of(2)
    for _ in range(3):
        for _ in range(LIMITS.eject_failures - 1):
            assert fail(one, siblings, 100.0) == 0.0
        for _ in range(30):
            note_answer(one, is_probe=False)


def test_a_bad_share_ejects_without_a_row():
    one, _ = siblings = replicas_of(2)
    found = []
    for _ in range(LIMITS.eject_seen_min):
        note_answer(one, is_probe=False)
        found.append(fail(one, siblings, 100.0))
    assert sum(length > 0 for length in found) == 1
    # The share is of one window: what was before it does not count.
    other, _ = siblings = replicas_of(2)
    for number in range(LIMITS.eject_seen_min * 2):
        note_answer(other, is_probe=False)
        assert fail(other, siblings, 100.0 + number * (LIMITS.eject_window_s + 1)) == 0.0


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_never_more_than_half_are_out(count: int, most: int):
    siblings = replicas_of(count)
    for replica in siblings:
        for _ in range(LIMITS.eject_failures * 2):
            fail(replica, siblings, 100.0)
    assert sum(replica.is_suspect for replica in siblings) == most


def test_a_probe_brings_it_back_or_sends_it_away_for_longer():
    one, _ = siblings = replicas_of(2)
    for _ in range(LIMITS.eject_failures):
        fail(one, siblings, 100.0)
    now = one.aside_until
    assert fail(one, siblings, now) == 0.0  # a request from before: it says nothing new
    note_answer(one, is_probe=False)
    assert one.is_suspect
    lengths = []
    for _ in range(12):
        lengths.append(fail(one, siblings, now, is_probe=True))
        now = one.aside_until
    assert lengths[:3] == [LIMITS.eject_s * 2, LIMITS.eject_s * 4, LIMITS.eject_s * 8]
    assert lengths[-1] == LIMITS.eject_s_max
    note_answer(one, is_probe=True)
    assert not one.is_suspect
    assert one.aside_until == 0.0


@pytest.mark.parametrize(("calm_s", "factor"), [(1.0, 2), (LIMITS.eject_calm_s + 1, 1)])
def test_a_calm_time_forgives(calm_s: float, factor: int):
    one, _ = siblings = replicas_of(2)
    now = 100.0
    for _ in range(2):
        found = [fail(one, siblings, now) for _ in range(LIMITS.eject_failures)]
        now = one.aside_until
        note_answer(one, is_probe=True)
        now += calm_s
    assert found[-1] == LIMITS.eject_s * factor


def test_the_limits_are_taken_from_the_limits():
    one, _ = siblings = replicas_of(2)
    limits = replace(LIMITS, eject_failures=1, eject_s=9.0)
    assert note_failure(one, siblings, 100.0, limits, is_probe=False) == 9.0
