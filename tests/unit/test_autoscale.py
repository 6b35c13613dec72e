"""The rule of autoscaling, case by case: the time is an argument, the demand a value."""

from dataclasses import replace

import pytest

from tests.support.planning import NOW_MS, deployment_of
from tramontane.domain.deployment import AutoscaleSpec, Deployment, Scale
from tramontane.domain.planning.autoscale import Decision, History, first_scale, plan_scale
from tramontane.domain.planning.demand import SILENT_MS_MAX, Demand, Load, total_load

SPEC = AutoscaleSpec(
    replicas_min=0,
    replicas_max=5,
    requests_in_flight=4,
    idle_ms=30_000,
    up_cooldown_ms=3_000,
    down_cooldown_ms=10_000,
)
IDLE = Load()


def scaled(wanted: int, spec: AutoscaleSpec = SPEC, since_ms: int = NOW_MS) -> Deployment:
    made = deployment_of()
    scale = Scale(wanted, since_ms, "for this test")
    return replace(made, spec=replace(made.spec, autoscale=spec), scale=scale)


def busy(requests: int, at_ms: int = NOW_MS, tokens_per_s: int = 0) -> Load:
    return Load(requests, tokens_per_s, at_ms)


class Story:
    """One deployment over time: each look tells what was decided, and keeps it."""

    def __init__(self, wanted: int, spec: AutoscaleSpec = SPEC) -> None:
        self.now_ms = NOW_MS
        self.deployment = scaled(wanted, spec)
        self.history: History | None = None
        self.decision: Decision | None = None

    def look(self, load: Load | int = 0, *, after_ms: int = 1_000) -> int:
        self.now_ms += after_ms
        if isinstance(load, int):
            load = busy(load, self.now_ms) if load else IDLE
        self.decision = plan_scale(self.deployment, load, self.history, self.now_ms)
        self.history = self.decision.history
        self.deployment = replace(self.deployment, scale=self.decision.scale)
        return self.decision.scale.wanted

    @property
    def reason(self) -> str:
        assert self.deployment.scale is not None
        return self.deployment.scale.reason


@pytest.mark.parametrize(
    ("requests", "wanted", "reason"),
    [
        (1, 1, "1 request in flight, 4 per replica"),
        (4, 1, "4 requests in flight, 4 per replica"),
        (5, 2, "5 requests in flight, 4 per replica"),
        (20, 5, "20 requests in flight, 4 per replica"),
        (
            100,
            5,
            "100 requests in flight, 4 per replica; 25 would be needed and at most 5 are allowed",
        ),
    ],
)
def test_the_first_request_starts_what_it_needs_at_once(
    requests: int, wanted: int, reason: str
) -> None:
    """Even right after the last replica was taken away: nobody waits for a cool-down at zero."""
    decision = plan_scale(scaled(0), busy(requests), None, NOW_MS)
    assert decision.scale == Scale(wanted, NOW_MS, reason)


def test_tokens_are_a_second_target() -> None:
    spec = replace(SPEC, tokens_per_s=1_000)
    few = plan_scale(scaled(0, spec), busy(1, tokens_per_s=2_500), None, NOW_MS).scale
    assert (few.wanted, few.reason) == (3, "2500 tokens/s, 1000 per replica")
    many = plan_scale(scaled(0, spec), busy(17, tokens_per_s=10), None, NOW_MS).scale
    assert (many.wanted, many.reason) == (5, "17 requests in flight, 4 per replica")


def test_more_are_added_no_sooner_than_the_cool_down_after_a_change() -> None:
    story = Story(0)
    assert story.look(1) == 1
    assert story.look(9, after_ms=2_999) == 1
    assert story.decision is not None
    assert story.decision.due_at_ms == story.now_ms + 1
    assert story.look(9, after_ms=1) == 3


def test_a_peak_within_the_window_keeps_its_replicas() -> None:
    story = Story(3)
    for _ in range(9):
        assert story.look(1) == 3
    assert story.look(9) == 3  # a peak: the window begins anew
    for _ in range(9):
        assert story.look(1) == 3
    assert story.look(1) == 1
    assert story.reason == "1 were enough for 10 s"


