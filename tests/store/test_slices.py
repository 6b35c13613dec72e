"""Slices in rows: the same answers as from books in memory, and nothing lost between two."""

import random
import threading
from collections.abc import Sequence

import pytest

from tests.store import samples
from tests.store.samples import NOW_MS, OTHER_PROJECT, PROJECT
from tramontane.domain.spending.limits import Limit, LimitMeter, LimitScope
from tramontane.domain.spending.slices import (
    DEAF_MS,
    HEARTBEAT_MS,
    HOLD_MAX_MS,
    SILENCE_MAX_MS,
    WINDOW_MS,
    Ask,
    Books,
    Charge,
    Outdated,
    Reply,
    Report,
    exchange,
    period_of,
    settle,
)
from tramontane.store import usage
from tramontane.store.db import Database
from tramontane.store.spending import limits, slices
from tramontane.store.spending.limits import BudgetUse

PERIOD = period_of(NOW_MS)


def limit(number: int, **changes: object) -> Limit:
    fields = {
        "scope": LimitScope.PROJECT,
        "subject_id": PROJECT,
        "requests_per_minute_max": 10,
        "tokens_per_minute_max": 1_000,
        "requests_in_flight_max": 4,
        "budget_micro": 5,
    } | changes
    return Limit(id=samples.make_id("lim", number), **fields)  # pyright: ignore[reportArgumentType]


def insert(database: Database, *values: Limit) -> None:
    def write(tx) -> None:
        for value in values:
            limits.ROWS.insert(tx, value, NOW_MS)

    database.write(write)


def answer(database: Database, report: Report, now_ms: int = NOW_MS) -> Reply | Outdated:
    return database.write(lambda tx: slices.answer(tx, "gw", report, now_ms))


def granted(reply: Reply | Outdated) -> list[int]:
    assert isinstance(reply, Reply)
    return [grant.granted for grant in reply.grants]


def test_rows_answer_as_books_in_memory_do(database):
    """A random course, step by step: every reply is equal."""
    chance = random.Random(20_26)
    bounds = [limit(1), limit(2, subject_id=OTHER_PROJECT, model="m", budget_micro=None)]
    insert(database, *bounds)
    known = {each.id: each for each in bounds}
    books, now_ms = Books(), NOW_MS
    sequences = dict.fromkeys("abc", 0)
    said: list[Report] = []
    waits = (1, 800, HEARTBEAT_MS, DEAF_MS + 1, SILENCE_MAX_MS + 1, WINDOW_MS, -70_000)
    for step in range(150):
        if step == 100:
            now_ms += HOLD_MAX_MS + 1
        if said and chance.random() < 0.15:
            report = chance.choice(said[-4:])
            if report.holder not in books.holders:
                continue
        else:
            name = chance.choice("abc")
            sequences[name] += 1
            settled = ("c",) if chance.random() < 0.05 and name != "c" else ()
            asks = tuple(_ask(chance, books, bounds) for _ in range(chance.randrange(4)))
            report = Report(name, sequences[name], asks, settled)
            said.append(report)
        reply, books = exchange(books, known, report, now_ms)
        assert answer(database, report, now_ms) == reply
        if chance.random() < 0.2:
            place = (bounds[0].id, report.holder, period_of(now_ms))
            charge = Charge(*place, cost_nano=chance.choice([1, 400]))
            books = settle(books, [charge])
            database.write(lambda tx, charge=charge: slices.charge(tx, [charge]))
        now_ms += chance.choice(waits)


def _ask(chance: random.Random, books: Books, bounds: Sequence[Limit]) -> Ask:
    bound, meter = chance.choice(bounds), chance.choice(list(LimitMeter))
    window = chance.choice([1, 2, 3, PERIOD])
    back = chance.choice([0, 0, 1, 3])
    amounts = chance.choice([0, 1, 3, 2_000]), chance.choice([0, 0, 5, 4_000])
    return Ask(bound.id, meter, *amounts, back, window)


