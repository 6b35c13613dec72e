"""The queue of spans: batches, drops that are counted, and who is traced."""

import threading
from collections.abc import Sequence

import pytest

from tramontane.gateway.telemetry.registry import Telemetry
from tramontane.gateway.telemetry.spans import QUEUE_MAX, Span, Spans
from tramontane.gateway.telemetry.trace_context import TraceContext

PARENT = TraceContext(b"a" * 32, b"b" * 16, 1, b"x=1")
SPAN = Span(PARENT, 1, 2, is_fault=False, attributes={})


class Collecting:
    """An exporter that keeps what it gets, or does what it was told to."""

    def __init__(self, *answers: bool | Exception) -> None:
        self._answers = list(answers)
        self.batches: list[int] = []
        self.closed = threading.Event()

    def export(self, spans: Sequence[Span]) -> bool:
        self.batches.append(len(spans))
        answer = self._answers.pop(0) if self._answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed.set()


def test_batches_are_bounded_and_each_span_is_counted_once() -> None:
    exporter = Collecting(True, False, ValueError("not ours"))
    spans = Spans(exporter, 100)
    spans.telemetry = telemetry = Telemetry("gw", "1", 1)
    for _ in range(QUEUE_MAX + 10):  # nobody takes them yet
        spans.put(SPAN)
    assert telemetry.spans_dropped == 10
    spans.start()
    spans.close()
    assert not spans.is_alive()
    assert exporter.closed.is_set()
    assert exporter.batches == [512] * 8
    assert telemetry.spans_exported == 6 * 512
    assert telemetry.spans_dropped == 10 + 2 * 512


def test_a_trace_of_the_client_goes_on_if_the_client_records_it() -> None:
    spans = Spans(Collecting(), 0)
    found = spans.begin(PARENT)
    assert found is not None
    assert (found.trace_id, found.flags, found.state) == (PARENT.trace_id, 1, b"x=1")
    assert found.span_id != PARENT.span_id
    assert found.parent is PARENT
    assert spans.begin(TraceContext(b"a" * 32, b"b" * 16, 0)) is None


@pytest.mark.parametrize(("percent", "low", "high"), [(0, 0, 0), (100, 1000, 1000), (10, 40, 200)])
def test_of_the_others_a_share_is_traced(percent: int, low: int, high: int) -> None:
    spans = Spans(Collecting(), percent)
    found = [context for _ in range(1000) if (context := spans.begin(None)) is not None]
    assert low <= len(found) <= high
    assert len({context.trace_id for context in found}) == len(found)
    assert all(len(context.trace_id) == 32 and len(context.span_id) == 16 for context in found)
