"""Quotas, reserved racks, prices of classes and the bill, on both databases."""

from dataclasses import replace

import pytest

from tests.store import samples
from tests.store.samples import NOW_MS, ORG, OTHER_ORG, OTHER_PROJECT, PROJECT
from tests.store.test_indexes import is_slow, plans
from tests.support.jobs import attempt_of, job_of
from tramontane.domain.jobs.job import AttemptStatus, JobStatus
from tramontane.domain.launch import PriorityClass
from tramontane.domain.quotas.quota import Quota, QuotaScope, RackReservation
from tramontane.store.db import Database, Transaction
from tramontane.store.jobs import attempts, jobs
from tramontane.store.quotas import attempts as bill
from tramontane.store.quotas import class_prices, quotas, reservations, tenants
from tramontane.store.quotas.attempts import BillRange
from tramontane.store.quotas.owned import Owner

WIDE = Quota("quo_1", QuotaScope.ORGANIZATION, ORG, 16, 3)
NARROW = Quota("quo_2", QuotaScope.PROJECT, PROJECT, None, 2, (PriorityClass.SPOT,))
KEPT = RackReservation("rsv_1", ORG, "alps", "rack1")
SPOT = PriorityClass.SPOT
HOME, OTHERS = Owner(ORG, PROJECT), Owner(OTHER_ORG, OTHER_PROJECT)


@pytest.fixture
def planted(database: Database) -> Database:
    return plant(database)


def plant(database: Database) -> Database:
    samples.populate(database)
    job = job_of(1, project_id=PROJECT, priority_class=SPOT)

    def write(tx: Transaction) -> None:
        quotas.ROWS.insert(tx, WIDE, NOW_MS)
        quotas.ROWS.insert(tx, NARROW, NOW_MS + 1)
        assert reservations.insert(tx, KEPT, NOW_MS)
        class_prices.put(tx, SPOT, 3_600_000, NOW_MS)
        jobs.insert(tx, job, ())
        for number in (1, 2, 3):
            attempt = attempt_of(
                job,
                AttemptStatus.RUNNING if number == 3 else AttemptStatus.PREEMPTED,
                number=number,
                cluster_id=samples.CLUSTER,
                node_id=None,
                created_at_ms=NOW_MS + number,
                started_at_ms=NOW_MS + number,
                devices=1,
            )
            attempts.insert(tx, attempt)
            if attempt.is_accounted:
                class_prices.charge(tx, attempt.id, SPOT, number, NOW_MS)

    database.write(write)
    return database


def test_quotas_come_back(planted: Database) -> None:
    with planted.read() as tx:
        assert quotas.find(tx, ORG) == WIDE
        assert quotas.ROWS.list_all(tx) == [WIDE, NARROW]
        assert quotas.ROWS.list_for(tx, HOME, after=WIDE.id) == [NARROW]
        assert quotas.ROWS.list_for(tx, OTHERS) == []
        assert quotas.ROWS.get_for(tx, OTHERS, WIDE.id) is None
    planted.write(lambda tx: quotas.ROWS.remove(tx, WIDE.id))
    with planted.read() as tx:
        assert quotas.ROWS.list_all(tx) == [NARROW]


def test_a_rack_is_reserved_at_most_once(planted: Database) -> None:
    other = RackReservation("rsv_2", OTHER_ORG, "alps", "rack1")
    assert planted.write(lambda tx: reservations.insert(tx, other, NOW_MS)) is False
    elsewhere = RackReservation("rsv_3", OTHER_ORG, "jura", "rack1")
    assert planted.write(lambda tx: reservations.insert(tx, elsewhere, NOW_MS)) is True
    with planted.read() as tx:
        assert reservations.find(tx, "alps", "rack1") == KEPT
        assert reservations.ROWS.list_for(tx, OTHERS) == [elsewhere]
        assert reservations.ROWS.list_all(tx) == [KEPT, elsewhere]
        assert reservations.ROWS.get_for(tx, OTHERS, KEPT.id) is None
        assert tenants.read(tx, "jura").reservations == (elsewhere,)


