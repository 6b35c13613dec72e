"""Calls that hang hold up nobody, and are few."""

import threading
import time
from collections.abc import Iterator

import pytest

from tramontane.runtime.in_time import LATE_MAX, InTime


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    opened = threading.Event()
    yield opened
    opened.set()


def test_what_a_call_returns_and_raises_is_passed_on() -> None:
    in_time = InTime("the folder", 5)
    assert in_time.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        in_time.run(lambda: 1 // 0)


def test_what_hangs_is_given_up_and_only_so_often(gate: threading.Event) -> None:
    in_time = InTime("the folder", 0.05)
    begun: list[int] = []

    def hang() -> None:
        begun.append(1)
        gate.wait(20)

    began = time.monotonic()
    for _ in range(LATE_MAX + 20):
        with pytest.raises(TimeoutError, match="the folder does not answer"):
            in_time.run(hang)
    assert time.monotonic() - began < 2
    assert len(begun) == LATE_MAX
    gate.set()
    ends_at = time.monotonic() + 10
    while True:
        try:
            assert in_time.run(lambda: "back") == "back"
            break
        except TimeoutError:
            assert time.monotonic() < ends_at
