"""The page at /metrics, in the Prometheus text format 0.0.4.

Source of the form: prometheus.io, "Exposition formats". The page is made in steps, so that a
long one does not hold up the requests being served.
"""

import os
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tramontane.gateway.telemetry import names
from tramontane.gateway.telemetry import series as series_module
from tramontane.gateway.telemetry.names import METRICS, Metric
from tramontane.gateway.telemetry.registry import Telemetry
from tramontane.gateway.telemetry.series import RouteSeries

CONTENT_TYPE: Final = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"
_SERIES_PER_STEP: Final = 8  # some 0.3 ms of work
_PAGE_BYTES: Final = resource.getpagesize()
_STARTED_S: Final = time.time()
# All of the hot path is compiled, or nothing (setup.py).
_BUILD: Final = "interpreted" if str(series_module.__file__).endswith(".py") else "compiled"
_CLASSES: Final = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")


def steps(telemetry: Telemetry) -> Iterator[bytes]:
    """Yield empty pieces while the page is being made, then the page as the last piece."""
    lines: dict[str, list[str]] = {metric.name: [] for metric in METRICS}
    info = _labels(
        ("gateway", telemetry.gateway), ("version", telemetry.version), ("build", _BUILD)
    )
    lines[names.INFO.name].append(_line(names.INFO.name, info, 1))
    for code, count in telemetry.refusals.items():
        _add(lines, names.REFUSALS, _labels(("code", code)), count)
    spans = (("exported", telemetry.spans_exported), ("dropped", telemetry.spans_dropped))
    for result, count in spans:
        _add(lines, names.SPANS, _labels(("result", result)), count)
    for metric, reading in telemetry.readings:
        lines[metric.name].append(_line(metric.name, "", reading()))
    _add(lines, names.SERIES, "", telemetry.series_count)
    for metric, value in _of_the_process():
        _add(lines, metric, "", value)
    for number, series in enumerate(telemetry.series):
        _add_series(lines, series)
        if number % _SERIES_PER_STEP == _SERIES_PER_STEP - 1:
            yield b""
    families: list[bytes] = []
    for metric in METRICS:
        head = f"# HELP {metric.name} {metric.meaning}\n# TYPE {metric.name} {metric.kind}\n"
        families.append((head + "".join(lines.pop(metric.name))).encode())
        yield b""
    yield b"".join(families)


def _add_series(lines: dict[str, list[str]], series: RouteSeries) -> None:
    model = _labels(("project", series.project_id), ("model", series.model))
    for (endpoint, outcome, status), count in series.requests.items():
        more = _labels(("endpoint", endpoint), ("outcome", outcome), ("status", _CLASSES[status]))
        _add(lines, names.REQUESTS, f"{model},{more}", count)
    for (meter, scope), count in series.limit_refusals.items():
        more = _labels(("meter", meter), ("scope", scope))
        _add(lines, names.LIMIT_REFUSALS, f"{model},{more}", count)
    for kind, count in series.upstream_errors.items():
        _add(lines, names.UPSTREAM_ERRORS, f"{model},{_labels(('kind', kind))}", count)
    _add(lines, names.TOKENS, f'{model},kind="prompt"', series.prompt_tokens)
    _add(lines, names.TOKENS, f'{model},kind="completion"', series.completion_tokens)
    _add(lines, names.TOKENS, f'{model},kind="cached"', series.cached_tokens)
    _add(lines, names.IN_FLIGHT, model, series.in_flight)
    _add(lines, names.QUEUE_LENGTH, model, series.waiting)
    _add(lines, names.RETRIES, model, series.retries)
    _add(lines, names.EJECTIONS, model, series.ejections)
    _add_histogram(lines, names.DURATION, model, series.duration, series.duration_s)
    _add_histogram(lines, names.FIRST_TOKEN, model, series.first_token, series.first_token_s)
    _add_histogram(lines, names.INTER_TOKEN, model, series.inter_token, series.inter_token_s)
    _add_histogram(lines, names.QUEUE_WAIT, model, series.queue, series.queue_s)


def _add_histogram(
    lines: dict[str, list[str]], metric: Metric, labels: str, counts: Sequence[int], sum_s: float
) -> None:
    """Add cumulative buckets, sum and count; nothing for a histogram without observations."""
    if not any(counts):
        return
    total = 0
    into = lines[metric.name]
    for bound, count in zip((*map(repr, metric.bounds), "+Inf"), counts, strict=True):
        total += count
        into.append(f'{metric.name}_bucket{{{labels},le="{bound}"}} {total}\n')
    into.append(_line(metric.name + "_sum", labels, sum_s))
    into.append(_line(metric.name + "_count", labels, total))


def _of_the_process() -> Iterator[tuple[Metric, float]]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield names.CPU, usage.ru_utime + usage.ru_stime
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    yield names.MEMORY, pages * _PAGE_BYTES
    yield names.OPEN_FILES, len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only counted
    yield names.STARTED, _STARTED_S


def _add(lines: dict[str, list[str]], metric: Metric, labels: str, value: float) -> None:
    lines[metric.name].append(_line(metric.name, labels, value))


def _line(name: str, labels: str, value: float) -> str:
    return f"{name}{{{labels}}} {value!r}\n" if labels else f"{name} {value!r}\n"


def _labels(*pairs: tuple[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
