"""What a Slurm cluster knows of tenants, and what it should know.

The values are the same for both: a plan is the difference. `wanted` says what should be there,
from organizations, projects, quotas and reserved racks alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tramontane.domain.launch import PriorityClass
from tramontane.domain.quotas import classes, names
from tramontane.domain.quotas.classes import Classes
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

    ``reservations`` are those of one cluster, ``rack_owners`` the organizations that have one on
    any. ``classes_in_use`` are those of deployments and of jobs that are not over, by project.
    """

    organizations: tuple[Organization, ...]
    projects: tuple[Project, ...]
    quotas: tuple[Quota, ...] = ()
    reservations: tuple[RackReservation, ...] = ()
    rack_owners: frozenset[str] = frozenset()
    classes_in_use: Mapping[str, frozenset[PriorityClass]] = field(
        default_factory=dict[str, frozenset[PriorityClass]]
    )


def wanted(tenants: Tenants, policy: AccountPolicy, racks: Mapping[str, str]) -> Book:
    """Return what the cluster should have; ``racks`` is rack by node.

    A reserved rack that the cluster does not have becomes a reservation without nodes. Classes
    that something of a project has, though it may ask for them no more, stay open to it: what
    runs goes on, and so do its next attempts and replicas.
    """
    quotas = {quota.subject_id: quota for quota in tenants.quotas}
    organizations = {each.id: each for each in tenants.organizations}
    accounts: dict[str, Account] = {}
    memberships: dict[tuple[str, str], Membership] = {}

    def account(subject_id: str, name: str, parent: str, opened: _Opened) -> None:
        quota = quotas.get(subject_id)
        accounts[name] = Account(
            name=name,
            parent=parent,
            share=quota.share if quota else SHARE_DEFAULT,
            devices_max=quota.devices_max if quota else None,
            qos=opened.qos,
            default_qos=opened.default_qos,
        )

    may_ask: dict[str, Classes] = {}
    for each in tenants.organizations:
        has_rack = each.id in tenants.rack_owners
        may_ask[each.id] = classes.of_organization(quotas.get(each.id), has_rack=has_rack)
        opened = _opened(policy.prefix, may_ask[each.id])
        account(each.id, names.account_of(policy.prefix, each.name), ROOT, opened)
    for project in tenants.projects:
        owner = organizations[project.organization_id].name
        name = names.account_of(policy.prefix, owner, project.name)
        quota = quotas.get(project.id)
        allowed = classes.of_project(may_ask[project.organization_id], quota)
        in_use = classes.ordered(tenants.classes_in_use.get(project.id, ()))
        is_closed = not allowed and not in_use
        # A closed account keeps what its quota names, and loses its user: Slurm has no empty list.
        closed = quota.priority_classes if quota and is_closed else None
        opened = _opened(policy.prefix, allowed or closed or (), in_use)
        account(project.id, name, names.account_of(policy.prefix, owner), opened)
        user = names.user_of(policy.users, policy.default_user, owner, project.name)
        if user is not None and not is_closed:
            memberships[name, user] = Membership(name, user, opened.qos, opened.default_qos)
    kept_racks = _reservations(tenants, policy.prefix, racks)
    return Book(accounts, memberships, _qos(policy.prefix), kept_racks)


@dataclass(frozen=True, slots=True)
class _Opened:
    qos: frozenset[str]
    default_qos: str


def _opened(prefix: str, allowed: Classes, in_use: Classes = ()) -> _Opened:
    """Return the QOS of an account, and that of what asks for none: never one only in use."""
    default = classes.nearest(DEFAULT_CLASS, allowed or in_use) or DEFAULT_CLASS
    opened = {*allowed, *in_use, default}
    qos = frozenset(names.qos_of(prefix, each) for each in opened)
    return _Opened(qos, names.qos_of(prefix, default))


def _qos(prefix: str) -> dict[str, Qos]:
    spot = names.qos_of(prefix, PriorityClass.SPOT)
    qos: dict[str, Qos] = {}
    for priority_class, priority in PRIORITIES.items():
        name = names.qos_of(prefix, priority_class)
        evicts = frozenset[str]() if name == spot else frozenset({spot})
        qos[name] = Qos(name, priority, evicts)
    return qos


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