def test_a_middle_peak_is_what_is_gone_down_to() -> None:
    story = Story(5)
    for _ in range(6):
        story.look(1)
    story.look(7)
    for _ in range(3):
        assert story.look(1) == 5
    assert story.look(1) == 2


def test_the_last_one_goes_after_the_idle_time_only() -> None:
    story = Story(1)
    assert story.look(1) == 1
    for _ in range(29):
        assert story.look() == 1
    assert story.look() == 0
    assert story.reason == "no request for 30 s; the next one starts a replica"
    assert story.decision is not None
    assert story.decision.due_at_ms is None, "at zero only a request changes anything"


def test_requests_that_ended_between_two_looks_count_as_busy() -> None:
    story = Story(1)
    for _ in range(28):
        story.look()
    ended = Load(busy_at_ms=story.now_ms)
    story.look(ended)
    for _ in range(28):
        assert story.look() == 1
    story.look()
    assert story.look() == 0


def test_one_that_may_not_be_at_zero_stays() -> None:
    story = Story(3, replace(SPEC, replicas_min=2))
    for _ in range(9):
        assert story.look() == 3
    assert [story.look() for _ in range(40)][-1] == 2


def test_nothing_ends_because_nobody_looked() -> None:
    """After a gap, as a control plane's restart makes one, both windows begin anew."""
    story = Story(3)
    story.look(1)
    assert story.look(after_ms=600_000) == 3
    assert story.look(after_ms=9_999) == 3
    assert story.look(after_ms=1) == 1
    assert [story.look() for _ in range(30)][-1] == 0


def test_a_clock_that_is_set_back_only_puts_off() -> None:
    story = Story(3)
    story.look(1)
    story.look(1, after_ms=-3_600_000)
    for _ in range(9):
        assert story.look(1) == 3
    assert story.look(1) == 1


def test_bounds_that_were_moved_hold_at_once() -> None:
    story = Story(5)
    auto = replace(SPEC, replicas_max=2)
    story.deployment = replace(
        story.deployment, spec=replace(story.deployment.spec, autoscale=auto)
    )
    assert story.deployment.wanted_replicas == 2
    assert story.look(20) == 2
    assert story.reason == "0 to 2 are wanted, whatever is asked"


def test_at_rest_nothing_changes_and_the_next_look_is_known() -> None:
    story = Story(2, replace(SPEC, replicas_min=2))
    before = story.deployment
    assert story.look() == 2
    assert story.deployment == before
    assert story.decision is not None
    assert story.decision.due_at_ms is None


def test_where_it_begins() -> None:
    assert first_scale(SPEC, 9, NOW_MS) == Scale(5, NOW_MS, "it starts with 5")
    without = replace(scaled(0), scale=None)
    assert plan_scale(without, IDLE, None, NOW_MS).scale.wanted == 1


def said(holder: str, in_flight: int = 0, queued: int = 0, **fields: int) -> Demand:
    figures = {"tokens_per_s": 0, "idle_ms": 0, "at_ms": NOW_MS} | fields
    return Demand("gw", holder, "dep_x", in_flight, queued, **figures)


def test_gateways_are_added_up_while_they_are_heard() -> None:
    demands = [
        said("a", 2, 1, tokens_per_s=10),
        said("b", 3, tokens_per_s=5, at_ms=NOW_MS - SILENT_MS_MAX),
        said("c", 100, at_ms=NOW_MS - SILENT_MS_MAX - 1),
    ]
    assert total_load(demands, NOW_MS) == Load(6, 15, NOW_MS)
    idle = [said("a", idle_ms=4_000, at_ms=NOW_MS - 500), said("b", idle_ms=9_000)]
    assert total_load(idle, NOW_MS) == Load(busy_at_ms=NOW_MS - 4_500)
    assert total_load([], NOW_MS) == Load()
