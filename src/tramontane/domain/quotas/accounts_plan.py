"""From what a cluster has to what it should have: ordered actions, and what only a person can do.

What does not begin with the prefix is never touched, and of accounts that are no longer wanted only
those that carry this installation's mark. The plan of an applied plan is empty.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from tramontane.domain.quotas import names
from tramontane.domain.quotas.accounts import ROOT, Account, Book, Membership, Observed, Qos
from tramontane.domain.quotas.accounts import Reservation as Kept


@dataclass(frozen=True, slots=True)
class PutQos:
    """Make the QOS, or change ``seen`` into it."""

    new: Qos
    seen: Qos | None = None


@dataclass(frozen=True, slots=True)
class PutAccount:
    """Make the account, or change ``seen`` into it."""

    new: Account
    seen: Account | None = None


@dataclass(frozen=True, slots=True)
class PutMembership:
    """Let the user submit to the account, or change ``seen`` into it."""

    new: Membership
    seen: Membership | None = None


@dataclass(frozen=True, slots=True)
class PutReservation:
    """Reserve the nodes, or change ``seen`` into it."""

    new: Kept
    seen: Kept | None = None


@dataclass(frozen=True, slots=True)
class DropReservation:
    """End the reservation."""

    name: str


@dataclass(frozen=True, slots=True)
class SetDefaultAccount:
    """Give the user another default account: the one that it has is taken away."""

    user: str
    account: str


@dataclass(frozen=True, slots=True)
class DropMembership:
    """Let the user submit to the account no more."""

    account: str
    user: str


@dataclass(frozen=True, slots=True)
class DropAccount:
    """Remove the account; nothing is below it any more."""

    name: str


Action = (
    PutQos
    | PutAccount
    | PutMembership
    | PutReservation
    | DropReservation
    | SetDefaultAccount
    | DropMembership
    | DropAccount
)


@dataclass(frozen=True, slots=True)
class AccountsPlan:
    """What to do, in this order; ``findings`` say in words what is left to a person."""

    actions: tuple[Action, ...] = ()
    findings: tuple[str, ...] = ()


def plan_accounts(wanted: Book, observed: Observed, prefix: str) -> AccountsPlan:
    """Return how ``observed`` becomes ``wanted`` where it is ours.

    Raises ValueError for a prefix that could claim the names of others.
    """
    if not names.is_prefix(prefix):
        raise ValueError(f"the prefix of accounts must be {names.PREFIX_WORDS}, not {prefix!r}")
    seen = observed.book
    doomed, findings = _doomed(wanted, observed, prefix)
    # A default account is the last that its user leaves.
    gone = sorted(
        (key for key in seen.memberships if _is_unwanted(key, wanted, doomed)),
        key=lambda key: (observed.default_accounts.get(key[1]) == key[0], key),
    )
    actions: list[Action] = []
    for qos in sorted(wanted.qos.values(), key=lambda each: (bool(each.preempts), each.name)):
        if seen.qos.get(qos.name) != qos:
            actions.append(PutQos(qos, seen.qos.get(qos.name)))
    accounts = [
        PutAccount(account, seen.accounts.get(account.name))
        for account in sorted(wanted.accounts.values(), key=lambda it: (it.parent != ROOT, it.name))
        if seen.accounts.get(account.name) != account
    ]
    actions += [action for action in accounts if action.seen is None]
    for key, membership in sorted(wanted.memberships.items()):
        if seen.memberships.get(key) != membership:
            actions.append(PutMembership(membership, seen.memberships.get(key)))
    actions += _reservations(wanted, seen, prefix)
    actions += _defaults(wanted, observed, gone)
    actions += [DropMembership(*key) for key in gone]
    # Slurm gives an account a default QOS only if all who are in it may ask for that one already.
    actions += [action for action in accounts if action.seen is not None]
    actions += [DropAccount(name) for name in _children_first(doomed, seen.accounts)]
    lacking = [kept for kept in wanted.reservations.values() if not kept.nodes]
    findings += [_no_rack(kept, prefix) for kept in lacking]
    return AccountsPlan(tuple(actions), (*findings, *config_findings(wanted, observed.config)))


def config_findings(wanted: Book, config: Mapping[str, str]) -> Iterator[str]:
    """Yield what in the cluster's own configuration keeps quotas and classes from holding."""
    if not config:
        return
    enforced = _listed(config, "AccountingStorageEnforce")
    lacking = [word for word in ("associations", "limits", "qos") if word not in enforced]
    if lacking:
        yield (
            "quotas and classes are not enforced: add "
            f"{','.join(lacking)} to AccountingStorageEnforce in slurm.conf"
        )
    if "gres/gpu" not in _listed(config, "AccountingStorageTRES"):
        yield "devices are not counted: add gres/gpu to AccountingStorageTRES in slurm.conf"
    if config.get("PreemptType", "").casefold() != "preempt/qos":
        yield "no class evicts another: set PreemptType=preempt/qos in slurm.conf"
    elif config.get("PreemptMode", "OFF").casefold() == "off":
        yield "no class evicts another: set PreemptMode=REQUEUE or CANCEL in slurm.conf"
    has_shares = len({account.share for account in wanted.accounts.values()}) > 1
    weight = config.get("PriorityWeightFairShare", "0").strip()
    if has_shares and weight in {"", "0"}:
        yield (
            "shares decide nothing: set PriorityType=priority/multifactor and "
            "PriorityWeightFairshare in slurm.conf"
        )


