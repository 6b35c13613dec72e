"""Euros that are typed and printed: exact, whatever the size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.cli.exits import CommandError
from tramontane.cli.money import from_micro, from_nano, micro_euros


@pytest.mark.parametrize(
    ("typed", "micro"),
    [("10", 10_000_000), ("0.15", 150_000), (".6", 600_000), ("0.000001", 1), ("007", 7_000_000)],
)
def test_an_amount_is_read_exactly(typed: str, micro: int) -> None:
    assert micro_euros("--budget", typed) == micro


@pytest.mark.parametrize(
    "typed",
    [
        "",
        ".",
        "1.",
        "1,5",
        "-1",
        "+1",
        "1e3",
        "NaN",
        "0.0000001",
        "1_000",
        " 1",
        "1 ",
        "٣",
        "9" * 13,
    ],
)
def test_anything_else_is_refused_by_name(typed: str) -> None:
    with pytest.raises(CommandError, match="--budget must be an amount in euros"):
        micro_euros("--budget", typed)


def test_nothing_stays_nothing() -> None:
    assert micro_euros("--budget", None) is None
    assert (from_micro(None), from_nano("x")) == ("-", "x")


@given(st.integers(0, 10**17))
def test_what_is_printed_is_read_back(micro: int) -> None:
    assert micro_euros("--budget", from_micro(micro)) == micro


@pytest.mark.parametrize(
    ("nano", "shown"),
    [(0, "0.00"), (1, "0.000000001"), (1_500_000_000, "1.50"), (-2_000_000_000, "-2.00")],
)
def test_nano_euros(nano: int, shown: str) -> None:
    assert from_nano(nano) == shown
