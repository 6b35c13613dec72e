"""Plans of accounts, one rule at a time; tests/property shows that they hold together."""

import pytest

from tramontane.domain.launch import PriorityClass
from tramontane.domain.quotas import names
from tramontane.domain.quotas.accounts import Account, Book, Membership, Observed, Reservation
from tramontane.domain.quotas.accounts_plan import (
    DropAccount,
    DropMembership,
    PutAccount,
    SetDefaultAccount,
    config_findings,
    plan_accounts,
)

PREFIX = "tmt_"
GOOD = {
    "AccountingStorageEnforce": "associations, limits,QOS",
    "AccountingStorageTRES": "cpu,GRES/gpu",
    "PreemptType": "preempt/qos",
    "PreemptMode": "REQUEUE",
    "PriorityWeightFairShare": "10",
}


def book(*accounts: Account, members: tuple[tuple[str, str], ...] = ()) -> Book:
    memberships = {key: Membership(*key, frozenset()) for key in members}
    return Book({account.name: account for account in accounts}, memberships)


def test_children_are_removed_before_their_parents() -> None:
    chain = [
        Account("tmt_a", "root", 1),
        Account("tmt_a_z", "tmt_a", 1),
        Account("tmt_a_b", "tmt_a_z", 1),
    ]
    seen = Observed(book(*chain), frozenset(it.name for it in chain))
    plan = plan_accounts(Book(), seen, PREFIX)
    assert plan.actions == (DropAccount("tmt_a_b"), DropAccount("tmt_a_z"), DropAccount("tmt_a"))


def test_what_is_wanted_is_moved_away_from_below_what_goes() -> None:
    old, mine = Account("tmt_old", "root", 1), Account("tmt_b", "root", 1)
    moved = Account("tmt_b", "tmt_old", 1)
    seen = Observed(book(old, moved), frozenset({"tmt_old", "tmt_b"}))
    plan = plan_accounts(book(mine), seen, PREFIX)
    assert plan.actions == (PutAccount(mine, moved), DropAccount("tmt_old"))
    assert plan.findings == ()
    other = Account("other", "tmt_old", 1)
    seen = Observed(book(old, other), frozenset({"tmt_old"}))
    plan = plan_accounts(Book(), seen, PREFIX)
    assert plan.actions == ()
    assert plan.findings == (
        "account tmt_old is not wanted and stays: other below it is not ours to remove",
    )


def test_who_loses_a_default_account_gets_one_of_ours_if_there_is_any() -> None:
    gone = Account("tmt_old", "root", 1)
    wanted = [Account(name, "root", 1) for name in ("tmt_b", "tmt_c")]
    first = Account("another", "root", 1)
    members = (("another", "u"), ("tmt_b", "u"), ("tmt_c", "u"))
    seen = Observed(
        book(gone, *wanted, first, members=(*members, ("tmt_old", "u"))),
        frozenset({"tmt_old", "tmt_b", "tmt_c"}),
        {"u": "tmt_old"},
    )
    plan = plan_accounts(book(*wanted, members=members[1:]), seen, PREFIX)
    assert plan.actions == (
        SetDefaultAccount("u", "tmt_b"),
        DropMembership("tmt_old", "u"),
        DropAccount("tmt_old"),
    )
    plan = plan_accounts(Book(), Observed(seen.book, seen.made_here, {"u": "tmt_old"}), PREFIX)
    assert plan.actions[0] == SetDefaultAccount("u", "another")


def test_a_default_account_is_the_last_that_its_user_leaves() -> None:
    accounts = [Account(name, "root", 1) for name in ("tmt_a", "tmt_b")]
    members = (("tmt_a", "u"), ("tmt_b", "u"))
    made = frozenset({"tmt_a", "tmt_b"})
    for default, order in (("tmt_a", ["tmt_b", "tmt_a"]), ("tmt_b", ["tmt_a", "tmt_b"])):
        seen = Observed(book(*accounts, members=members), made, {"u": default})
        plan = plan_accounts(Book(), seen, PREFIX)
        left = [action.account for action in plan.actions if isinstance(action, DropMembership)]
        assert left == order


def test_a_rack_that_the_cluster_does_not_know_is_told_by_its_name() -> None:
    lacking = Reservation("tmt_acme_rack_7", frozenset({"tmt_acme"}), frozenset())
    wanted = Book(reservations={lacking.name: lacking})
    plan = plan_accounts(wanted, Observed(Book()), PREFIX)
    assert plan.actions == ()
    assert plan.findings == (
        "rack rack_7 cannot be reserved: the cluster's topology has no such rack",
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        ({"AccountingStorageEnforce": "limits"}, "add associations,qos to AccountingStorageEnf"),
        ({"AccountingStorageEnforce": None}, "add associations,limits,qos to Accounting"),
        ({"AccountingStorageTRES": "cpu"}, "devices are not counted"),
        ({"PreemptType": "preempt/none"}, "set PreemptType=preempt/qos"),
        ({"PreemptType": None}, "set PreemptType=preempt/qos"),
        ({"PreemptMode": "OFF"}, "set PreemptMode=REQUEUE or CANCEL"),
        ({"PreemptMode": None}, "set PreemptMode=REQUEUE or CANCEL"),
        ({"PriorityWeightFairShare": "0"}, "shares decide nothing"),
        ({"PriorityWeightFairShare": ""}, "shares decide nothing"),
        ({"PriorityWeightFairShare": None}, "shares decide nothing"),
    ],
)
def test_what_keeps_quotas_from_holding_is_told(
    changes: dict[str, str | None], told: str | None
) -> None:
    config = {name: value for name, value in (GOOD | changes).items() if value is not None}
    shares = book(Account("tmt_a", "root", 1), Account("tmt_b", "root", 2))
    found = list(config_findings(shares, config))
    assert len(found) == (told is not None)
    assert (told or "") in "".join(found)
    alike = book(Account("tmt_a", "root", 1), Account("tmt_b", "root", 1))
    if told == "shares decide nothing":
        assert list(config_findings(alike, config)) == []
    assert list(config_findings(shares, {})) == []


def test_names_of_accounts_are_as_long_as_slurm_tells_apart() -> None:
    assert names.account_of(PREFIX, "x" * 38) == f"tmt_{'x' * 38}"
    long = names.account_of(PREFIX, "x" * 39)
    assert len(long) == 42
    assert long.startswith(f"tmt_{'x' * 25}.")
    assert long != names.account_of(PREFIX, "x" * 40)
    assert names.account_of(PREFIX, "a", "b") == "tmt_a_b"
    assert names.qos_of(PREFIX, PriorityClass.SPOT) == "tmt_spot"
    assert names.reservation_of(PREFIX, "acme", "r1") == "tmt_acme_r1"


def test_the_user_of_a_project_is_its_own_its_organizations_or_the_default() -> None:
    users = {"acme/web": "w", "acme": "a"}
    assert names.user_of(users, "d", "acme", "web") == "w"
    assert names.user_of(users, "d", "acme", "lab") == "a"
    assert names.user_of(users, "d", "other", "web") == "d"
    assert names.user_of(users, None, "other", "web") is None
