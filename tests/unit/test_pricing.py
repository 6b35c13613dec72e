"""What a request costs: exact, rounded up once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.domain.spending.pricing import FREE, Prices, cost_nano

PRICES = Prices(prompt_micro=150_000, completion_micro=600_000)


@pytest.mark.parametrize(
    ("prices", "prompt", "completion", "cached", "nano"),
    [
        (FREE, 10**9, 10**9, 10**9, 0),
        (PRICES, 1_000_000, 0, 0, 150_000_000),
        (PRICES, 10, 20, 0, 1_500 + 12_000),
        (Prices(prompt_micro=1), 1, 0, 0, 1),  # a thousandth of a nano-euro is rounded up
        (Prices(prompt_micro=1_000), 1_001, 0, 0, 1_001),
        (Prices(prompt_micro=1_000, cached_micro=0), 1_000, 0, 400, 600),
        (Prices(prompt_micro=1_000), 1_000, 0, 400, 1_000),
        (Prices(request_micro=3), 0, 0, 0, 3_000),
    ],
)
def test_costs(prices: Prices, prompt: int, completion: int, cached: int, nano: int) -> None:
    assert cost_nano(prices, prompt, completion, cached) == nano


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**7))
def test_a_request_in_two_parts_costs_at_least_as_much(one: int, two: int, price: int) -> None:
    prices = Prices(prompt_micro=price)
    together = cost_nano(prices, one + two, 0)
    parts = cost_nano(prices, one, 0) + cost_nano(prices, two, 0)
    assert 0 <= parts - together <= 1
    assert FREE.are_zero
