"""/internal/v1: what gateways pull and report. Not part of the public document."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from tramontane.api.access import GuardedRoute, gateway_only
from tramontane.api.revision_watch import RevisionWatch
from tramontane.api.routes.declared import Using
from tramontane.domain.usage import UsageEvent
from tramontane.services.all import Services
from tramontane.services.gateways import DeploymentDemand
from tramontane.wire import demand_report, slices_report
from tramontane.wire import usage_report as reports

router = APIRouter(
    prefix="/internal/v1",
    route_class=GuardedRoute,
    include_in_schema=False,
    dependencies=[gateway_only()],
)


@router.get("/route-table")
async def get_route_table(
    request: Request, services: Using, query: Annotated[reports.RouteTableQuery, Query()]
) -> Response:
    """Return the route table, or 304 when none but ``revision`` appears within ``wait_s``.

    Asynchronous, as nothing else here: a thread for each waiting gateway would use up the pool.
    """
    watch: RevisionWatch = request.app.state.revision_watch
    if query.revision is not None:
        await watch.wait_for_other(query.revision, query.wait_s)
    content = await run_in_threadpool(_current, services, query.revision)
    if content is None:
        return Response(status_code=304)
    return Response(content, media_type="application/json")


@router.post("/usage-events")
def accept_usage(services: Using, body: reports.UsageReport) -> reports.UsageReceipt:
    """Record usage events, each once for ever by its id; a malformed one is reported alone."""
    events: list[UsageEvent] = []
    rejected: list[reports.Rejected] = []
    for index, value in enumerate(body.events):
        event = reports.read_event(value)
        if isinstance(event, str):
            rejected.append(reports.Rejected(index=index, reason=event))
        else:
            events.append(event)
    accepted = services.usage.accept(events)
    return reports.UsageReceipt(
        accepted=accepted, duplicates=len(events) - accepted, rejected=rejected
    )


@router.post("/demand")
def accept_demand(services: Using, body: demand_report.DemandReport) -> dict[str, str]:
    """Take what a gateway says of the demand; autoscaling looks at it at once."""
    said = [DeploymentDemand(**item.model_dump()) for item in body.deployments]
    services.demands.accept(body.gateway, body.holder, said)
    return {}


@router.post("/slices")
def exchange_slices(services: Using, body: slices_report.SlicesReport) -> Response:
    """Lease slices of limits to a gateway; a report that is sent again gets the same grants."""
    reply = services.slices.exchange(body.gateway, body.report())
    return Response(msgspec.json.encode(reply), media_type="application/json")


def _current(services: Services, known: int | None) -> bytes | None:
    table = services.route_tables.current()
    if table is None or table.revision == known:
        return None
    return msgspec.json.encode(table)