def describe(action: Action) -> str:
    """Return what the action does in words, with both values of what it changes."""
    match action:
        case PutQos(new, seen):
            return _told(f"class {new.name}", seen, new)
        case PutAccount(new, seen):
            return _told(f"account {new.name}", seen, new)
        case PutMembership(new, seen):
            return _told(f"user {new.user} in account {new.account}", seen, new)
        case PutReservation(new, seen):
            return _told(f"reservation {new.name}", seen, new)
        case DropReservation(name):
            return f"reservation {name} is not wanted: removed"
        case SetDefaultAccount(user, account):
            return f"user {user} has the default account {account} now"
        case DropMembership(account, user):
            return f"user {user} is not wanted in account {account}: removed"
        case DropAccount(name):
            return f"account {name} is not wanted: removed"


def _doomed(wanted: Book, observed: Observed, prefix: str) -> tuple[set[str], list[str]]:
    """Return the accounts to remove, and why others that are not wanted stay."""
    accounts = observed.book.accounts
    unwanted = {name for name in accounts if name.startswith(prefix)} - set(wanted.accounts)
    doomed = unwanted & observed.made_here
    findings = [
        f"account {name} begins like ours and was not made by this installation: it stays"
        for name in sorted(unwanted - doomed)
    ]
    # What is wanted leaves its old parent in the same plan; whatever else is below holds it.
    others = [it for it in accounts.values() if it.name not in wanted.accounts]
    while held := {
        it.parent: it.name for it in others if it.parent in doomed and it.name not in doomed
    }:
        doomed -= set(held)
        findings += [
            f"account {name} is not wanted and stays: {child} below it is not ours to remove"
            for name, child in sorted(held.items())
        ]
    return doomed, findings


def _is_unwanted(key: tuple[str, str], wanted: Book, doomed: Collection[str]) -> bool:
    is_stranger = key[0] in wanted.accounts and key not in wanted.memberships
    return is_stranger or key[0] in doomed


def _reservations(wanted: Book, seen: Book, prefix: str) -> Iterator[Action]:
    """Yield the ends first: a rack goes from one organization to the next in one plan."""
    for name in sorted(seen.reservations):
        if name.startswith(prefix) and name not in wanted.reservations:
            yield DropReservation(name)
    for name, kept in sorted(wanted.reservations.items()):
        if kept.nodes and seen.reservations.get(name) != kept:
            yield PutReservation(kept, seen.reservations.get(name))


def _defaults(
    wanted: Book, observed: Observed, gone: Collection[tuple[str, str]]
) -> Iterator[Action]:
    """Yield another default for each user who loses its own and keeps something."""
    losers = {user for account, user in gone if observed.default_accounts.get(user) == account}
    left = ({*observed.book.memberships} | {*wanted.memberships}) - {*gone}
    for user in sorted(losers):
        kept = sorted(account for account, its_user in left if its_user == user)
        if kept:
            ours = [account for account in kept if account in wanted.accounts]
            yield SetDefaultAccount(user, (ours or kept)[0])


def _children_first(doomed: Collection[str], accounts: Mapping[str, Account]) -> list[str]:
    def depth(name: str) -> int:
        steps, at = 0, name
        while at in doomed and steps <= len(doomed):
            at, steps = accounts[at].parent, steps + 1
        return steps

    return sorted(doomed, key=lambda name: (-depth(name), name))


def _no_rack(kept: Kept, prefix: str) -> str:
    rack = kept.name.removeprefix(prefix).partition("_")[2]
    return f"rack {rack} cannot be reserved: the cluster's topology has no such rack"


def _listed(config: Mapping[str, str], parameter: str) -> set[str]:
    return {word.strip().casefold() for word in config.get(parameter, "").split(",")}


def _told(
    what: str,
    seen: Account | Membership | Qos | Kept | None,
    new: Account | Membership | Qos | Kept,
) -> str:
    if seen is None:
        return f"{what} is missing: made"
    parts = [
        f"{name.replace('_', ' ')} {_shown(getattr(seen, name))} -> {_shown(getattr(new, name))}"
        for name in type(new).__slots__
        if getattr(seen, name) != getattr(new, name)
    ]
    return f"{what} differs: {', '.join(parts)}"


def _shown(value: object) -> str:
    if isinstance(value, frozenset):
        return ",".join(sorted(str(item) for item in value)) or "none"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return "none" if value is None else str(value)
