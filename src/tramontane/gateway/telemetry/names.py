"""Every metric by name: its kind, its labels, its bounds, what it means. docs/metrics.md shows it.

Labels are bounded: `project` and `model` by `Limits.metric_series_max` (beyond it both read
"other"), all others by lists in the code.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """How Prometheus reads a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One documented metric. ``bounds`` are a histogram's upper bounds, smallest first."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


_P: Final = "tramontane_gateway_"
_MODEL: Final = ("project", "model")
# From a cached embedding to the ten minutes that official clients wait.
_DURATION_S: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    *(10.0, 25.0, 60.0, 120.0, 300.0, 600.0),
)
# A prompt in the engine's cache takes milliseconds, one of 100,000 tokens a minute.
_FIRST_TOKEN_S: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
# 1 ms is 1,000 tokens per second, 0.5 s is slower than anyone reads.
_INTER_TOKEN_S: Final = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04),
    *(0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5),
)
# The start of a replica takes seconds to minutes.
_QUEUE_S: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

INFO: Final = Metric(
    _P + "info",
    Kind.GAUGE,
    "always 1; says who answers; build is interpreted or compiled",
    ("gateway", "version", "build"),
)
REQUESTS: Final = Metric(
    _P + "requests_total",
    Kind.COUNTER,
    "requests for a model that have ended; outcome is completed, cut, failed or refused "
    "(no engine got it); status is the class of the reply, such as 2xx, or none",
    (*_MODEL, "endpoint", "outcome", "status"),
)
TOKENS: Final = Metric(
    _P + "tokens_total",
    Kind.COUNTER,
    "tokens as metered; kind is prompt, completion or cached (a part of prompt)",
    (*_MODEL, "kind"),
)
DURATION: Final[Metric] = Metric(
    _P + "request_duration_seconds",
    Kind.HISTOGRAM,
    "from the admission of a request to the end of its reply",
    _MODEL,
    _DURATION_S,
)
FIRST_TOKEN: Final[Metric] = Metric(
    _P + "time_to_first_token_seconds",
    Kind.HISTOGRAM,
    "streams: from the admission of a request to the first byte of the engine's reply",
    _MODEL,
    _FIRST_TOKEN_S,
)
INTER_TOKEN: Final[Metric] = Metric(
    _P + "inter_token_seconds",
    Kind.HISTOGRAM,
    "streams of two tokens or more: mean time between two tokens, one observation per stream",
    _MODEL,
    _INTER_TOKEN_S,
)
QUEUE_WAIT: Final[Metric] = Metric(
    _P + "queue_wait_seconds",
    Kind.HISTOGRAM,
    "how long requests waited for a limit or a replica; those that did not wait do not count",
    _MODEL,
    _QUEUE_S,
)
IN_FLIGHT: Final = Metric(
    _P + "requests_in_flight", Kind.GAUGE, "admitted requests that have not ended", _MODEL
)
QUEUE_LENGTH: Final = Metric(
    _P + "queue_length", Kind.GAUGE, "requests that wait for a limit or a replica", _MODEL
)
LIMIT_REFUSALS: Final = Metric(
    _P + "limit_refusals_total",
    Kind.COUNTER,
    "requests refused by a limit; meter is requests, tokens, in_flight or budget, scope is "
    "organization, project or api_key",
    (*_MODEL, "meter", "scope"),
)
UPSTREAM_ERRORS: Final = Metric(
    _P + "upstream_errors_total",
    Kind.COUNTER,
    "faults of engines; kind is connect, closed, timeout, status, malformed or too_large",
    (*_MODEL, "kind"),
)
RETRIES: Final = Metric(
    _P + "retries_total", Kind.COUNTER, "requests sent once more before a byte came", _MODEL
)
EJECTIONS: Final = Metric(
    _P + "ejections_total", Kind.COUNTER, "replicas set aside after faults", _MODEL
)
REFUSALS: Final = Metric(
    _P + "refusals_total",
    Kind.COUNTER,
    "all refusals to clients, by the error code of the reply, also where no model was found",
    ("code",),
)
CONNECTIONS: Final = Metric(_P + "connections", Kind.GAUGE, "open connections of clients")
UPSTREAM_IDLE: Final = Metric(
    _P + "upstream_connections_idle", Kind.GAUGE, "connections to engines kept for the next request"
)
DRAINING: Final = Metric(_P + "draining", Kind.GAUGE, "1 while the gateway finishes and leaves")
SPOOL_BYTES: Final = Metric(
    _P + "spool_bytes",
    Kind.GAUGE,
    "size of the usage events on the disk; a file goes when all of it was accepted",
)
SPOOL_PENDING: Final = Metric(
    _P + "spool_events_pending",
    Kind.GAUGE,
    "usage events that the control plane has not accepted yet",
)
EVENTS_SHIPPED: Final = Metric(
    _P + "events_shipped_total", Kind.COUNTER, "usage events that the control plane took"
)
CONTROL_AGE: Final = Metric(
    _P + "control_plane_age_seconds",
    Kind.GAUGE,
    "since the control plane last answered; a poll may wait 20 s, so 30 is healthy",
)
REVISION: Final = Metric(
    _P + "route_table_revision", Kind.GAUGE, "revision of the route table in use; 0 for none"
)
SERIES: Final = Metric(
    _P + "series", Kind.GAUGE, "pairs of project and model with series of their own"
)
SPANS: Final = Metric(
    _P + "spans_total",
    Kind.COUNTER,
    "traced requests; result is exported, or dropped when the collector is away or too slow",
    ("result",),
)
CPU: Final = Metric("process_cpu_seconds_total", Kind.COUNTER, "processor time of the gateway")
MEMORY: Final = Metric("process_resident_memory_bytes", Kind.GAUGE, "resident memory")
OPEN_FILES: Final = Metric("process_open_fds", Kind.GAUGE, "open files and sockets")
STARTED: Final = Metric(
    "process_start_time_seconds", Kind.GAUGE, "when the process started, since 1970-01-01 UTC"
)

METRICS: Final[tuple[Metric, ...]] = (
    INFO,
    REQUESTS,
    TOKENS,
    DURATION,
    FIRST_TOKEN,
    INTER_TOKEN,
    QUEUE_WAIT,
    QUEUE_LENGTH,
    IN_FLIGHT,
    LIMIT_REFUSALS,
    UPSTREAM_ERRORS,
    RETRIES,
    EJECTIONS,
    REFUSALS,
    CONNECTIONS,
    UPSTREAM_IDLE,
    DRAINING,
    SPOOL_BYTES,
    SPOOL_PENDING,
    EVENTS_SHIPPED,
    CONTROL_AGE,
    REVISION,
    SERIES,
    SPANS,
    CPU,
    MEMORY,
    OPEN_FILES,
    STARTED,
)
