"""Accounts, classes, users and reservations of a Slurm cluster, by sacctmgr and scontrol.

Reads are lists of named columns, which every version of Slurm prints alike; writes are one command
per action. Why not by slurmrestd: docs/decisions/0021-slurm-accounts.md. What to do is decided in
`domain.quotas.accounts_plan`; nothing here chooses.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from tramontane.domain.quotas.accounts import (
    Account,
    AccountPolicy,
    Book,
    Membership,
    Observed,
    Qos,
    Reservation,
)
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
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm.commands import Commands, parse_fields, racks
from tramontane.drivers.slurm.dialects import hostlist
from tramontane.runtime.clock import Clock

CONFIG_AGE_S: Final = 300.0
# Slurm's "infinite" reservation ends after a year; it is renewed a month before.
RENEW_MS: Final = 30 * 86_400_000
_RESERVED: Final = "magnetic,ignore_jobs"
_DEVICES: Final = re.compile(r"(?:^|,)gres/gpu=(\d+)(?:,|$)")
_DURATION: Final = re.compile(r"(?:(\d+)-)?(\d+):(\d+):(\d+)")


class SlurmAccounts:
    """One cluster's accounts. ``mark`` is the installation's id: it stands in what is made here."""

    def __init__(
        self, commands: Commands, policy: AccountPolicy, *, mark: str, clock: Clock
    ) -> None:
        self._commands = commands
        self._policy = policy
        self._mark = mark
        self._clock = clock

    @property
    def policy(self) -> AccountPolicy:
        """How names are made on this cluster."""
        return self._policy

    def observe(self) -> Observed:
        """Return what the cluster has, of others too; raises `DriverUnavailableError`."""
        config = self._config()
        cluster = _cluster_of(config)
        shown = self._list("associations", _ASSOCIATION, f"cluster={cluster}")
        accounts: dict[str, Account] = {}
        memberships: dict[tuple[str, str], Membership] = {}
        for name, user, parent, share, tres, qos, default_qos, partition in shown:
            allowed, default = _names(qos), default_qos or None
            if user and not partition:
                memberships[name, user] = Membership(name, user, allowed, default)
            elif not user:
                accounts[name] = Account(
                    name, parent, _number(share), _devices(tres), allowed, default
                )
        kept = self._commands.run("scontrol", "--oneliner", "show", "reservation")
        users = self._list("user", ("user", "defaultaccount"), "withassoc", f"cluster={cluster}")
        records = self._list("account", ("account", "organization"))
        return Observed(
            book=Book(
                accounts,
                memberships,
                {row[0]: _qos(row) for row in self._list("qos", _QOS)},
                parse_reservations(kept, self._clock.now_ms() + RENEW_MS),
            ),
            made_here=frozenset(name for name, mark in records if mark == self._mark),
            default_accounts={user: account for user, account in users if account},
            racks=racks(self._commands),
            config=config,
        )

    def apply(self, action: Action) -> None:
        """Carry ``action`` out.

        Raises `DriverUnavailableError` for an outage, `ClusterRefusedError` for a no.
        """
        cluster = _cluster_of(self._config())
        for argv in commands_of(action, cluster, self._mark):
            self._commands.run(*argv)
        if isinstance(action, DropAccount):
            self._drop_record(action.name)

    def _drop_record(self, name: str) -> None:
        """Remove what is left of an account that no cluster of the database has any more."""
        if not self._list("associations", ("cluster",), f"account={name}"):
            self._commands.run("sacctmgr", "-Qi", "delete", "account", f"name={name}")

    def _config(self) -> dict[str, str]:
        printed = self._commands.kept("scontrol", "show", "config", age_s=CONFIG_AGE_S)
        pairs = (line.partition("=") for line in printed.splitlines())
        return {name.strip(): value.strip() for name, equals, value in pairs if equals}

    def _list(self, noun: str, columns: Sequence[str], *conditions: str) -> list[list[str]]:
        argv = ("sacctmgr", "-nP", "list", noun, *conditions, f"format={','.join(columns)}")
        rows = [line.split("|") for line in self._commands.run(*argv).splitlines() if line]
        if any(len(row) != len(columns) for row in rows):
            msg = f"sacctmgr lists {noun} in another form than {','.join(columns)}"
            raise DriverUnavailableError(msg)
        return rows


_ASSOCIATION: Final = (
    "account",
    "user",
    "parentname",
    "fairshare",
    "grptres",
    "qos",
    "defaultqos",
    "partition",
)
_QOS: Final = ("name", "priority", "preempt", "gracetime", "preemptmode")


def commands_of(action: Action, cluster: str, mark: str) -> Iterator[tuple[str, ...]]:
    """Yield the commands that carry ``action`` out, one argument per word."""
    of, change = f"cluster={cluster}", ("sacctmgr", "-Qi")
    match action:
        case PutQos(new, None):
            yield (*change, "add", "qos", f"name={new.name}", *_qos_options(new, Qos(new.name)))
        case PutQos(new, seen):
            options = _qos_options(new, seen or Qos(new.name))
            yield (*change, "modify", "qos", f"name={new.name}", "set", *options)
        case PutAccount(new, None):
            made = (f"parent={new.parent}", f"description={new.name}", f"organization={mark}")
            limits = _account_options(new, None)
            yield (*change, "add", "account", f"name={new.name}", of, *made, *limits)
        case PutAccount(new, seen):
            options = _account_options(new, seen)
            yield (*change, "modify", "account", f"name={new.name}", of, "set", *options)
        case PutMembership(new, None):
            who = (f"name={new.user}", f"account={new.account}", of)
            yield (*change, "add", "user", *who, *_qos_of(new, None))
        case PutMembership(new, seen):
            who = (f"name={new.user}", f"account={new.account}", of)
            yield (*change, "modify", "user", *who, "set", *_qos_of(new, seen))
        case SetDefaultAccount(user, account):
            default = f"defaultaccount={account}"
            yield (*change, "modify", "user", f"name={user}", of, "set", default)
        case DropMembership(account, user):
            yield (*change, "delete", "user", f"name={user}", f"account={account}", of)
        case DropAccount(name):
            yield (*change, "delete", "account", f"name={name}", of)
        case PutReservation() | DropReservation():
            yield _reserve(action)


def parse_reservations(printed: str, ending_ms: int) -> dict[str, Reservation]:
    """Return the reservations in the lines of ``scontrol --oneliner show reservation``.

    ``ending_ms`` is before when one has to be renewed. Times are those of UTC.
    """
    found: dict[str, Reservation] = {}
    for line in printed.splitlines():
        fields = parse_fields(line)
        name = fields.get("ReservationName")
        if not name:
            continue
        found[name] = Reservation(
            name=name,
            accounts=_names(_or_nothing(fields.get("Accounts"))),
            nodes=_nodes(_or_nothing(fields.get("Nodes"))),
            draws="MAGNETIC" in fields.get("Flags", "").split(","),
            is_ending=_moment_ms(fields.get("EndTime", "")) < ending_ms,
        )
    return found


def _reserve(action: PutReservation | DropReservation) -> tuple[str, ...]:
    match action:
        case DropReservation(name):
            return ("scontrol", "delete", f"reservationname={name}")
        case PutReservation(new, None):
            when = ("starttime=now", "duration=infinite", f"flags={_RESERVED}")
            return ("scontrol", "create", "reservation", *_reservation_options(new), *when)
        case PutReservation(new, seen):
            is_ending = seen is not None and seen.is_ending
            longer = ("endtime=now+365days",) if is_ending else ()
            return ("scontrol", "update", *_reservation_options(new), "flags+=magnetic", *longer)


def _qos_options(new: Qos, seen: Qos) -> Iterator[str]:
    """Yield what differs, and the mode.

    Never ``preempt=``: Slurm 22.05 takes the empty list for a loop and refuses whatever follows.
    """
    if new.priority != seen.priority:
        yield f"priority={new.priority}"
    if new.grace_s != seen.grace_s:
        yield f"gracetime={new.grace_s}"
    for name in sorted(seen.preempts - new.preempts):
        yield f"preempt-={name}"
    for name in sorted(new.preempts - seen.preempts):
        yield f"preempt+={name}"
    yield f"preemptmode={new.mode}"


def _account_options(new: Account, seen: Account | None) -> Iterator[str]:
    """Yield what differs. -1 takes a bound away; other bounds of the account are left."""
    if seen is not None and seen.parent != new.parent:
        yield f"parent={new.parent}"
    if seen is None or seen.share != new.share:
        yield f"fairshare={'parent' if new.share is None else new.share}"
    if (seen.devices_max if seen else None) != new.devices_max:
        yield f"grptres=gres/gpu={-1 if new.devices_max is None else new.devices_max}"
    yield from _qos_of(new, seen)


def _qos_of(new: Account | Membership, seen: Account | Membership | None) -> Iterator[str]:
    if new.qos and (seen is None or (seen.qos, seen.default_qos) != (new.qos, new.default_qos)):
        yield f"qos={','.join(sorted(new.qos))}"
        if new.default_qos:
            yield f"defaultqos={new.default_qos}"


def _reservation_options(new: Reservation) -> tuple[str, str, str]:
    return (
        f"reservationname={new.name}",
        f"nodes={','.join(sorted(new.nodes))}",
        f"accounts={','.join(sorted(new.accounts))}",
    )


def _qos(row: Sequence[str]) -> Qos:
    name, priority, preempts, grace, mode = row
    return Qos(name, _number(priority) or 0, _names(preempts), _seconds(grace), mode.casefold())


def _cluster_of(config: dict[str, str]) -> str:
    name = config.get("ClusterName", "")
    if not name:
        msg = "scontrol show config does not tell the name of the cluster"
        raise DriverUnavailableError(msg)
    return name


def _names(listed: str) -> frozenset[str]:
    return frozenset(name for name in listed.split(",") if name)


def _nodes(listed: str) -> frozenset[str]:
    """Return the nodes; none for a list that cannot be read: most reservations are of others."""
    try:
        return frozenset(hostlist.expand(listed))
    except ValueError:
        return frozenset()


def _number(shown: str) -> int | None:
    """Return a number; None for a word such as ``parent``."""
    return int(shown) if shown.isascii() and shown.isdigit() else None


def _devices(tres: str) -> int | None:
    found = _DEVICES.search(tres)
    return int(found[1]) if found else None


def _seconds(shown: str) -> int:
    found = _DURATION.fullmatch(shown)
    if found is None:
        return 0
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _or_nothing(shown: str | None) -> str:
    return "" if shown is None or shown == "(null)" else shown


def _moment_ms(shown: str) -> int:
    try:
        at = datetime.fromisoformat(shown).replace(tzinfo=UTC)
    except ValueError:
        return 1 << 62  # "NONE": it never ends
    return int(at.timestamp() * 1_000)
