"""A patient driver: a cluster that hangs is unreachable at once, and heard again later."""

import threading
import time
from collections.abc import Iterator

import pytest

from tramontane.domain.observation import ClusterView, Reachable, Unreachable
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.fake import FakeDriver
from tramontane.drivers.patient import PatientDriver

NOTHING = Reachable((), ())


class SlowDriver(FakeDriver):
    """A driver whose view takes until the gate opens."""

    def __init__(self) -> None:
        self.name = "slow"
        self.gate = threading.Event()
        self.asked = 0
        self.error: Exception | None = None

    def view(self) -> ClusterView:
        self.asked += 1
        self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return NOTHING


@pytest.fixture
def slow() -> Iterator[SlowDriver]:
    driver = SlowDriver()
    yield driver
    driver.gate.set()


def test_what_answers_is_passed_on(slow: SlowDriver) -> None:
    slow.gate.set()
    assert PatientDriver(slow).view() is NOTHING


def test_what_hangs_is_unreachable_and_not_asked_again(slow: SlowDriver) -> None:
    patient = PatientDriver(slow, patience_s=0.05)
    for _ in range(5):
        began = time.monotonic()
        view = patient.view()
        assert isinstance(view, Unreachable)
        assert "has not answered" in view.reason
        assert time.monotonic() - began < 1
    assert slow.asked == 1


def test_an_answer_that_comes_too_late_is_thrown_away(slow: SlowDriver) -> None:
    patient = PatientDriver(slow, patience_s=0.05)
    patient.view()
    slow.gate.set()
    deadline = time.monotonic() + 5
    while isinstance(patient.view(), Unreachable):
        assert time.monotonic() < deadline
    assert slow.asked >= 2, "asked anew"


def test_an_error_is_the_callers(slow: SlowDriver) -> None:
    slow.error = DriverUnavailableError("out")
    slow.gate.set()
    with pytest.raises(DriverUnavailableError, match="out"):
        PatientDriver(slow).view()
