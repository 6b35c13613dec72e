"""Picks the replica for a request: where its prefix belongs while that has room, else by load.

Room for a prefix is bounded (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded
Loads", 2018): no replica takes a request for its prefix when it then had more than 1.25 times the
mean. A hot prefix so spreads over the next replicas of the ring, in an order that stays the same.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tramontane.gateway.upstream.replica import Replica

if TYPE_CHECKING:
    from tramontane.gateway.routes import ActiveRoute

# The factor as a fraction: 1.25 of the mean load. Closer to 1 spreads more and meets fewer caches.
LOAD_FACTOR: Final = (5, 4)
# An engine answers a few requests together nearly as fast as one, and reading a long prompt again
# costs more than sharing: so many may be there whatever the mean is.
LOAD_MIN: Final = 2
HEIRS_MAX: Final = 32  # points of the ring looked at before the least loaded replica is taken


def pick(
    active: "ActiveRoute",
    prefix: int | None,
    now: float,
    tried: Sequence[Replica],
    inflight_max: int,
) -> Replica | None:
    """Return the replica to try next, or None when none is left with fewer than ``inflight_max``.

    Replicas set aside come last: when all are, one of them is still the best guess. A replica
    that was ejected and may return is tried with one request, until that has been answered.
    """
    active.traffic.requests += 1
    found = None
    if prefix is not None and len(active.replicas) > 1:
        found = _by_prefix(active, prefix, now, tried, inflight_max)
    if found is None:
        found = _least_loaded(active.replicas, active.traffic.requests, now, tried, inflight_max)
    if found is not None and found.is_suspect:
        if found.aside_until > now and _is_better_awaited(active, tried, inflight_max):
            return None
        found.aside_until = now + found.eject_s
    return found


def has_room(active: "ActiveRoute", inflight_max: int) -> bool:
    """Tell whether any replica could take one more request; one that was ejected is none."""
    are_suspects = all(replica.is_suspect for replica in active.replicas)
    for replica in active.replicas:
        is_open = replica.inflight < inflight_max and not replica.is_retired
        if is_open and (are_suspects or not replica.is_suspect):
            return True
    return active.canary is not None and has_room(active.canary, inflight_max)


def _is_better_awaited(active: "ActiveRoute", tried: Sequence[Replica], inflight_max: int) -> bool:
    """Tell whether a sound replica is only full: waiting for it beats one that was ejected."""
    return any(
        replica.inflight >= inflight_max and not replica.is_suspect and replica not in tried
        for replica in active.replicas
    )


def _by_prefix(
    active: "ActiveRoute", prefix: int, now: float, tried: Sequence[Replica], inflight_max: int
) -> Replica | None:
    replicas = active.replicas
    load = 1
    for replica in replicas:
        load += replica.inflight
    over, under = LOAD_FACTOR
    bound = min(inflight_max, max(LOAD_MIN, -(-load * over // (under * len(replicas)))))
    ring = active.ring or active.make_ring()
    found = ring.owner(prefix)
    if _takes(found, bound, now, tried):
        return found
    for steps, heir in enumerate(ring.heirs(prefix)):
        if heir is not found and _takes(heir, bound, now, tried):
            return heir
        if steps >= HEIRS_MAX:
            break
    return None


def _takes(replica: Replica, bound: int, now: float, tried: Sequence[Replica]) -> bool:
    return (
        replica.inflight < bound
        and replica.aside_until <= now
        and replica not in tried
        and not replica.is_retired
    )


def _least_loaded(
    replicas: Sequence[Replica],
    turn: int,
    now: float,
    tried: Sequence[Replica],
    inflight_max: int,
) -> Replica | None:
    """Return the least loaded one; ``turn`` decides between equals."""
    count = len(replicas)
    best: Replica | None = None
    best_load = (True, 0)
    for step in range(count):
        replica = replicas[(turn + step) % count]
        if replica in tried or replica.is_retired or replica.inflight >= inflight_max:
            continue
        load = (replica.aside_until > now, replica.inflight)
        if best is None or load < best_load:
            best, best_load = replica, load
    return best
