"""Sums up once a second what is asked of each deployment, for the control plane to scale by.

Reading costs nothing while requests pass: they keep up the counters of `traffic` anyway. Only
deployments with traffic are looked at closely, and told of until they have fallen idle once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tramontane.gateway.routing.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Figures:
    """What is asked of one deployment now. ``idle_ms``: since the last request ended."""

    deployment_id: str
    requests_in_flight: int
    requests_queued: int
    tokens_per_s: int
    idle_ms: int


class DemandMeter:
    """Reads the counters and hands what is worth telling to ``tell``, once that is set."""

    def __init__(self) -> None:
        self.tell: Callable[[Sequence[Figures]], None] | None = None
        self._read_s = 0.0

    def read(self, traffic: Iterable[Traffic], now: float) -> None:
        """Tell of every deployment with traffic, and of those that have just fallen idle."""
        passed_s = now - self._read_s
        self._read_s = now
        found = [
            figures
            for item in traffic
            if (item.is_told or item.queued or item.requests != item.seen_requests)
            and (figures := _look(item, now, passed_s)) is not None
        ]
        if found and self.tell is not None:
            self.tell(found)

    def wake(self, traffic: Iterable[Traffic], now: float) -> None:
        """Tell at once of the deployments that are waited for."""
        found = [
            Figures(item.deployment_id, item.in_flight, item.queued, 0, 0)
            for item in traffic
            if item.queued
        ]
        for item in traffic:
            if item.queued:
                item.is_told = True
                item.busy_s = now
        if found and self.tell is not None:
            self.tell(found)


def _look(item: Traffic, now: float, passed_s: float) -> Figures | None:
    in_flight, queued = item.in_flight, item.queued
    tokens = item.tokens - item.seen_tokens
    is_busy = bool(in_flight or queued or tokens) or item.requests != item.seen_requests
    was_told = item.is_told
    item.seen_requests, item.seen_tokens, item.is_told = item.requests, item.tokens, is_busy
    if is_busy:
        item.busy_s = now
    elif not was_told:
        return None
    rate = max(0, round(tokens / passed_s)) if passed_s > 0 else 0
    is_over = not in_flight and not queued
    idle_ms = round((now - item.busy_s) * 1000) if is_over else 0
    return Figures(item.deployment_id, in_flight, queued, rate, idle_ms)
