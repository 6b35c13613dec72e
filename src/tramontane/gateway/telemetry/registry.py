"""Keeps the series of all models, within a bound, and the gauges that are read when asked for."""

import threading
from collections.abc import Callable, Collection
from typing import Final

from tramontane.domain.refusal import Code
from tramontane.domain.spending.limits import LimitMeter, LimitScope
from tramontane.gateway.telemetry.names import Metric
from tramontane.gateway.telemetry.series import RouteSeries

OTHER: Final = "other"


class Telemetry:
    """All counts of one gateway."""

    def __init__(self, gateway: str, version: str, series_max: int) -> None:
        """``series_max`` pairs of project and model are told apart; the rest is "other"."""
        self.gateway = gateway
        self.version = version
        self.refusals: dict[Code, int] = {}
        self.readings: list[tuple[Metric, Callable[[], float]]] = []
        self.spans_exported = 0
        self.spans_dropped = 0
        self._span_lock = threading.Lock()
        self._series_max = series_max
        self._series: dict[tuple[str, str], RouteSeries] = {}
        self._other = RouteSeries(OTHER, OTHER)

    def series_of(self, project_id: str, model: str) -> RouteSeries:
        """Return the series of a model that the route table has, or the one of all "other"."""
        found = self._series.get((project_id, model))
        if found is None:
            if len(self._series) >= self._series_max:
                return self._other
            found = self._series[project_id, model] = RouteSeries(project_id, model)
        return found

    @property
    def series(self) -> list[RouteSeries]:
        """Return all series; the one of "other" only when it was used."""
        found = list(self._series.values())
        if self._other.requests or self._other.in_flight:
            found.append(self._other)
        return found

    @property
    def series_count(self) -> int:
        """Return how many models have a series of their own."""
        return len(self._series)

    def make_room(self, wanted: Collection[tuple[str, str]]) -> None:
        """When full, forget models that are gone: ``wanted`` are those of the new route table."""
        if len(self._series) < self._series_max:
            return
        for name, series in list(self._series.items()):
            if name not in wanted and not series.in_flight and not series.waiting:
                del self._series[name]

    def refused(self, code: Code) -> None:
        """Count an error that went to a client."""
        self.refusals[code] = self.refusals.get(code, 0) + 1

    def limit_refused(
        self, project_id: str, model: str, meter: LimitMeter, scope: LimitScope
    ) -> None:
        """Count a refusal by a limit."""
        self.series_of(project_id, model).limit_refused(meter, scope)

    def count_spans(self, exported: int, dropped: int) -> None:
        """Count spans that the collector took, or did not; from any thread."""
        with self._span_lock:
            self.spans_exported += exported
            self.spans_dropped += dropped

    def read(self, metric: Metric, reading: Callable[[], float]) -> None:
        """Have ``reading`` called for the value of ``metric`` whenever the page is made."""
        self.readings.append((metric, reading))
