import random
import threading
from collections import defaultdict
from dataclasses import astuple, replace
from itertools import product

import pytest

from tests.store import samples
from tests.store.samples import OTHER_PROJECT, PROJECT
from tramontane.domain.usage import Outcome, TokenSource, UsageEvent, UsageTotal
from tramontane.store import usage
from tramontane.store.db import Database

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
GROUPINGS: list[tuple[usage.GroupBy, ...]] = [
    ("hour", "project", "api_key", "model"),
    ("hour", "model"),
    (),
]


def accept(database: Database, events: list[UsageEvent]) -> int:
    return database.write(lambda tx: usage.accept(tx, events, samples.NOW_MS))


def roll_up(database: Database, limit: int) -> int:
    return database.write(lambda tx: usage.roll_up(tx, samples.NOW_MS, limit))


def test_an_event_comes_back_as_it_was(database):
    full = samples.usage_event(1)
    cut = samples.usage_event(
        2,
        outcome=Outcome.CUT,
        token_source=TokenSource.COUNTED,
        first_byte_ms=None,
        is_stream=False,
    )
    assert accept(database, [full, cut]) == 2
    with database.read() as tx:
        assert usage.list_events(tx, None) == ([full, cut], False)


def test_an_id_counts_once_for_ever(database):
    first = samples.usage_events(range(10))
    assert accept(database, []) == 0
    assert accept(database, samples.usage_events([11])) == 1
    assert accept(database, samples.usage_events([11])) == 0
    assert accept(database, first) == 10
    assert accept(database, first) == 0
    assert accept(database, samples.usage_events([8, 9, 10, 10, 11, 11])) == 1
    assert accept(database, [replace(first[3], prompt_tokens=99_999)]) == 0
    roll_up(database, 1_000)
    assert accept(database, first) == 0
    with database.read() as tx:
        stored, has_more = usage.list_events(tx, None)
    assert (stored, has_more) == (samples.usage_events([11, *range(11)]), False)


def test_a_full_batch_is_accepted_whole(database):
    assert accept(database, samples.usage_events(range(1_000))) == 1_000
    assert accept(database, samples.usage_events(range(500, 1_500))) == 500


def test_events_are_listed_in_order_of_acceptance_and_by_project(database):
    late = samples.usage_event(1, project_id=OTHER_PROJECT)
    accept(database, samples.usage_events([9, 8, 7]))
    accept(database, [late, samples.usage_event(2)])
    with database.read() as tx:
        mine = samples.usage_events([9, 8, 7, 2])
        assert usage.list_events(tx, PROJECT) == (mine, False)
        assert usage.list_events(tx, PROJECT, limit=3) == (mine[:3], True)
        assert usage.list_events(tx, PROJECT, after=mine[2].id) == (mine[3:], False)
        assert usage.list_events(tx, OTHER_PROJECT) == ([late], False)
        assert len(usage.list_events(tx, None)[0]) == 5


def test_roll_up_takes_the_oldest_first_and_each_once(database):
    accept(database, samples.usage_events(range(25)))
    with database.read() as tx:
        assert usage.unrolled(tx, 3) == samples.usage_events(range(3))
    assert [roll_up(database, 10) for _ in range(4)] == [10, 10, 5, 0]
    with database.read() as tx:
        assert usage.unrolled(tx, 100) == []
    accept(database, samples.usage_events(range(20, 27)))
    with database.read() as tx:
        assert usage.unrolled(tx, 100) == samples.usage_events([25, 26])


def test_a_failed_roll_up_changes_nothing(database):
    accept(database, samples.usage_events(range(25)))

    def write(tx):
        usage.roll_up(tx, samples.NOW_MS, 10)
        raise KeyError

    with pytest.raises(KeyError):
        database.write(write)
    with database.read() as tx:
        assert len(usage.unrolled(tx, 100)) == 25
        assert _count(tx, None) == 25


