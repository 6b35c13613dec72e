"""One request's trace: what its engine is told of it, and the span that it leaves.

A span holds names, numbers and ids; nothing of what was asked or answered. The names of its
attributes follow OpenTelemetry's semantic conventions for HTTP and for generative AI.
"""

from typing import TYPE_CHECKING

from tramontane.domain.usage import Outcome
from tramontane.gateway.calls.usage import Tokens
from tramontane.gateway.metering.entry import Entry
from tramontane.gateway.telemetry import trace_context
from tramontane.gateway.telemetry.spans import Attribute, Span, Spans

if TYPE_CHECKING:
    from tramontane.gateway.client.request import Request


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
    attributes: dict[str, Attribute] = {
        "http.request.method": "POST",
        "http.response.status_code": status,
        "gen_ai.operation.name": started.endpoint,
        "gen_ai.request.model": started.model,
        "gen_ai.usage.input_tokens": tokens[0],
        "gen_ai.usage.output_tokens": tokens[1],
        "tramontane.request_id": started.request_id,
        "tramontane.organization_id": started.organization_id,
        "tramontane.project_id": started.project_id,
        "tramontane.api_key_id": started.api_key_id,
        "tramontane.deployment_id": started.deployment_id,
        "tramontane.replica_id": started.replica_id,
        "tramontane.is_stream": started.is_stream,
        "tramontane.outcome": outcome.value,
    }
    if entry.first_byte_s:
        attributes["tramontane.first_byte_ms"] = round(
            (entry.first_byte_s - entry.started_s) * 1000
        )
    begun_ns = entry.started_ms * 1_000_000
    ended_ns = begun_ns + round((now_s - entry.started_s) * 1e9)
    spans.put(Span(context, begun_ns, ended_ns, outcome is not Outcome.COMPLETED, attributes))
