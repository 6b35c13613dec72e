"""Takes the reports of runners, each with the secret of its own replica or attempt."""

import hmac
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tramontane.domain import ids
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.replica import ReplicaStatus
from tramontane.domain.report import RunnerReport
from tramontane.runtime.clock import Clock
from tramontane.store import fleet, replicas
from tramontane.store.db import Database, Transaction
from tramontane.store.jobs import attempts
from tramontane.store.reports import runners

# Those below are the system's own services; engines listen where any process may.
PORT_MIN: Final = 1024
# A runner gives an exchange up after 15 s. What is older by more is no older report: the clock of
# its node was set back.
OVERTAKEN_MS_MAX: Final = 30_000
_IP = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_OVER: Final = frozenset({ReplicaStatus.STOPPED, ReplicaStatus.FAILED})
_NO_SECRET: Final = "\0"  # noqa: S105 - what no header can hold


@dataclass(frozen=True, slots=True)
class _Known:
    """What the store knows of whom a report is about."""

    secret: str
    is_wanted: bool
    cluster_id: str


class RunnerReports:
    """Use cases of reports. The wakes are called after what changes plans, by request threads.

    ``networks`` are, by cluster name, those in which its engines listen (CIDR).
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        wake_replicas: Callable[[], None],
        wake_jobs: Callable[[], None],
        networks: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._networks = {
            name: tuple(map(ipaddress.ip_network, listed))
            for name, listed in (networks or {}).items()
            if listed
        }
        self._wakes = {ids.REPLICA: wake_replicas, ids.ATTEMPT: wake_jobs}

    def admit(self, id_: str, secret: str) -> None:
        """Refuse whoever does not show the secret of replica or attempt ``id_``.

        The refusal is the same whether there is such an id or not.
        """
        with self._db.read() as tx:
            self._check(_known(tx, id_), secret)

    def accept(self, report: RunnerReport, secret: str, peer: str) -> bool:
        """Take a report and return whether what it is about is to go on.

        It is written when it says something that plans are made from, and else forgotten. Of what
        is over nothing is written any more. ``peer`` is the IP address that it came from, as the
        gateway saw it: requests are sent there, or into the networks of its cluster, and nowhere
        else, whatever a tenant's process says.
        """
        now_ms = self._clock.now_ms()
        with self._db.read() as tx:
            known = self._check(_known(tx, report.id), secret)
            last = runners.get(tx, report.id)
            clusters = {it.id: it.name for it in fleet.list_clusters(tx) if report.address}
        networks = self._networks.get(clusters.get(known.cluster_id, ""))
        _check_address(report.address, _ip(peer), networks)
        if not known.is_wanted or not _is_news(last, report):
            return known.is_wanted

        def write(tx: Transaction) -> bool:
            now_known = _known(tx, report.id)
            if now_known is None or not now_known.is_wanted:
                return False  # it ended meanwhile
            if _is_news(runners.get(tx, report.id), report):
                runners.put(tx, report, now_ms)
            return True

        is_wanted = self._db.write(write)
        if is_wanted:
            self._wakes[ids.prefix_of(report.id) or ids.REPLICA]()
        return is_wanted

    def _check(self, known: _Known | None, secret: str) -> _Known:
        expected = known.secret if known is not None else _NO_SECRET
        is_right = hmac.compare_digest(secret.encode(), expected.encode())
        if known is None or not is_right:
            raise refuse(Code.INVALID_API_KEY, "this is not the secret of this replica or attempt")
        return known


def _known(tx: Transaction, id_: str) -> _Known | None:
    kind = ids.prefix_of(id_)
    if kind == ids.REPLICA:
        replica = replicas.get_for(tx, None, id_)
        if replica is None:
            return None
        return _Known(replica.secret, replica.status not in _OVER, replica.cluster_id)
    if kind == ids.ATTEMPT:
        secret = attempts.secret_of(tx, id_)
        return _Known(secret, attempts.is_wanted(tx, id_), "") if secret else None
    return None


def _is_news(last: RunnerReport | None, report: RunnerReport) -> bool:
    """Tell whether plans could differ because of ``report``."""
    if last is None:
        return True
    if 0 < last.at_ms - report.at_ms <= OVERTAKEN_MS_MAX:
        return False  # it was under way for longer than a later one
    return _said(last) != _said(report)


def _said(report: RunnerReport) -> tuple[object, ...]:
    load = (report.requests_running, report.requests_waiting)
    is_busy = None if load == (None, None) else any(load)
    return (
        report.run_state,
        report.address,
        report.reason,
        report.exit_code,
        report.outcome,
        report.node_name,
        is_busy,
    )


def _check_address(
    address: str | None, peer: _IP | None, networks: tuple[_Network, ...] | None
) -> None:
    """Refuse an address that is not the node's own: requests of a tenant are sent there."""
    if address is None:
        return
    host, _, port = address.rpartition(":")
    place = _ip(host.strip("[]"))
    is_odd = place is None or place.is_multicast or place.is_unspecified or place.is_link_local
    is_near = peer is not None and peer.is_loopback
    is_odd = is_odd or (place is not None and place.is_loopback and not is_near)
    if is_odd or not PORT_MIN <= int(port) <= 65_535:
        message = (
            f"address must be a node's own IP address with a port of {PORT_MIN} to 65535, "
            "such as 10.0.0.7:8000"
        )
        raise refuse(Code.INVALID_VALUE, message, param="address")
    if networks is not None:
        is_right = any(place in network for network in networks)
        wish = "an address in the networks of its cluster"
    else:
        is_right = place == peer
        wish = (
            "the one that the report comes from; if something stands between the nodes and the "
            "gateways, name the nodes' networks in the settings of the cluster"
        )
    if not is_right:
        raise refuse(
            Code.INVALID_VALUE, f"address {host} was expected to be {wish}", param="address"
        )


def _ip(text: str) -> _IP | None:
    try:
        place = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = place.ipv4_mapped if isinstance(place, ipaddress.IPv6Address) else None
    return mapped or place
