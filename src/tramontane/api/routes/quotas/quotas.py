"""/cloud/v1/quotas and /cloud/v1/reservations"""

from typing import Annotated

from fastapi import Query

from tramontane.api import spending_views as show
from tramontane.api import views
from tramontane.api.access import requires
from tramontane.api.routes.declared import RefInPath, Using, guarded_router
from tramontane.domain.launch import PriorityClass
from tramontane.domain.tenancy import Permission, Principal
from tramontane.services.quotas.owned import Subject
from tramontane.wire import cloud_quotas as wire
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_requests as requests

quotas = guarded_router("quotas")
reservations = guarded_router("reservations")
Reader = Annotated[Principal, requires(Permission.QUOTAS_READ)]
Writer = Annotated[Principal, requires(Permission.QUOTAS_WRITE)]


@quotas.get("", operation_id="quotas_list")
def list_quotas(
    principal: Reader, services: Using, query: Annotated[wire.QuotaPageQuery, Query()]
) -> replies.Page[wire.Quota]:
    """List quotas: an operator sees all, a member those of its project and organization."""
    found = services.quotas.list(principal, _subject(query), after=query.after, limit=query.limit)
    return views.page(found, show.quota)


@quotas.put("", operation_id="quotas_set")
def set_quota(principal: Writer, services: Using, body: wire.SetQuota) -> wire.Quota:
    """Set how many accelerators, and which classes, a tenant may use; replaces its quota.

    What runs beyond a smaller quota goes on; clusters hear of it at once.
    """
    named = body.priority_classes
    found = services.quotas.set(
        principal,
        _subject(body),
        body.devices_max,
        body.share,
        None if named is None else [PriorityClass(each) for each in named],
    )
    return show.quota(found)


@quotas.get("/{quota}", operation_id="quotas_get")
def get_quota(principal: Reader, services: Using, quota: RefInPath) -> wire.Quota:
    """Return one quota by its id."""
    return show.quota(services.quotas.get(principal, quota))


@quotas.delete("/{quota}", operation_id="quotas_delete")
def delete_quota(principal: Writer, services: Using, quota: RefInPath) -> replies.Deleted:
    """Take a quota away: its subject is unbounded again, with a share of 1."""
    gone = services.quotas.remove(principal, quota)
    return replies.Deleted(object="quota", id=gone.id)


@reservations.get("", operation_id="reservations_list")
def list_reservations(
    principal: Reader, services: Using, query: Annotated[requests.PageQuery, Query()]
) -> replies.Page[wire.Reservation]:
    """List reserved racks: an operator sees all, a member those of its organization."""
    found = services.reservations.list(principal, Subject(), after=query.after, limit=query.limit)
    return views.page(found, show.reservation)


@reservations.post("", operation_id="reservations_create", status_code=201)
def create_reservation(
    principal: Writer, services: Using, body: wire.CreateReservation
) -> wire.Reservation:
    """Keep a rack for one organization; what others have running there ends by itself."""
    found = services.reservations.create(principal, body.organization, body.cluster, body.rack)
    return show.reservation(found)


@reservations.get("/{reservation}", operation_id="reservations_get")
def get_reservation(principal: Reader, services: Using, reservation: RefInPath) -> wire.Reservation:
    """Return one reservation by its id."""
    return show.reservation(services.reservations.get(principal, reservation))


@reservations.delete("/{reservation}", operation_id="reservations_delete")
def delete_reservation(
    principal: Writer, services: Using, reservation: RefInPath
) -> replies.Deleted:
    """Let everybody use the rack again, once nothing of its organization runs there."""
    gone = services.reservations.remove(principal, reservation)
    return replies.Deleted(object="reservation", id=gone.id)


def _subject(sent: wire.SetQuota | wire.QuotaPageQuery) -> Subject:
    return Subject(organization=sent.organization, project=sent.project)
