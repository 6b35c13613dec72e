"""Autoscaling over any demand: within bounds, no flapping, never to zero under a request."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.support.planning import NOW_MS, deployment_of
from tramontane.domain.deployment import AutoscaleSpec, Scale
from tramontane.domain.planning.autoscale import History, first_scale, plan_scale
from tramontane.domain.planning.demand import Load

seconds = st.integers(0, 20).map(lambda s: s * 1_000)


@st.composite
def specs(draw: st.DrawFn) -> AutoscaleSpec:
    least = draw(st.integers(0, 3))
    return AutoscaleSpec(
        replicas_min=least,
        replicas_max=draw(st.integers(max(1, least), 6)),
        requests_in_flight=draw(st.integers(1, 5)),
        tokens_per_s=draw(st.none() | st.integers(1, 100)),
        idle_ms=draw(seconds) + 1_000,
        up_cooldown_ms=draw(seconds),
        down_cooldown_ms=draw(seconds),
    )


none = st.just(0)
looks = st.lists(
    st.tuples(st.integers(0, 12_000), none | st.integers(0, 20), none | st.integers(0, 300)),
    max_size=60,
)


@given(specs(), looks, st.integers(0, 6), st.sets(st.integers(0, 59)))
def test_what_always_holds(
    spec: AutoscaleSpec,
    seen: list[tuple[int, int, int]],
    first: int,
    restarts: set[int],
) -> None:
    now_ms = NOW_MS
    made = deployment_of()
    deployment = replace(
        made,
        spec=replace(made.spec, autoscale=spec),
        scale=first_scale(spec, first, now_ms),
    )
    history: History | None = None
    changes: list[Scale] = []
    busy_at_ms = now_ms
    for number, (passed_ms, requests, tokens) in enumerate(seen):
        now_ms += passed_ms
        is_busy = bool(requests or tokens)
        busy_at_ms = now_ms if is_busy else busy_at_ms
        load = Load(requests, tokens, now_ms if is_busy else None)
        history = None if number in restarts else history
        decision = plan_scale(deployment, load, history, now_ms)
        again = plan_scale(replace(deployment, scale=decision.scale), load, history, now_ms)
        assert again.scale == decision.scale, "a decision that was taken stands"
        wanted = decision.scale.wanted
        assert spec.replicas_min <= wanted <= spec.replicas_max
        assert wanted or not is_busy, "never to zero under a request"
        if not wanted and deployment.wanted_replicas:
            assert now_ms - busy_at_ms >= spec.idle_ms
        assert decision.due_at_ms is None or decision.due_at_ms > now_ms
        if decision.scale != deployment.scale:
            changes.append(decision.scale)
        history = decision.history
        deployment = replace(deployment, scale=decision.scale)
    for before, after in pairwise(changes):
        passed_ms = after.changed_at_ms - before.changed_at_ms
        if after.wanted > before.wanted:
            assert passed_ms >= spec.up_cooldown_ms or not before.wanted
        elif after.wanted:
            assert passed_ms >= spec.down_cooldown_ms
        else:
            assert passed_ms >= spec.idle_ms
