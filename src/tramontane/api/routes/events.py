"""/cloud/v1/events"""

from typing import Annotated

from fastapi import Query

from tramontane.api import views
from tramontane.api.access import requires
from tramontane.api.routes.declared import Using, guarded_router
from tramontane.domain.tenancy import Permission, Principal
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_requests as requests

router = guarded_router("events")
Reader = Annotated[Principal, requires(Permission.EVENTS_READ)]


@router.get("", operation_id="events_story")
def read_story(
    principal: Reader, services: Using, query: Annotated[requests.SubjectStoryQuery, Query()]
) -> replies.Story:
    """Return what happened to one object, oldest first; objects that are gone keep their story."""
    found = services.events.story(principal, query.subject, after=query.after, limit=query.limit)
    return views.story(found)
