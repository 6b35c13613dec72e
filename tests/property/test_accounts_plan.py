"""Plans of accounts: applied, they leave nothing to do and nothing of others changed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.domain.launch import PriorityClass
from tramontane.domain.quotas import classes, names
from tramontane.domain.quotas.accounts import (
    Account,
    AccountPolicy,
    Book,
    Membership,
    Observed,
    Qos,
    Reservation,
    Tenants,
    wanted,
)
from tramontane.domain.quotas.accounts_plan import (
    DropAccount,
    DropMembership,
    DropReservation,
    PutAccount,
    PutMembership,
    PutReservation,
    SetDefaultAccount,
    describe,
    plan_accounts,
)
from tramontane.domain.quotas.quota import Quota, QuotaScope, RackReservation
from tramontane.domain.tenancy import Organization, Project
from tramontane.drivers.fake_accounts import applied

PREFIX = "tmt_"
RACKS = {"r1n1": "rack1", "r1n2": "rack1", "r2n1": "rack2", "r2n2": "rack2"}
LABELS = ["a", "b", "a-b", "0", "spot", "x" * 63]
USERS = ["alice", "tmt-a", "root"]
# What an operator has beside ours: names that only look alike.
FOREIGN = ["tmt", "tmtx_a", "acme", "x-tmt_a"]

label = st.sampled_from(LABELS)
some_classes = st.sets(st.sampled_from(PriorityClass))
quota = st.tuples(
    st.none() | st.integers(0, 1_000),
    st.integers(1, 100),
    st.none() | some_classes.filter(bool).map(classes.ordered),
)


@st.composite
def tenants(draw: st.DrawFn) -> Tenants:
    organizations, projects, quotas, kept = [], [], [], []
    for name in draw(st.lists(label, unique=True, max_size=3)):
        organizations.append(Organization(f"org_{name}", name, 0))
        for its in draw(st.lists(label, unique=True, max_size=3)):
            projects.append(Project(f"prj_{name}_{its}", f"org_{name}", its, 0))
    for scope, subjects in (
        (QuotaScope.ORGANIZATION, organizations),
        (QuotaScope.PROJECT, projects),
    ):
        for subject in subjects:
            if draw(st.booleans()):
                quotas.append(Quota(f"quo_{subject.id}", scope, subject.id, *draw(quota)))
    for rack in draw(st.lists(st.sampled_from(["rack1", "rack2", "gone"]), unique=True)):
        if organizations:
            owner = draw(st.sampled_from(organizations))
            kept.append(RackReservation(f"rsv_{rack}", owner.id, "alps", rack))
    in_use = {each.id: frozenset(draw(some_classes)) for each in projects if draw(st.booleans())}
    owners = frozenset(it.organization_id for it in kept)
    return Tenants(
        tuple(organizations), tuple(projects), tuple(quotas), tuple(kept), owners, in_use
    )


@st.composite
def policies(draw: st.DrawFn) -> AccountPolicy:
    keys = st.builds("{}/{}".format, label, label) | label
    users = draw(st.dictionaries(keys, st.sampled_from(USERS), max_size=3))
    return AccountPolicy(PREFIX, users, draw(st.none() | st.sampled_from(USERS)))


@st.composite
def clusters(draw: st.DrawFn) -> Observed:
    """What was wanted once, changed by hand here and there, among what others have."""
    book = wanted(draw(tenants()), draw(policies()), RACKS)
    accounts, members = dict(book.accounts), dict(book.memberships)
    qos = {name: it for name, it in book.qos.items() if it.preempts or draw(st.booleans())}
    if draw(st.booleans()):
        qos = dict(book.qos)
    for name in draw(st.lists(st.sampled_from(sorted(accounts) or [""]))):
        if name in accounts:
            accounts[name] = replace(
                accounts[name],
                share=draw(st.none() | st.integers(1, 9)),
                devices_max=draw(st.none() | st.integers(0, 9)),
                qos=draw(st.frozensets(st.sampled_from([*qos, "normal"]))),
                parent=draw(st.sampled_from(["root", accounts[name].parent])),
            )
    for name in draw(st.lists(st.sampled_from(FOREIGN), unique=True)):
        parent = draw(st.sampled_from(["root", *(it for it in accounts if it not in FOREIGN)]))
        accounts[name] = Account(name, parent, 7, 3)
    for account in sorted(accounts):
        for user in draw(st.lists(st.sampled_from(USERS), unique=True, max_size=2)):
            members[account, user] = Membership(account, user, frozenset({"normal"}))
    reservations = {name: it for name, it in book.reservations.items() if it.nodes}
    for name, it in list(reservations.items()):
        if draw(st.booleans()):
            reservations[name] = replace(
                it, is_ending=draw(st.booleans()), draws=draw(st.booleans())
            )
    reservations["maintenance"] = Reservation("maintenance", frozenset({"root"}), frozenset({"q"}))
    made = draw(st.frozensets(st.sampled_from([*sorted(accounts), "root"])))
    if draw(st.booleans()):
        made = frozenset(book.accounts)
    defaults = {}
    for account, user in sorted(members):
        if user not in defaults or draw(st.booleans()):
            defaults[user] = account
    qos["normal"] = Qos("normal", 0)
    return Observed(Book(accounts, members, qos, reservations), made, defaults, RACKS)


def foreign(book: Book) -> Book:
    return Book(
        {name: it for name, it in book.accounts.items() if not name.startswith(PREFIX)},
        {key: it for key, it in book.memberships.items() if not key[0].startswith(PREFIX)},
        {name: it for name, it in book.qos.items() if not name.startswith(PREFIX)},
        {name: it for name, it in book.reservations.items() if not name.startswith(PREFIX)},
    )


@given(tenants(), policies(), clusters())
def test_an_applied_plan_leaves_nothing_to_do_and_others_as_they_were(
    now: Tenants, policy: AccountPolicy, before: Observed
) -> None:
    book = wanted(now, policy, RACKS)
    plan = plan_accounts(book, before, PREFIX)
    after = before
    for action in plan.actions:  # none is refused: parents first, ends before begins
        assert PREFIX in describe(action) or isinstance(action, SetDefaultAccount)
        after = applied(after, action)
    again = plan_accounts(book, after, PREFIX)
    assert again.actions == ()
    assert again.findings == plan.findings
    assert foreign(after.book) == foreign(before.book)
    assert after.book.accounts.items() >= book.accounts.items()
    assert after.book.memberships.items() >= book.memberships.items()
    assert after.book.qos.items() >= book.qos.items()
    ours = {name for name in after.book.reservations if name.startswith(PREFIX)}
    assert ours <= {*book.reservations}
    strangers = {key for key in after.book.memberships if key[0] in book.accounts}
    assert strangers == {*book.memberships}
    stays = {n for n in after.book.accounts if n.startswith(PREFIX)} - {*book.accounts}
    assert all(any(f"account {name} " in told for told in plan.findings) for name in stays)
    assert not any(type(action) is SetDefaultAccount for action in again.actions)


@given(tenants(), policies())
def test_a_fresh_cluster_gets_all_and_loses_all(now: Tenants, policy: AccountPolicy) -> None:
    book = wanted(now, policy, RACKS)
    cluster = Observed(Book(), racks=RACKS)
    for action in plan_accounts(book, cluster, PREFIX).actions:
        cluster = applied(cluster, action)
    nobody = wanted(Tenants((), ()), policy, RACKS)
    for action in plan_accounts(nobody, cluster, PREFIX).actions:
        assert isinstance(action, DropAccount | DropMembership | DropReservation)
        cluster = applied(cluster, action)
    assert cluster.book == Book(qos=book.qos)
    assert not cluster.default_accounts


dns_label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@given(st.lists(st.tuples(dns_label, st.none() | dns_label), unique=True, max_size=20))
def test_accounts_are_told_apart_by_what_slurm_looks_at(
    pairs: list[tuple[str, str | None]],
) -> None:
    made = [names.account_of(PREFIX, *pair) for pair in pairs]
    assert len(set(made)) == len(pairs)
    assert all(len(name) <= 42 and name.startswith(PREFIX) for name in made)
    long = [names.account_of(PREFIX, "x" * 63, f"{'y' * 62}{n}") for n in range(3)]
    assert len(set(long)) == 3


@pytest.mark.parametrize(
    "prefix", ["", "r", "tmt", "_", "tmt_a_", "TMT_", "tmt _", "%_", "x" * 16 + "_"]
)
def test_a_prefix_that_could_claim_others_is_no_prefix(prefix: str) -> None:
    with pytest.raises(ValueError, match="the prefix of accounts must be up to 15 of a-z"):
        plan_accounts(Book(), Observed(Book()), prefix)


def test_what_is_wanted_in_numbers() -> None:
    now = Tenants(
        (Organization("org_a", "acme", 0),),
        (Project("prj_w", "org_a", "web", 0), Project("prj_l", "org_a", "lab", 0)),
        (
            Quota("quo_a", QuotaScope.ORGANIZATION, "org_a", 16, 3),
            Quota("quo_w", QuotaScope.PROJECT, "prj_w", 4),
        ),
        (RackReservation("rsv_1", "org_a", "alps", "rack1"),),
        rack_owners=frozenset({"org_a"}),
    )
    policy = AccountPolicy(PREFIX, {"acme": "u-acme", "acme/lab": "u-lab"})
    plan = plan_accounts(wanted(now, policy, RACKS), Observed(Book()), PREFIX)
    all_qos = qos_of(*PriorityClass)
    standard = "tmt_standard"
    assert [type(it).__name__ for it in plan.actions[:3]] == ["PutQos"] * 3
    assert plan.actions[0].new.name == "tmt_spot"  # what others evict has to be there first
    assert plan.actions[3:] == (
        PutAccount(Account("tmt_acme", "root", 3, 16, all_qos, standard)),
        PutAccount(Account("tmt_acme_lab", "tmt_acme", 1, None, all_qos, standard)),
        PutAccount(Account("tmt_acme_web", "tmt_acme", 1, 4, all_qos, standard)),
        PutMembership(Membership("tmt_acme_lab", "u-lab", all_qos, standard)),
        PutMembership(Membership("tmt_acme_web", "u-acme", all_qos, standard)),
        PutReservation(
            Reservation("tmt_acme_rack1", frozenset({"tmt_acme"}), frozenset({"r1n1", "r1n2"}))
        ),
    )


def qos_of(*named: PriorityClass) -> frozenset[str]:
    return frozenset(names.qos_of(PREFIX, each) for each in named)


RESERVED, STANDARD, SPOT = PriorityClass


@pytest.mark.parametrize(
    ("of_organization", "of_project", "in_use", "has_rack", "expected", "default"),
    [
        (None, None, (), False, (STANDARD, SPOT), STANDARD),
        (None, None, (), True, tuple(PriorityClass), STANDARD),
        ((SPOT,), None, (), True, (SPOT,), SPOT),  # what is named is all
        ((RESERVED, SPOT), None, (), False, (RESERVED, SPOT), SPOT),
        ((RESERVED,), None, (), False, (RESERVED,), RESERVED),
        (None, (SPOT,), (), False, (SPOT,), SPOT),
        (None, (RESERVED, SPOT), (), False, (SPOT,), SPOT),
        (None, None, (RESERVED,), False, tuple(PriorityClass), STANDARD),  # what runs goes on
        (None, (SPOT,), (RESERVED, STANDARD), False, tuple(PriorityClass), SPOT),
        (None, (RESERVED,), (STANDARD,), False, (STANDARD,), STANDARD),
        (None, (RESERVED,), (), False, None, RESERVED),  # nobody may submit
    ],
)
def test_what_users_may_ask_slurm_for(
    *,
    of_organization: classes.Classes | None,
    of_project: classes.Classes | None,
    in_use: classes.Classes,
    has_rack: bool,
    expected: classes.Classes | None,
    default: PriorityClass,
) -> None:
    now = Tenants(
        (Organization("org_a", "acme", 0),),
        (Project("prj_w", "org_a", "web", 0),),
        (
            Quota("quo_a", QuotaScope.ORGANIZATION, "org_a", priority_classes=of_organization),
            Quota("quo_w", QuotaScope.PROJECT, "prj_w", priority_classes=of_project),
        ),
        rack_owners=frozenset({"org_a"} if has_rack else ()),
        classes_in_use={"prj_w": frozenset(in_use)},
    )
    book = wanted(now, AccountPolicy(PREFIX, {}, "u"), RACKS)
    account = book.accounts["tmt_acme_web"]
    assert account.default_qos == names.qos_of(PREFIX, default)
    if expected is None:
        assert book.memberships == {}
        return
    membership = Membership("tmt_acme_web", "u", qos_of(*expected), account.default_qos)
    assert book.memberships == {("tmt_acme_web", "u"): membership}
    assert account.qos == membership.qos


def test_words_for_people() -> None:
    seen = Account("tmt_a", "root", 1, 99, frozenset({"normal"}))
    put = PutAccount(replace(seen, devices_max=16, qos=frozenset()), seen)
    assert describe(put) == "account tmt_a differs: devices max 99 -> 16, qos normal -> none"
    assert describe(PutAccount(seen)) == "account tmt_a is missing: made"
    config = {"AccountingStorageEnforce": "associations", "PreemptType": "preempt/none"}
    shares = Book({"a": replace(seen, share=3), "b": seen})
    told = plan_accounts(shares, Observed(Book(), config=config), PREFIX).findings
    assert [line.split(":")[0] for line in told] == [
        "quotas and classes are not enforced",
        "devices are not counted",
        "no class evicts another",
        "shares decide nothing",
    ]
    assert "limits,qos" in told[0]
    fine = {
        "AccountingStorageEnforce": "associations,limits,qos",
        "AccountingStorageTRES": "cpu,gres/gpu",
        "PreemptType": "preempt/qos",
        "PreemptMode": "REQUEUE",
        "PriorityWeightFairShare": "1000",
    }
    assert plan_accounts(shares, Observed(Book(), config=fine), PREFIX).findings == ()