def test_totals_are_exact_whatever_is_rolled_up(database):
    """Compare with a slow auditor that adds raw events up, at every stage of rolling up."""
    chance = random.Random(20_26)
    start = samples.NOW_MS // DAY_MS * DAY_MS
    events = [_random_event(chance, number, start) for number in range(180)]
    ranges = [(start, start + DAY_MS), (0, 2 * start), (start + HOUR_MS, start + HOUR_MS)]
    ranges += [(start + HOUR_MS // 2, start + HOUR_MS // 2 + 60_000)]  # inside one hour
    ranges += [
        tuple(sorted(start + chance.randrange(-HOUR_MS, DAY_MS + HOUR_MS) for _ in range(2)))
        for _ in range(3)
    ]
    for stage in range(3):
        accept(database, events[stage * 60 : (stage + 1) * 60])
        known = events[: (stage + 1) * 60]
        for limit in (25, 0):
            with database.read() as tx:
                for (from_ms, to_ms), project_id, group_by in product(
                    ranges, (None, PROJECT), GROUPINGS
                ):
                    told = usage.totals(
                        tx, project_id, from_ms=from_ms, to_ms=to_ms, group_by=group_by
                    )
                    audited = _audit(known, project_id, from_ms, to_ms, group_by)
                    assert told == audited, (stage, limit, from_ms, to_ms, group_by)
            if limit:
                roll_up(database, limit)


def test_a_batch_that_commits_late_is_neither_skipped_nor_left_out_of_totals(database):
    """Who has read to the end, or rolled up to it, while a batch was open must still meet it."""
    slow, quick = samples.usage_events([1, 2]), samples.usage_events([3, 4])
    other = threading.Thread(target=accept, args=(database, quick))
    followed: list[UsageEvent] = []

    def follow() -> None:
        after = followed[-1].id if followed else None
        with database.read() as tx:
            followed.extend(usage.list_events(tx, None, after=after)[0])

    def accept_slowly(tx) -> None:
        usage.accept(tx, slow, samples.NOW_MS)
        other.start()
        other.join(0.3)  # it may not get ahead; without an order of numbers it would be done
        follow()

    database.write(accept_slowly)
    other.join()
    follow()
    assert sorted(event.id for event in followed) == [event.id for event in [*slow, *quick]]


def test_a_roll_up_beside_an_open_batch_leaves_the_batch_for_later(database):
    slow, quick = samples.usage_events([1, 2]), samples.usage_events([3, 4])

    def ship_and_roll_up() -> None:
        accept(database, quick)
        roll_up(database, 100)

    other = threading.Thread(target=ship_and_roll_up)

    def accept_slowly(tx) -> None:
        usage.accept(tx, slow, samples.NOW_MS)
        other.start()
        other.join(0.3)

    database.write(accept_slowly)
    other.join()
    with database.read() as tx:
        assert _count(tx, None) == 4
    roll_up(database, 100)
    with database.read() as tx:
        assert _count(tx, None) == 4


def test_totals_of_nothing_are_nothing(database):
    with database.read() as tx:
        assert usage.totals(tx, None, from_ms=0, to_ms=DAY_MS) == []
        assert usage.totals(tx, PROJECT, from_ms=0, to_ms=DAY_MS, group_by=()) == []


def test_another_projects_usage_is_not_counted(database):
    accept(database, samples.usage_events(range(3)))
    for _ in range(2):
        with database.read() as tx:
            assert _count(tx, OTHER_PROJECT) == 0
            assert _count(tx, PROJECT) == 3
            assert usage.list_events(tx, OTHER_PROJECT) == ([], False)
        roll_up(database, 10)


def _count(tx, project_id: str | None) -> int:
    told = usage.totals(tx, project_id, from_ms=0, to_ms=2 * samples.NOW_MS, group_by=())
    return told[0].requests if told else 0


def _random_event(chance: random.Random, number: int, start_ms: int) -> UsageEvent:
    return samples.usage_event(
        number,
        project_id=chance.choice([PROJECT, OTHER_PROJECT]),
        api_key_id=chance.choice(["key_a", "key_b"]),
        model=chance.choice(["small", "large"]),
        # Often on the edge of an hour, where mistakes are.
        started_at_ms=start_ms
        + chance.randrange(24) * HOUR_MS
        + chance.choice([0, HOUR_MS - 1, chance.randrange(HOUR_MS)]),
        prompt_tokens=chance.randrange(10_000),
        completion_tokens=chance.randrange(10_000),
        cached_tokens=chance.randrange(100),
    )


def _audit(
    events: list[UsageEvent],
    project_id: str | None,
    from_ms: int,
    to_ms: int,
    group_by: tuple[usage.GroupBy, ...],
) -> list[UsageTotal]:
    sums: dict[tuple[int, str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for event in events:
        if not from_ms <= event.started_at_ms < to_ms:
            continue
        if project_id not in {None, event.project_id}:
            continue
        group = (
            event.started_at_ms // HOUR_MS * HOUR_MS if "hour" in group_by else 0,
            event.project_id if "project" in group_by else "",
            event.api_key_id if "api_key" in group_by else "",
            event.model if "model" in group_by else "",
        )
        used = (1, event.prompt_tokens, event.completion_tokens, event.cached_tokens)
        sums[group] = [a + b for a, b in zip(sums[group], used, strict=True)]
    told = [UsageTotal(*group, *amounts) for group, amounts in sums.items()]
    return sorted(told, key=astuple)
