"""What a Slurm cluster knows of tenants, and what it should know.

The values are the same for both: a plan is the difference. `wanted` says what should be there,
from organizations, projects, quotas and reserved racks alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tramontane.domain.launch import PriorityClass
from tramontane.domain.quotas import names
from tramontane.domain.quotas.quota import SHARE_DEFAULT, Quota, RackReservation
from tramontane.domain.tenancy import Organization, Project

ROOT: Final = "root"  # the account above all others
# An evicted job has to be told by its state PREEMPTED. With a grace time of the QOS, Slurm 22.05
# shows one that ends within it as COMPLETED; without, it still waits KillWait (slurm.conf, 30 s
# unless set) between SIGTERM and SIGKILL.
GRACE_S: Final = 0
CANCEL: Final = "cancel"  # an evicted attempt ends, and another one is made: never requeued
PRIORITIES: Final = {
    PriorityClass.RESERVED: 1_000,
    PriorityClass.STANDARD: 500,
    PriorityClass.SPOT: 0,
}
DEFAULT_CLASS: Final = PriorityClass.STANDARD


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the cluster. ``share`` None is its parent's own, ``devices_max`` None open.

    ``qos`` are those that its jobs may ask for, its own or its parent's.
    """

    name: str
    parent: str
    share: int | None = SHARE_DEFAULT
    devices_max: int | None = None
    qos: frozenset[str] = frozenset()
    default_qos: str | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    """A Unix user who may submit to an account, and with which QOS."""

    account: str
    user: str
    qos: frozenset[str] = frozenset()
    default_qos: str | None = None


@dataclass(frozen=True, slots=True)
class Qos:
    """A class as the cluster knows it. ``preempts`` are those that it evicts."""

    name: str
    priority: int = 0
    preempts: frozenset[str] = frozenset()
    grace_s: int = GRACE_S
    mode: str = CANCEL


@dataclass(frozen=True, slots=True)
class Reservation:
    """Nodes that only jobs of some accounts, and of those below them, may use.

    ``draws``: such jobs start there without asking for it. ``is_ending``: it has to be renewed.
    """

    name: str
    accounts: frozenset[str]
    nodes: frozenset[str]
    draws: bool = True
    is_ending: bool = False


@dataclass(frozen=True, slots=True)
class Book:
    """Accounts, memberships (by account and user), classes and reservations, by name."""

    accounts: Mapping[str, Account] = field(default_factory=dict[str, Account])
    memberships: Mapping[tuple[str, str], Membership] = field(
        default_factory=dict[tuple[str, str], Membership]
    )
    qos: Mapping[str, Qos] = field(default_factory=dict[str, Qos])
    reservations: Mapping[str, Reservation] = field(default_factory=dict[str, Reservation])


@dataclass(frozen=True, slots=True)
class Observed:
    """What a cluster has, of others too.

    ``made_here`` are the accounts that carry this installation's mark. ``default_accounts`` are
    by user. ``racks`` are rack by node. ``config`` is the cluster's own, by parameter.
    """

    book: Book
    made_here: frozenset[str] = frozenset()
    default_accounts: Mapping[str, str] = field(default_factory=dict[str, str])
    racks: Mapping[str, str] = field(default_factory=dict[str, str])
    config: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class AccountPolicy:
    """How a cluster's names are made: the settings of its section."""

    prefix: str
    users: Mapping[str, str] = field(default_factory=dict[str, str])
    default_user: str | None = None


@dataclass(frozen=True, slots=True)
class Tenants:
    """Everything of the store that accounts follow from; ``projects`` are those not archived.

    ``reservations`` are those of one cluster.
    """

    organizations: tuple[Organization, ...]
    projects: tuple[Project, ...]
    quotas: tuple[Quota, ...] = ()
    reservations: tuple[RackReservation, ...] = ()


def wanted(tenants: Tenants, policy: AccountPolicy, racks: Mapping[str, str]) -> Book:
    """Return what the cluster should have; ``racks`` is rack by node.

    A reserved rack that the cluster does not have becomes a reservation without nodes.
    """
    classes = _classes(policy.prefix)
    allowed = frozenset(classes)
    default_qos = names.qos_of(policy.prefix, DEFAULT_CLASS)
    quotas = {quota.subject_id: quota for quota in tenants.quotas}
    organizations = {each.id: each for each in tenants.organizations}
    accounts: dict[str, Account] = {}
    memberships: dict[tuple[str, str], Membership] = {}

    def account(subject_id: str, name: str, parent: str) -> None:
        quota = quotas.get(subject_id)
        accounts[name] = Account(
            name=name,
            parent=parent,
            share=quota.share if quota else SHARE_DEFAULT,
            devices_max=quota.devices_max if quota else None,
            qos=allowed,
            default_qos=default_qos,
        )

    for each in tenants.organizations:
        account(each.id, names.account_of(policy.prefix, each.name), ROOT)
    for project in tenants.projects:
        owner = organizations[project.organization_id].name
        name = names.account_of(policy.prefix, owner, project.name)
        account(project.id, name, names.account_of(policy.prefix, owner))
        user = names.user_of(policy.users, policy.default_user, owner, project.name)
        if user is not None:
            memberships[name, user] = Membership(name, user, allowed, default_qos)
    return Book(accounts, memberships, classes, _reservations(tenants, policy.prefix, racks))


def _classes(prefix: str) -> dict[str, Qos]:
    spot = names.qos_of(prefix, PriorityClass.SPOT)
    classes: dict[str, Qos] = {}
    for priority_class, priority in PRIORITIES.items():
        name = names.qos_of(prefix, priority_class)
        evicts = frozenset[str]() if name == spot else frozenset({spot})
        classes[name] = Qos(name, priority, evicts)
    return classes


def _reservations(
    tenants: Tenants, prefix: str, racks: Mapping[str, str]
) -> dict[str, Reservation]:
    organizations = {each.id: each.name for each in tenants.organizations}
    kept: dict[str, Reservation] = {}
    for reservation in tenants.reservations:
        owner = organizations[reservation.organization_id]
        name = names.reservation_of(prefix, owner, reservation.rack)
        kept[name] = Reservation(
            name=name,
            accounts=frozenset({names.account_of(prefix, owner)}),
            nodes=frozenset(_nodes(racks.items(), reservation.rack)),
        )
    return kept


def _nodes(racks: Iterable[tuple[str, str]], rack: str) -> Iterable[str]:
    return (node for node, its_rack in racks if its_rack == rack)
