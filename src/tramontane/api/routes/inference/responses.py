"""/v1/responses/{response}: stored responses for their project; /internal/v1 for gateways."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from tramontane.api.access import GuardedRoute, gateway_only, requires
from tramontane.api.routes.declared import Using
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import Permission, Principal
from tramontane.services.responses import Brought, Report
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_types as types
from tramontane.wire import stored_responses as wire

router = APIRouter(
    prefix="/v1/responses",
    tags=["responses"],
    route_class=GuardedRoute,
    responses={
        "4XX": {"model": replies.Error, "description": "Refused; nothing was changed."},
        "5XX": {"model": replies.Error, "description": "Try again later, or report a bug."},
    },
)
internal = APIRouter(
    prefix="/internal/v1/responses",
    route_class=GuardedRoute,
    include_in_schema=False,
    dependencies=[gateway_only()],
)
Caller = Annotated[Principal, requires(Permission.INFERENCE)]
ResponseInPath = Annotated[
    str,
    Path(min_length=1, max_length=128, pattern=types.REF, description="Id of a stored response."),
]


@router.get("/{response}", operation_id="responses_get", response_model=wire.Response)
def get_response(
    caller: Caller,
    services: Using,
    response: ResponseInPath,
    query: Annotated[wire.ResponseQuery, Query()],
) -> dict[str, Any]:
    """Return a stored response as it is now."""
    if query.stream:
        message = "a stored response is not streamed again: leave 'stream' out"
        raise refuse(Code.INVALID_VALUE, message, param="stream")
    return services.responses.get(caller, response)


@router.delete("/{response}", operation_id="responses_delete")
def delete_response(
    caller: Caller, services: Using, response: ResponseInPath
) -> wire.DeletedResponse:
    """Delete a stored response for good. One that still runs in the background is stopped."""
    services.responses.delete(caller, response)
    return wire.DeletedResponse(id=response)


@router.post("/{response}/cancel", operation_id="responses_cancel", response_model=wire.Response)
def cancel_response(caller: Caller, services: Using, response: ResponseInPath) -> dict[str, Any]:
    """Cancel a response that runs in the background; one that is over stays as it is."""
    return services.responses.cancel(caller, response)


@router.get("/{response}/input_items", operation_id="responses_input_items")
def list_input_items(
    caller: Caller,
    services: Using,
    response: ResponseInPath,
    query: Annotated[wire.InputItemsQuery, Query()],
) -> wire.InputItems:
    """List what a response was asked with: its own items, not those of the ones before it."""
    found = services.responses.input_items(
        caller, response, order=query.order, after=query.after, limit=query.limit
    )
    ids = [item["id"] for item in found.items]
    return wire.InputItems(
        data=list(found.items),
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
        has_more=found.has_more,
    )


@internal.post("")
def keep_response(services: Using, body: wire.KeepResponse) -> dict[str, str]:
    """Store a response; the same one again changes nothing."""
    services.responses.keep(
        Brought(
            organization_id=body.organization_id,
            project_id=body.project_id,
            api_key_id=body.api_key_id,
            holder=body.holder,
            body=body.response.model_dump(),
            input_items=[item.model_dump() for item in body.input_items],
        )
    )
    return {}


@internal.put("")
def finish_response(services: Using, body: wire.FinishResponse) -> wire.Finished:
    """Store the end of a response in the background, unless it is over or deleted."""
    status = services.responses.finish(body.project_id, body.response.model_dump())
    return wire.Finished(status=status.value)


@internal.post("/report")
def report_responses(services: Using, body: wire.ResponseReport) -> wire.ResponseOrders:
    """Take what a gateway works on in the background, and say what it should stop."""
    report = Report(body.holder, body.queued, body.in_progress)
    return wire.ResponseOrders(stop=list(services.responses.report(report)))


@internal.get("/{response}/history")
def get_history(
    services: Using, response: ResponseInPath, query: Annotated[wire.HistoryQuery, Query()]
) -> wire.History:
    """Return the items of the conversation that a response ends."""
    return wire.History(items=services.responses.history(query.project_id, response))
