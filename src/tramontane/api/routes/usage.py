"""/cloud/v1/usage"""

from typing import Annotated

from fastapi import Query

from tramontane.api import spending_views, views
from tramontane.api.access import requires
from tramontane.api.routes.declared import Using, guarded_router
from tramontane.domain.tenancy import Permission, Principal
from tramontane.wire import cloud_quotas as wire
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_requests as requests

router = guarded_router("usage")
Reader = Annotated[Principal, requires(Permission.USAGE_READ)]


@router.get("", operation_id="usage_totals")
def read_totals(
    principal: Reader, services: Using, query: Annotated[requests.UsageQuery, Query()]
) -> replies.UsageTotals:
    """Add up requests and tokens: exact at any moment."""
    found = services.usage.totals(
        principal,
        project=query.project,
        from_ms=query.from_ms,
        to_ms=query.to_ms,
        group_by=query.group_by,
        limit=query.limit,
    )
    return views.usage_totals(found)


@router.get("/events", operation_id="usage_events")
def list_events(
    principal: Reader, services: Using, query: Annotated[requests.ProjectPageQuery, Query()]
) -> replies.Page[replies.UsageEvent]:
    """List usage events, one for each request, in the order in which they were accepted."""
    found = services.usage.events(
        principal, project=query.project, after=query.after, limit=query.limit
    )
    return views.page(found, views.usage_event)


@router.get("/attempts", operation_id="usage_attempts")
def list_attempts(
    principal: Reader, services: Using, query: Annotated[wire.AttemptBillQuery, Query()]
) -> wire.AttemptBill:
    """List attempts at jobs with what each held and cost, and sums by project and class.

    An attempt that was evicted and the one that went on are two lines.
    """
    found = services.attempt_bills.read(
        principal,
        project=query.project,
        job=query.job,
        from_ms=query.from_ms,
        to_ms=query.to_ms,
        after=query.after,
        limit=query.limit,
    )
    return spending_views.attempt_bill(found)
