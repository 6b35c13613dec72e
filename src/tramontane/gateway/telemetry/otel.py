"""The exporter of spans that speaks OTLP over HTTP, by OpenTelemetry's own library.

Imported only when the setting ``otel_endpoint`` is there: the library comes with the optional
extra ``otel``, and the gateway runs without it.
"""

# pyright: reportMissingImports=false
# The extra is not among the packages that the types are checked with.

from collections.abc import Sequence
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from tramontane import __version__
from tramontane.gateway.telemetry.spans import Span
from tramontane.gateway.telemetry.trace_context import TraceContext

NAME: Final = "gateway.request"
_TIMEOUT_S: Final = 5  # of one batch, retries and all


class OtlpExporter:
    """Sends batches to one collector."""

    def __init__(self, endpoint: str, gateway: str) -> None:
        """``endpoint`` is the whole URL; ``gateway`` becomes ``service.instance.id``."""
        self._exporter: Any = OTLPSpanExporter(endpoint=endpoint, timeout=_TIMEOUT_S)
        self._resource = Resource(
            {
                "service.name": "tramontane-gateway",
                "service.instance.id": gateway,
                "service.version": __version__,
            }
        )
        self._scope = InstrumentationScope("tramontane.gateway", __version__)

    def export(self, spans: Sequence[Span]) -> bool:
        """Send ``spans``; False when the collector did not take them."""
        result = self._exporter.export([self._readable(span) for span in spans])
        return bool(result is SpanExportResult.SUCCESS)

    def close(self) -> None:
        """Give up what is being sent."""
        self._exporter.shutdown()

    def _readable(self, span: Span) -> ReadableSpan:
        parent = span.context.parent
        return ReadableSpan(
            name=NAME,
            context=_context(span.context, is_remote=False),
            parent=_context(parent, is_remote=True) if parent is not None else None,
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if span.is_fault else StatusCode.UNSET),
            start_time=span.begun_ns,
            end_time=span.ended_ns,
            instrumentation_scope=self._scope,
        )


def _context(context: TraceContext, *, is_remote: bool) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote,
        TraceFlags(context.flags),
        TraceState.from_header([context.state.decode("latin-1")]),
    )
