"""Counting of ended requests: buckets as Prometheus reads them, and what is not observed."""

from hypothesis import given
from hypothesis import strategies as st

from tramontane.domain.usage import Outcome
from tramontane.gateway.telemetry import names
from tramontane.gateway.telemetry.registry import Telemetry
from tramontane.gateway.telemetry.series import RouteSeries

SECONDS = st.floats(min_value=0, max_value=10_000)


def ended(series: RouteSeries, took_s: float, first_s: float | None, **changes: int) -> None:
    counts = {"prompt": 7, "completion": 3, "cached": 1, **changes}
    series.in_flight += 1
    series.ended(
        "chat.completions", Outcome.COMPLETED, 200, took_s, first_s, *counts.values(), True
    )


@given(st.lists(SECONDS))
def test_a_bucket_holds_what_is_at_most_its_bound(times: list[float]) -> None:
    series = RouteSeries("p", "m")
    for took_s in times:
        ended(series, took_s, None)
    bounds = (*names.DURATION.bounds, float("inf"))
    for place, bound in enumerate(bounds):
        told = sum(series.duration[: place + 1])
        assert told == sum(took_s <= bound for took_s in times)
    assert series.duration_s == sum(times)
    assert series.in_flight == 0


def test_the_time_between_tokens_is_the_mean_of_a_stream() -> None:
    series = RouteSeries("p", "m")
    ended(series, 1.0, 0.2, completion=5)
    assert series.inter_token_s == 0.2
    ended(series, 1.0, 0.2, completion=1)  # one token has no neighbour
    ended(series, 1.0, None, completion=9)  # cut before the engine answered
    assert sum(series.inter_token) == 1
    assert sum(series.first_token) == 2


def test_a_request_that_no_engine_got_has_no_duration() -> None:
    series = RouteSeries("p", "m")
    series.unreached("embeddings", "refused", 429)
    assert series.requests == {("embeddings", "refused", 4): 1}
    assert not any(series.duration)


def test_room_is_made_only_when_it_is_needed_and_never_below_a_request() -> None:
    telemetry = Telemetry("gw", "1", series_max=2)
    old, busy = telemetry.series_of("p", "old"), telemetry.series_of("p", "busy")
    busy.in_flight = 1
    assert telemetry.series_of("p", "new") is telemetry.series_of("q", "other")
    telemetry.make_room({("p", "new")})
    assert telemetry.series_of("p", "busy") is busy
    assert telemetry.series_of("p", "new") is not telemetry.series_of("p", "newer")
    assert old not in telemetry.series
