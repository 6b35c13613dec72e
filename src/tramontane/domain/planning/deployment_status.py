"""The status of a deployment in words for people: what serves, what is missing and why.

The text changes only when the facts do (it names a wait, never a countdown), so a deployment at
rest is never written again.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tramontane.domain.deployment import Deployment, DeploymentStatus
from tramontane.domain.observation import Observation, RunState
from tramontane.domain.planning.backoff import wait_ms
from tramontane.domain.planning.plan import Unplaced
from tramontane.domain.planning.rollout import wanted_replicas
from tramontane.domain.replica import Replica, ReplicaStatus

SUMMARY_CHARS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Facts:
    """What a status is made of.

    ``replicas`` hold capacity. ``placed`` more are being recorded now. ``is_waiting`` tells that
    a start is due and put off after ``failures``. ``silent_clusters`` maps the id of each cluster
    that does not answer to a text that names it. ``start_error`` is why a start is tried again.
    ``waits`` are what clusters say that starts wait for. ``leaving`` says of each replica that
    has to be replaced where it is why that is.
    """

    deployment: Deployment
    replicas: tuple[Replica, ...]
    last_failure: str | None
    failures: int
    is_waiting: bool
    placed: int
    unplaced: Unplaced | None
    silent_clusters: Mapping[str, str]
    start_error: str | None = None
    waits: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Described:
    """The status to record."""

    status: DeploymentStatus
    ready_replicas: int
    reason: str | None


def describe(facts: Facts) -> Described:
    """Return the status, the number of ready replicas of any generation, and the reason."""
    wanted = wanted_replicas(facts.deployment)
    ready = [r for r in facts.replicas if r.status is ReplicaStatus.READY]
    status = _status(facts, wanted, ready)
    settled = status in {DeploymentStatus.READY, DeploymentStatus.STOPPED}
    is_silent = settled and not facts.leaving
    return Described(status, len(ready), None if is_silent else _reason(facts, wanted, ready))


def wait_of(seen: Observation | None) -> str | None:
    """Return what a cluster says that a start waits for, without its estimate of how long.

    A driver writes the estimate behind a semicolon. It changes with every look, and a text that
    does would be written with every look.
    """
    if seen is None or seen.run_state is not RunState.STARTING or not seen.reason:
        return None
    return summarize(seen.reason.partition(";")[0])


def summarize(reason: str | None) -> str:
    """Return an engine's last words as one line: how it ended, and the last thing it said."""
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    if not lines:
        return "no reason is known"
    told = lines[0] if len(lines) == 1 else f"{lines[0].rstrip(':')}: {lines[-1]}"
    return told if len(told) <= SUMMARY_CHARS_MAX else f"{told[: SUMMARY_CHARS_MAX - 1]}…"


def _status(facts: Facts, wanted: int, ready: list[Replica]) -> DeploymentStatus:
    if wanted == 0:
        return DeploymentStatus.STOPPING if facts.replicas else DeploymentStatus.STOPPED
    generation = facts.deployment.generation
    if sum(replica.generation == generation for replica in ready) >= wanted:
        return DeploymentStatus.READY
    if any(replica.is_routable for replica in facts.replicas):
        return DeploymentStatus.DEGRADED
    return DeploymentStatus.PENDING


def _reason(facts: Facts, wanted: int, ready: list[Replica]) -> str:
    if wanted == 0:
        parts = [f"{len(facts.replicas)} still draining"]
    else:
        parts = [f"{len(ready)} of {wanted} ready"]
        old = sum(r.generation != facts.deployment.generation for r in ready)
        parts += [f"{old} of them of the previous version"] if old else []
        starting = facts.placed + sum(
            r.status in {ReplicaStatus.PENDING, ReplicaStatus.STARTING} for r in facts.replicas
        )
        waits = f" ({', '.join(sorted(set(facts.waits)))})" if facts.waits else ""
        parts += [f"{starting} starting{waits}"] if starting else []
        parts += _moving(facts)
    parts += _unheard(facts)
    if facts.start_error is not None:
        parts.append(f"a start is tried again: {summarize(facts.start_error)}")
    if facts.unplaced is not None:
        parts.append(f"{facts.unplaced.count} waiting: {facts.unplaced.reason}")
    if facts.is_waiting:
        parts.append(f"last start failed: {summarize(facts.last_failure)}")
        parts.append(f"next try after {wait_ms(facts.failures) // 1_000} s")
    return "; ".join(parts)


def _moving(facts: Facts) -> list[str]:
    """Say how many replicas are to be replaced where they are, for each reason."""
    counts = Counter(facts.leaving)
    return [f"{count} to be replaced: {why}" for why, count in sorted(counts.items())]


def _unheard(facts: Facts) -> list[str]:
    """Say which clusters that hold replicas do not answer, and how many they hold."""
    counts: dict[str, int] = {}
    for replica in facts.replicas:
        if replica.cluster_id in facts.silent_clusters:
            counts[replica.cluster_id] = counts.get(replica.cluster_id, 0) + 1
    return [
        f"{count} on a cluster that does not answer ({facts.silent_clusters[cluster_id]})"
        for cluster_id, count in sorted(counts.items())
    ]