def test_a_bill_keeps_its_prices_and_adds_up(planted: Database) -> None:
    def again(tx: Transaction) -> None:
        class_prices.put(tx, SPOT, 9, NOW_MS + 1)
        for each in attempts.list_among(tx, [it.id for it in found]):
            if each.is_accounted:
                class_prices.charge(tx, each.id, SPOT, 1_000, NOW_MS + 1)

    with planted.read() as tx:
        found = [each.attempt for each in bill.list_billed(tx, BillRange(), after=None, limit=9)]
    planted.write(again)
    with planted.read() as tx:
        billed = bill.list_billed(tx, BillRange(PROJECT), after=None, limit=9)
        assert [each.cost_nano for each in billed] == [1_000_000, 2_000_000, None]
        assert {each.priority_class for each in billed} == {SPOT}
        (total,) = bill.totals(tx, BillRange(PROJECT))
        assert (total.attempts, total.device_seconds, total.cost_nano) == (2, 3, 3_000_000)
        assert bill.count_open(tx, BillRange(PROJECT)) == 1
        late = BillRange(PROJECT, from_ms=NOW_MS + 2)
        assert [it.cost_nano for it in bill.totals(tx, late)] == [2_000_000]
        assert bill.totals(tx, BillRange(OTHER_PROJECT)) == []
        after = billed[0].attempt.id
        assert len(bill.list_billed(tx, BillRange(), after=after, limit=1)) == 1


def test_classes_in_use_are_those_of_what_is_not_over(planted: Database) -> None:
    """Whatever a tenant writes into a job is no class of it."""
    named = (('"priority_class":"reserved"', '"priority_class":"reserved"'),)
    with planted.read() as tx:
        found = tenants.read(tx, "alps")
    assert found.rack_owners == {ORG}
    before = found.classes_in_use[PROJECT]
    assert SPOT in before
    assert PriorityClass.RESERVED not in before
    hidden = job_of(2, project_id=PROJECT, env=named, priority_class=PriorityClass.STANDARD)
    over = job_of(3, project_id=PROJECT, priority_class=PriorityClass.RESERVED)
    over = replace(over, status=JobStatus.SUCCEEDED)
    theirs = job_of(4, project_id=OTHER_PROJECT, priority_class=PriorityClass.RESERVED)
    for job in (hidden, over, theirs):
        planted.write(lambda tx, job=job: jobs.insert(tx, job, ()))
    with planted.read() as tx:
        found = tenants.read(tx, "alps")
    assert PriorityClass.RESERVED not in found.classes_in_use[PROJECT]
    assert PriorityClass.RESERVED in found.classes_in_use[OTHER_PROJECT]


READS = {
    "quotas": lambda tx: quotas.ROWS.list_for(tx, None, after=WIDE.id),
    "quota of one": lambda tx: quotas.find(tx, ORG),
    "reservations": lambda tx: reservations.ROWS.list_for(tx, None, after=KEPT.id),
    "all reservations": reservations.ROWS.list_all,
}


@pytest.mark.parametrize("name", READS)
def test_a_list_is_read_along_an_index(sqlite_database: Database, name: str) -> None:
    told = plans(plant(sqlite_database), READS[name])
    assert [step for step in told if is_slow(step)] == [], told


@pytest.mark.parametrize(
    ("which", "index"),
    [(BillRange(), "ix_attempts_order"), (BillRange(PROJECT), "ix_attempts_project_order")],
)
def test_a_page_of_the_bill_is_read_along_an_index(
    sqlite_database: Database, which: BillRange, index: str
) -> None:
    """Only the rows of the page are sorted again, which the first step has found."""
    database = plant(sqlite_database)
    told = plans(database, lambda tx: bill.list_billed(tx, which, after=None, limit=9))
    assert index in told[0]
    assert sum("TEMP B-TREE" in step for step in told) == 1
    assert not [step for step in told if step.startswith("SCAN") and "INDEX" not in step]
