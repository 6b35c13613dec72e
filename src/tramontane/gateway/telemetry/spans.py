"""Spans of traced requests on their way to a collector: batches, from a thread of their own.

A request only puts a finished span into a bounded queue. While the collector is away or slow,
spans are dropped and counted; nothing ever waits for it.
"""

import logging
import os
import random
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tramontane.gateway.telemetry.registry import Telemetry
from tramontane.gateway.telemetry.trace_context import SAMPLED, TraceContext

LOG: Final = logging.getLogger("tramontane.gateway.spans")
QUEUE_MAX: Final = 4_096  # some four seconds of a busy gateway with every request traced
_BATCH_MAX: Final = 512
_GATHER_S: Final = 0.5  # a batch fills for this long
_LAST_EXPORT_S: Final = 2.0  # what is not exported by then, at a stop, is lost

Attribute = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Span:
    """One traced request that has ended. Times are nanoseconds since 1970-01-01 UTC."""

    context: TraceContext
    begun_ns: int
    ended_ns: int
    is_fault: bool
    attributes: dict[str, Attribute]


class SpanExporter(Protocol):
    """Takes spans to a collector, blocking."""

    def export(self, spans: Sequence[Span]) -> bool:
        """Send spans; False when the collector did not take them. Retries within seconds."""
        ...

    def close(self) -> None:
        """Give up what is being sent; may be called from another thread."""
        ...


class Spans(threading.Thread):
    """The queue, and the thread that empties it."""

    def __init__(self, exporter: SpanExporter, sample_percent: int) -> None:
        """``sample_percent``: of a hundred requests without a trace, how many get one."""
        super().__init__(name="spans", daemon=True)
        self._exporter = exporter
        self._sample_percent = sample_percent
        self._random = random.Random(os.urandom(16))  # noqa: S311 - ids, not secrets
        self._queue: deque[Span] = deque()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self.telemetry: Telemetry | None = None

    def begin(self, parent: TraceContext | None) -> TraceContext | None:
        """Return the context of a new span below ``parent``, or None when it is not traced."""
        if parent is not None:
            if not parent.is_sampled:
                return None
            return TraceContext(parent.trace_id, self._id(8), parent.flags, parent.state, parent)
        if self._random.random() * 100 >= self._sample_percent:
            return None
        return TraceContext(self._id(16), self._id(8), SAMPLED)

    def put(self, span: Span) -> None:
        """Queue a span, or drop it when the queue is full; never waits."""
        if len(self._queue) >= QUEUE_MAX:
            self._count(dropped=1)
            return
        self._queue.append(span)
        if not self._wake.is_set():
            self._wake.set()

    def run(self) -> None:
        """Export batches until closed; one that is not taken is dropped."""
        while not self._closed.is_set():
            self._wake.wait()
            self._closed.wait(_GATHER_S)
            self._wake.clear()
            while self._queue:
                self._export_one()
        self._exporter.close()

    def close(self) -> None:
        """Export what is queued, for a moment, and end the thread."""
        self._closed.set()
        self._wake.set()
        self.join(_LAST_EXPORT_S)
        if self.is_alive():
            self._exporter.close()

    def _export_one(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(_BATCH_MAX, len(self._queue)))]
        try:
            is_taken = self._exporter.export(batch)
        except Exception:  # another's code must not end the thread
            LOG.exception("the exporter of spans failed")
            is_taken = False
        if is_taken:
            self._count(exported=len(batch))
        else:
            self._count(dropped=len(batch))

    def _count(self, exported: int = 0, dropped: int = 0) -> None:
        if self.telemetry is not None:
            self.telemetry.count_spans(exported, dropped)

    def _id(self, size_bytes: int) -> bytes:
        """Return a random id as hex; all zeros would not be valid."""
        number = self._random.getrandbits(8 * size_bytes) or 1
        return b"%0*x" % (2 * size_bytes, number)
