"""Accounts of no cluster: a book in memory that follows Slurm's rules, for tests and simulation."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from tramontane.domain.quotas.accounts import Account, AccountPolicy, Book, Observed
from tramontane.domain.quotas.accounts_plan import (
    Action,
    DropAccount,
    DropMembership,
    DropReservation,
    PutAccount,
    PutMembership,
    PutQos,
    PutReservation,
    SetDefaultAccount,
)
from tramontane.drivers.accounts import ClusterRefusedError
from tramontane.drivers.base import DriverUnavailableError

K = TypeVar("K")
V = TypeVar("V")


class FakeAccounts:
    """Holds what was applied. ``is_down`` makes every call an outage.

    As in Slurm, an account needs its parent, a membership its account, a class those that it
    evicts; what is used by something else is not removed.
    """

    def __init__(self, policy: AccountPolicy, observed: Observed | None = None) -> None:
        self.policy = policy
        self.observed = observed or Observed(Book())
        self.applied: list[Action] = []
        self.is_down = False

    def observe(self) -> Observed:
        """Return the book as it is."""
        self._check_up()
        return self.observed

    def apply(self, action: Action) -> None:
        """Change the book; raises `ClusterRefusedError` as Slurm would refuse."""
        self._check_up()
        self.observed = applied(self.observed, action)
        self.applied.append(action)

    def _check_up(self) -> None:
        if self.is_down:
            raise DriverUnavailableError("the fake cluster is down")


def applied(observed: Observed, action: Action) -> Observed:
    """Return what a cluster has after ``action``; raises `ClusterRefusedError`."""
    book = observed.book
    match action:
        case PutQos(new, _):
            _need(new.preempts, book.qos, f"QOS {new.name} evicts")
            book = replace(book, qos={**book.qos, new.name: new})
        case PutAccount(new, seen):
            _need({new.parent}, {**book.accounts, "root": None}, f"account {new.name} is below")
            _need(new.qos, book.qos, f"account {new.name} has the QOS")
            _check_default(book, new, seen)
            book = replace(book, accounts={**book.accounts, new.name: new})
            made = observed.made_here | (frozenset() if seen else {new.name})
            return replace(observed, book=book, made_here=made)
        case PutMembership(new, _):
            _need({new.account}, book.accounts, f"user {new.user} is in")
            key = (new.account, new.user)
            defaults = {new.user: new.account, **observed.default_accounts}
            book = replace(book, memberships={**book.memberships, key: new})
            return replace(observed, book=book, default_accounts=defaults)
        case PutReservation(new, _):
            _check_free(book, new.name, new.nodes)
            _need(new.accounts, book.accounts, f"reservation {new.name} is for")
            kept = replace(new, is_ending=False)
            book = replace(book, reservations={**book.reservations, new.name: kept})
        case DropReservation(name):
            book = replace(book, reservations=_without(book.reservations, name))
        case SetDefaultAccount(user, account):
            _need({(account, user)}, book.memberships, f"user {user} has the default")
            defaults = {**observed.default_accounts, user: account}
            return replace(observed, default_accounts=defaults)
        case DropMembership(account, user):
            left = _without(book.memberships, (account, user))
            others = any(key[1] == user for key in left)
            if others and observed.default_accounts.get(user) == account:
                raise ClusterRefusedError(f"{account} is the default account of {user}")
            defaults = observed.default_accounts
            defaults = defaults if others else _without(defaults, user)
            book = replace(book, memberships=left)
            return replace(observed, book=book, default_accounts=defaults)
        case DropAccount(name):
            users = [key for key in book.memberships if key[0] == name]
            below = [it.name for it in book.accounts.values() if it.parent == name]
            if users or below:
                raise ClusterRefusedError(f"account {name} is in use")
            book = replace(book, accounts=_without(book.accounts, name))
            made = observed.made_here - {name}
            return replace(observed, book=book, made_here=made)
    return replace(observed, book=book)


def _check_default(book: Book, new: Account, seen: Account | None) -> None:
    """Refuse a default QOS, when it is given with a change, that a user of the account lacks."""
    is_given = seen is not None and (seen.qos, seen.default_qos) != (new.qos, new.default_qos)
    for (account, user), its in book.memberships.items():
        if is_given and account == new.name and new.default_qos not in {None, *its.qos}:
            raise ClusterRefusedError(f"user {user} of {new.name} lacks its default QOS")


def _check_free(book: Book, name: str, nodes: frozenset[str]) -> None:
    for other in book.reservations.values():
        if other.name != name and other.nodes & nodes:
            raise ClusterRefusedError(f"reservation {other.name} has nodes of {name}")


def _need(keys: Iterable[K], known: Mapping[K, object], what: str) -> None:
    for key in keys:
        if key not in known:
            raise ClusterRefusedError(f"{what} {key}, which there is not")


def _without(mapping: Mapping[K, V], key: K) -> dict[K, V]:
    return {name: value for name, value in mapping.items() if name != key}
