"""The accounts reconciler over a real store and a cluster that follows Slurm's rules."""

import logging
from contextlib import closing
from dataclasses import replace

import pytest

from tests.reconcilers.conftest import CountingDatabase
from tests.support.planning import NOW_MS, plant
from tramontane.domain.event import Event
from tramontane.domain.fleet import Cluster, ClusterStatus
from tramontane.domain.quotas.accounts import Account, AccountPolicy, Book, Observed
from tramontane.domain.quotas.quota import Quota, QuotaScope, RackReservation
from tramontane.domain.tenancy import Organization, Project
from tramontane.drivers.accounts import ClusterRefusedError
from tramontane.drivers.fake_accounts import FakeAccounts
from tramontane.reconcilers.accounts import AccountsReconciler
from tramontane.runtime.clock import ManualClock
from tramontane.store import events, fleet, tenancy
from tramontane.store.db import Database
from tramontane.store.quotas import quotas, reservations

POLICY = AccountPolicy("tmt_", {"corp": "u-corp"}, "u-else")
RACKS = {"n1": "rack1", "n2": "rack2"}
CORP = Organization("org_corp", "corp", NOW_MS)
WEB = Project("prj_web", CORP.id, "web", NOW_MS)


class World:
    def __init__(self, db: Database, url: str) -> None:
        self.db, self.url = db, url
        self.port = FakeAccounts(POLICY, Observed(Book(), racks=RACKS))
        plant(db)

        def write(tx):
            fleet.upsert_cluster(
                tx, Cluster("clu_1", "local", "slurm", ClusterStatus.READY, NOW_MS)
            )
            tenancy.insert_organization(tx, CORP)
            tenancy.insert_project(tx, WEB)
            quotas.ROWS.insert(tx, Quota("quo_1", QuotaScope.ORGANIZATION, CORP.id, 16, 3), NOW_MS)
            kept = RackReservation("rsv_1", CORP.id, "local", "rack1")
            assert reservations.insert(tx, kept, NOW_MS)
            elsewhere = RackReservation("rsv_2", CORP.id, "elsewhere", "rack2")
            assert reservations.insert(tx, elsewhere, NOW_MS)

        db.write(write)
        self.restart()

    def restart(self) -> None:
        self.reconciler = AccountsReconciler(self.db, {"local": self.port}, ManualClock(NOW_MS))

    @property
    def book(self) -> Book:
        return self.port.observed.book

    def change(self, **accounts: Account) -> None:
        """Change the cluster by hand."""
        book = self.book
        self.port.observed = replace(
            self.port.observed, book=replace(book, accounts={**book.accounts, **accounts})
        )

    def told(self) -> list[Event]:
        with self.db.read() as tx:
            (cluster,) = fleet.list_clusters(tx)
            found = events.story(tx, cluster.id, None, limit=100)
        return [event for event in found if event.actor == "reconciler/accounts"]


@pytest.fixture
def world(sqlite_database: Database, sqlite_url: str) -> World:
    return World(sqlite_database, sqlite_url)


def test_a_fresh_cluster_is_told_all_and_equal_means_no_write(world: World) -> None:
    assert world.reconciler.step() is False
    assert world.book.accounts["tmt_corp"].devices_max == 16
    assert world.book.accounts["tmt_corp_web"].parent == "tmt_corp"
    assert ("tmt_corp_web", "u-corp") in world.book.memberships
    assert [kept.nodes for kept in world.book.reservations.values()] == [frozenset({"n1"})]
    assert world.told() == []  # that nothing was there is no change by hand
    done = list(world.port.applied)
    with closing(CountingDatabase(world.url)) as counting:
        again = AccountsReconciler(counting, {"local": world.port}, ManualClock(NOW_MS))
        for _ in range(3):
            again.step()
        assert counting.writes == 0
    assert world.port.applied == done


def test_a_change_by_hand_is_set_back_and_told_once(world: World) -> None:
    world.reconciler.step()
    right = world.book.accounts["tmt_corp"]
    world.change(tmt_corp=replace(right, devices_max=99))
    world.reconciler.step()
    world.reconciler.step()
    assert world.book.accounts["tmt_corp"] == right
    (event,) = world.told()
    assert event.kind == "cluster.drift"
    assert event.message == (
        "changed outside: account tmt_corp differs: devices max 99 -> 16; set back"
    )
    assert event.data == {"is_repaired": 1}


def test_what_a_tenant_of_ours_wants_is_no_change_by_hand(world: World) -> None:
    world.reconciler.step()

    def write(tx):
        seen = quotas.find(tx, CORP.id)
        assert seen
        quotas.ROWS.update(tx, replace(seen, devices_max=4))
        tenancy.update_project(tx, WEB, replace(WEB, archived_at_ms=NOW_MS))

    world.db.write(write)
    world.reconciler.step()
    assert world.book.accounts["tmt_corp"].devices_max == 4
    assert "tmt_corp_web" not in world.book.accounts
    assert not [key for key in world.book.memberships if key[0] == "tmt_corp_web"]
    assert world.told() == []


def test_what_was_changed_while_nobody_looked_is_told_if_it_is_still_there(world: World) -> None:
    world.reconciler.step()
    right = world.book.accounts["tmt_corp"]
    world.change(tmt_corp=replace(right, share=1))
    world.restart()
    world.reconciler.step()
    assert [event.kind for event in world.told()] == ["cluster.drift"]


def test_an_outage_waits_and_is_told_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.port.is_down = True
    with caplog.at_level(logging.INFO, "tramontane.reconcilers.accounts"):
        for _ in range(3):
            world.reconciler.step()
        world.port.is_down = False
        world.reconciler.step()
    told = [record.getMessage() for record in caplog.records]
    assert [line for line in told if "wait until it answers" in line] == told[:1]
    assert "can be read again" in told[1]
    assert "tmt_corp" in world.book.accounts


def test_what_only_a_person_can_do_is_told_once(world: World) -> None:
    world.change(tmt_else=Account("tmt_else", "root"))
    lacking = RackReservation("rsv_3", CORP.id, "local", "rack9")
    world.db.write(lambda tx: reservations.insert(tx, lacking, NOW_MS))
    for _ in range(2):
        world.reconciler.step()
    assert sorted(event.message.partition(" ")[0] for event in world.told()) == [
        "account",
        "rack",
    ]
    assert {event.kind for event in world.told()} == {"cluster.warned"}
    assert "tmt_else" in world.book.accounts


def test_a_refusal_is_told_and_the_rest_is_done(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = world.port.apply

    def refuse_accounts(action):
        if type(action).__name__ == "PutReservation":
            raise ClusterRefusedError("nodes are busy")
        apply(action)

    monkeypatch.setattr(world.port, "apply", refuse_accounts)
    for _ in range(2):
        world.reconciler.step()
    (event,) = world.told()
    assert event.kind == "cluster.warned"
    assert event.message.endswith("is missing: made: refused by the cluster: nodes are busy")
    assert "tmt_corp_web" in world.book.accounts
