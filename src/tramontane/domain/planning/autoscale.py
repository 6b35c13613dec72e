"""The rule of autoscaling: from the demand to how many replicas are wanted, and why.

Modelled on the horizontal pod autoscaler of Kubernetes: the wanted number follows from the demand
and a target per replica, never from the number before; scaling down takes the largest number that
was needed within a window. A deployment that may be at zero keeps one replica until nobody asked
for a while, and gets one back at the first request without any wait.
"""

from dataclasses import dataclass, replace

from tramontane.domain.deployment import AutoscaleSpec, Deployment, Scale
from tramontane.domain.planning.demand import SILENT_MS_MAX, Load


@dataclass(frozen=True, slots=True)
class History:
    """What was seen of one deployment, look by look, without a gap since ``since_ms``.

    ``busy_at_ms`` is when it last had demand, ``since_ms`` if never: what was not seen may have
    been busy. ``peaks`` are pairs of time and needed replicas, oldest first, each with fewer
    replicas than the one before: the largest number since any moment is the first pair after it.
    It may be lost at any time: that only puts off scaling down.
    """

    since_ms: int
    seen_at_ms: int
    busy_at_ms: int
    peaks: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """``scale`` is what to record; ``due_at_ms`` when time alone may change it, None if never."""

    scale: Scale
    history: History
    due_at_ms: int | None


def plan_scale(
    deployment: Deployment, load: Load, history: History | None, now_ms: int
) -> Decision:
    """Return how many replicas an autoscaled ``deployment`` should have from now on.

    The scale comes back unchanged, reason and all, while the number stays.
    """
    spec = deployment.spec.autoscale
    assert spec is not None, f"{deployment.id} does not scale by itself"  # a bug of the caller
    current = deployment.wanted_replicas
    scale = deployment.scale or Scale(current, now_ms, f"it starts with {current}")
    if scale.wanted != current:  # the bounds were moved
        scale = Scale(current, now_ms, f"{_bounds(spec)} are wanted, whatever is asked")
    needed, why = _needed(spec, load)
    seen = _remember(history, spec, needed, load, now_ms)
    if scale.changed_at_ms > now_ms:  # the clock was set back: the cool-downs begin anew
        scale = replace(scale, changed_at_ms=seen.since_ms)
    idle_at_ms = max(seen.busy_at_ms, scale.changed_at_ms) + spec.idle_ms
    if spec.replicas_min == 0 and needed == 0:
        if current and now_ms >= idle_at_ms:
            reason = f"no request for {_duration(spec.idle_ms)}; the next one starts a replica"
            return Decision(Scale(0, now_ms, reason), seen, None)
        needed = min(current, 1)
        why = f"kept for {_duration(spec.idle_ms)} after the last request"
    if needed > current:
        return _scale_up(spec, Decision(scale, seen, None), needed, why, now_ms)
    due_at_ms = idle_at_ms if spec.replicas_min == 0 and current else None
    stay = Decision(scale, seen, due_at_ms)
    return _scale_down(spec, stay, needed, now_ms) if needed < current else stay


def first_scale(spec: AutoscaleSpec, replicas: int, now_ms: int) -> Scale:
    """Return where autoscaling begins when ``replicas`` were wanted before."""
    first = spec.clamp(replicas)
    return Scale(first, now_ms, f"it starts with {first}")


def _needed(spec: AutoscaleSpec, load: Load) -> tuple[int, str]:
    """Return the replicas that the load asks for, within the bounds, and why."""
    wanted = -(-load.requests // spec.requests_in_flight)
    why = f"{_requests(load.requests)}, {spec.requests_in_flight} per replica"
    per_replica = spec.tokens_per_s or load.tokens_per_s or 1  # without a target, one serves all
    for_tokens = -(-load.tokens_per_s // per_replica)
    if for_tokens > wanted:
        wanted = for_tokens
        why = f"{load.tokens_per_s} tokens/s, {per_replica} per replica"
    bounded = spec.clamp(wanted)
    if bounded < wanted:
        why += f"; {wanted} would be needed and at most {spec.replicas_max} are allowed"
    elif bounded > wanted:
        why = f"at least {spec.replicas_min} are wanted"
    return bounded, why


def _remember(
    history: History | None, spec: AutoscaleSpec, needed: int, load: Load, now_ms: int
) -> History:
    is_gapless = history is not None and 0 <= now_ms - history.seen_at_ms <= SILENT_MS_MAX
    if history is None or not is_gapless:
        history = History(now_ms, now_ms, now_ms)
    busy_at_ms = history.busy_at_ms
    if load.busy_at_ms is not None:
        busy_at_ms = max(busy_at_ms, load.busy_at_ms)
    begins_at_ms = now_ms - spec.down_cooldown_ms
    kept = [peak for peak in history.peaks if peak[0] > begins_at_ms and peak[1] > needed]
    return replace(
        history,
        seen_at_ms=now_ms,
        busy_at_ms=min(busy_at_ms, now_ms),
        peaks=(*kept, (now_ms, needed)),
    )


def _scale_up(spec: AutoscaleSpec, stay: Decision, needed: int, why: str, now_ms: int) -> Decision:
    """Add what is needed; the first replica after none is never waited for."""
    due_at_ms = stay.scale.changed_at_ms + spec.up_cooldown_ms
    if stay.scale.wanted and now_ms < due_at_ms:
        return replace(stay, due_at_ms=due_at_ms)
    return replace(stay, scale=Scale(needed, now_ms, why))


def _scale_down(spec: AutoscaleSpec, stay: Decision, needed: int, now_ms: int) -> Decision:
    """Want as few as would have been enough all through the window that just passed."""
    window_ms, seen = spec.down_cooldown_ms, stay.history
    due_at_ms = max(seen.since_ms, stay.scale.changed_at_ms) + window_ms
    if now_ms >= due_at_ms:
        enough = max([needed, *(count for _, count in seen.peaks)])
        if enough < stay.scale.wanted:
            why = f"{enough} were enough for {_duration(window_ms)}"
            return replace(stay, scale=Scale(enough, now_ms, why))
        due_at_ms = seen.peaks[0][0] + window_ms
    soonest = due_at_ms if stay.due_at_ms is None else min(due_at_ms, stay.due_at_ms)
    return replace(stay, due_at_ms=soonest)


def _requests(count: int) -> str:
    return f"{count} {'request' if count == 1 else 'requests'} in flight"


def _bounds(spec: AutoscaleSpec) -> str:
    return f"{spec.replicas_min} to {spec.replicas_max}"


def _duration(ms: int) -> str:
    return f"{ms // 1_000} s" if ms % 1_000 == 0 else f"{ms} ms"
