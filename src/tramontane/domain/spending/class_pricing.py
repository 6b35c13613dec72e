"""Prices of priority classes, and what an attempt costs by them. Integers only."""

from typing import Final

from tramontane.domain.spending.pricing import NANO_PER_MICRO

_SECONDS_PER_HOUR: Final = 3_600


def device_cost_nano(device_seconds: int, device_hour_micro: int) -> int:
    """Return the cost of an attempt in nano-euros, rounded up once.

    ``device_hour_micro`` is micro-euros for one device and hour.
    """
    return -(-device_seconds * device_hour_micro * NANO_PER_MICRO // _SECONDS_PER_HOUR)
