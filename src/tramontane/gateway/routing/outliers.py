"""Takes replicas out that answer and fail, for growing times, and lets them return one by one.

A replica that refuses connections is set aside for a moment by whoever notices. This is about the
others: those that take requests and break them. After so many failures in a row, or so large a
share of them, a replica is ejected; then one request at a time probes it, and an answer brings it
back. Never more than half of a route's replicas are out: what all fail at is the requests' fault,
or the world's, and fewer replicas would only make it worse.
"""

from collections.abc import Sequence

from tramontane.gateway.limits import Limits
from tramontane.gateway.upstream.replica import Replica


def note_answer(replica: Replica, *, is_probe: bool) -> None:
    """Count an answer, whatever it said. One to a probe brings the replica back."""
    replica.answers += 1
    replica.failures = 0
    if is_probe and replica.is_suspect:
        replica.is_suspect = False
        replica.aside_until = 0.0


def note_failure(
    replica: Replica, siblings: Sequence[Replica], now: float, limits: Limits, *, is_probe: bool
) -> float:
    """Count a failure; return for how many seconds the replica is ejected because of it, or 0.0.

    ``siblings`` are the replicas of its route, itself among them.
    """
    if now - replica.window_s > limits.eject_window_s:
        replica.window_s = now
        replica.answers = replica.faults = 0
    replica.failures += 1
    replica.faults += 1
    if replica.is_suspect:  # only a probe after its time says anything new
        return _eject(replica, now, limits) if is_probe and now >= replica.ejected_s else 0.0
    seen = replica.answers + replica.faults
    is_share_bad = (
        seen >= limits.eject_seen_min and replica.faults >= seen * limits.eject_share_percent / 100
    )
    if replica.failures < limits.eject_failures and not is_share_bad:
        return 0.0
    out = sum(sibling.is_suspect for sibling in siblings)
    return _eject(replica, now, limits) if (out + 1) * 2 <= len(siblings) else 0.0


def _eject(replica: Replica, now: float, limits: Limits) -> float:
    if now - replica.ejected_s > limits.eject_calm_s:
        replica.eject_s = 0.0
    longer_s = replica.eject_s * 2 or limits.eject_s
    replica.eject_s = min(longer_s, limits.eject_s_max)
    replica.ejected_s = now + replica.eject_s
    replica.aside_until = replica.ejected_s
    replica.is_suspect = True
    replica.failures = replica.answers = replica.faults = 0
    return replica.eject_s
