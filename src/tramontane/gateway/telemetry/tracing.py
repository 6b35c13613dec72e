"""One request's trace: what its engine is told of it, and the span that it leaves.

A span holds names, numbers and ids; nothing of what was asked or answered. The names of its
attributes follow OpenTelemetry's semantic conventions for HTTP and for generative AI.
"""

from typing import TYPE_CHECKING, Final

from tramontane.domain.usage import Outcome
from tramontane.gateway.calls.usage import Tokens
from tramontane.gateway.metering.entry import Entry
from tramontane.gateway.telemetry import trace_context
from tramontane.gateway.telemetry.spans import Attribute, Span, Spans

if TYPE_CHECKING:
    from tramontane.gateway.client.request import Request

ATTRIBUTES: Final = (
    *("http.request.method", "http.response.status_code"),
    *("gen_ai.operation.name", "gen_ai.request.model"),
    *("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"),
    *("tramontane.request_id", "tramontane.organization_id", "tramontane.project_id"),
    *("tramontane.api_key_id", "tramontane.deployment_id", "tramontane.replica_id"),
    *("tramontane.is_stream", "tramontane.outcome", "tramontane.first_byte_ms"),
)


def begin(spans: Spans | None, request: "Request") -> None:
    """Find out what an engine is told: our own span if there is one, else the client's."""
    headers = request.trace_headers
    parent = trace_context.read(headers) if headers else None
    request.trace = spans.begin(parent) if spans is not None else None
    told = request.trace or parent
    if told is not None:
        request.trace_lines = told.header_lines()


def end(  # noqa: PLR0917 - all that is known of a request
    spans: Spans,
    request: "Request",
    entry: Entry,
    outcome: Outcome,
    status: int,
    tokens: Tokens,
    now_s: float,
) -> None:
    """Hand in the span of a request that reached an engine. ``now_s`` is the loop's time."""
    started, context = entry.started, request.trace
    if started is None or context is None:
        return
    values: list[Attribute] = [
        *("POST", status),
        *(started.endpoint, started.model),
        *(tokens[0], tokens[1]),
        *(started.request_id, started.organization_id, started.project_id),
        *(started.api_key_id, started.deployment_id, started.replica_id),
        *(started.is_stream, outcome.value),
    ]
    if entry.first_byte_s:
        values.append(round((entry.first_byte_s - entry.started_s) * 1000))
    attributes = dict(zip(ATTRIBUTES, values, strict=False))  # the last one needs a reply
    begun_ns = entry.started_ms * 1_000_000
    ended_ns = begun_ns + round((now_s - entry.started_s) * 1e9)
    spans.put(Span(context, begun_ns, ended_ns, outcome is not Outcome.COMPLETED, attributes))
