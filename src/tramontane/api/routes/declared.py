"""What the route files share: a router of guarded routes and the services behind them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from tramontane.api.access import GuardedRoute
from tramontane.services.all import Services
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_types as types


def guarded_router(noun: str) -> APIRouter:
    """Return a router for ``/cloud/v1/<noun>``, tagged with the noun."""
    return APIRouter(
        prefix=f"/cloud/v1/{noun}",
        tags=[noun],
        route_class=GuardedRoute,
        responses={
            "4XX": {"model": replies.Error, "description": "Refused; nothing was changed."},
            "5XX": {"model": replies.Error, "description": "Try again later, or report a bug."},
        },
    )


async def _services(request: Request) -> Services:
    return request.app.state.services


Using = Annotated[Services, Depends(_services)]
RefInPath = Annotated[
    str,
    Path(min_length=1, max_length=128, pattern=types.REF, description="Id, or name if it has one."),
]