@pytest.mark.slow
def test_many_gateways_at_once_get_exactly_the_limit(database):
    insert(database, limit(1, requests_per_minute_max=100))
    asks = (Ask(limit(1).id, LimitMeter.REQUESTS, want=5, extra=8),)
    got: list[int] = []

    def work(name: str) -> None:
        for sequence in range(1, 9):
            got.extend(granted(answer(database, Report(name, sequence, asks))))

    threads = [threading.Thread(target=work, args=(f"g{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(got) == 100


def test_what_events_cost_is_charged_once_to_every_budget_that_binds_them(database):
    key_id = samples.make_id("key", 1)
    bounds = [
        limit(1),
        limit(2, scope=LimitScope.ORGANIZATION, subject_id=samples.ORG),
        limit(3, scope=LimitScope.API_KEY, subject_id=key_id, model="deployment-1"),
        limit(4, scope=LimitScope.API_KEY, subject_id=key_id, model="another"),
        limit(5, subject_id=OTHER_PROJECT),
        limit(6, model="deployment-1", budget_micro=None),
    ]
    insert(database, *bounds)
    asks = tuple(Ask(each.id, LimitMeter.BUDGET, want=3_000) for each in bounds[:3])
    assert granted(answer(database, Report("h", 1, asks))) == [3_000] * 3
    events = [samples.usage_event(n, cost_nano=500, holder="h") for n in range(3)]
    other = samples.usage_event(9, cost_nano=70, holder="")

    def accept() -> int:
        return database.write(lambda tx: usage.accept(tx, [*events, other, other], NOW_MS))

    assert (accept(), accept()) == (4, 0)
    with database.read() as tx:
        used = limits.budget_use(tx, [each.id for each in bounds], PERIOD)
    assert [used[each.id] for each in bounds] == [
        *[BudgetUse(spent_nano=1_570, held_nano=1_500)] * 3,
        *[BudgetUse()] * 3,
    ]


def test_an_event_counts_for_the_month_in_which_its_request_started(database):
    insert(database, limit(1))
    earlier = samples.usage_event(1, cost_nano=700, started_at_ms=NOW_MS - 40 * 86_400_000)
    database.write(lambda tx: usage.accept(tx, [earlier], NOW_MS))
    asks = (Ask(limit(1).id, LimitMeter.BUDGET, want=9_000),)
    assert granted(answer(database, Report("h", 1, asks))) == [5_000]


@pytest.mark.parametrize("is_rolled_up", [False, True])
@pytest.mark.parametrize(
    ("changes", "cost"),
    [
        ({}, 6),
        ({"model": "deployment-1"}, 4),
        ({"scope": LimitScope.ORGANIZATION, "subject_id": samples.ORG}, 6),
        ({"scope": LimitScope.API_KEY, "subject_id": samples.make_id("key", 7)}, 2),
        ({"subject_id": OTHER_PROJECT}, 8),
    ],
)
def test_what_was_spent_before_there_was_a_budget(database, changes, cost, is_rolled_up):
    samples.populate(database)
    events = [
        samples.usage_event(1, cost_nano=4),
        samples.usage_event(2, cost_nano=2, model="m", api_key_id=samples.make_id("key", 7)),
        samples.usage_event(
            3,
            cost_nano=8,
            api_key_id="other",
            project_id=OTHER_PROJECT,
            organization_id=samples.OTHER_ORG,
        ),
        samples.usage_event(4, cost_nano=16, started_at_ms=NOW_MS - 40 * 86_400_000),
    ]
    database.write(lambda tx: usage.accept(tx, events, NOW_MS))
    if is_rolled_up:
        database.write(lambda tx: usage.roll_up(tx, NOW_MS, 100))
    hour = 3_600_000
    bounds = {"from_ms": NOW_MS // hour * hour - hour, "to_ms": NOW_MS // hour * hour + hour}
    with database.read() as tx:
        assert usage.cost_of(tx, limit(1, **changes), **bounds) == cost


def test_a_removed_limit_leaves_nothing_behind(database):
    insert(database, limit(1))
    asks = tuple(Ask(limit(1).id, meter, want=1) for meter in LimitMeter)
    assert granted(answer(database, Report("h", 1, asks))) == [1, 1, 1, 1]
    database.write(lambda tx: limits.ROWS.remove(tx, limit(1).id))
    insert(database, limit(1))
    with database.read() as tx:
        assert limits.budget_use(tx, [limit(1).id], PERIOD)[limit(1).id] == BudgetUse()
    reply = answer(database, Report("h", 2, asks))
    assert isinstance(reply, Reply)
    assert [grant.remaining for grant in reply.grants] == [9, 999, 3, 4_999]
