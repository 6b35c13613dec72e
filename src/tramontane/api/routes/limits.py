"""/cloud/v1/limits, /cloud/v1/budgets, /cloud/v1/prices and /cloud/v1/class-prices"""

from typing import Annotated

from fastapi import Query

from tramontane.api import spending_views as show
from tramontane.api import views
from tramontane.api.access import requires
from tramontane.api.routes.declared import RefInPath, Using, guarded_router
from tramontane.domain.launch import PriorityClass
from tramontane.domain.spending.pricing import Prices
from tramontane.domain.tenancy import Permission, Principal
from tramontane.services.quotas.owned import Subject
from tramontane.services.spending.limits import Bounds
from tramontane.wire import cloud_quotas as quotas_wire
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_requests as requests
from tramontane.wire import cloud_spending as wire

limits = guarded_router("limits")
budgets = guarded_router("budgets")
prices = guarded_router("prices")
class_prices = guarded_router("class-prices")
Reader = Annotated[Principal, requires(Permission.LIMITS_READ)]
Writer = Annotated[Principal, requires(Permission.LIMITS_WRITE)]
PriceReader = Annotated[Principal, requires(Permission.PRICES_READ)]
PriceWriter = Annotated[Principal, requires(Permission.PRICES_WRITE)]


@limits.get("", operation_id="limits_list")
def list_limits(
    principal: Reader, services: Using, query: Annotated[wire.LimitPageQuery, Query()]
) -> replies.Page[wire.Limit]:
    """List limits: an operator sees all, a member those that bind its project and its keys."""
    found = services.limits.list(principal, _subject(query), after=query.after, limit=query.limit)
    return views.page(found, show.limit)


@limits.put("", operation_id="limits_set")
def set_limit(principal: Writer, services: Using, body: wire.SetLimit) -> wire.Limit:
    """Set what an organization, a project or a key may use; replaces its limit for that model.

    Every limit that binds a request must have room for it. Gateways hear of it at once; what was
    used in the minute or the month that runs stays counted.
    """
    bounds = Bounds(
        requests_per_minute_max=body.requests_per_minute_max,
        tokens_per_minute_max=body.tokens_per_minute_max,
        requests_in_flight_max=body.requests_in_flight_max,
        budget_micro=body.budget_micro,
    )
    return show.limit(services.limits.set(principal, _subject(body), body.model, bounds))


@limits.get("/{limit}", operation_id="limits_get")
def get_limit(principal: Reader, services: Using, limit: RefInPath) -> wire.Limit:
    """Return one limit by its id."""
    return show.limit(services.limits.get(principal, limit))


@limits.delete("/{limit}", operation_id="limits_remove")
def remove_limit(principal: Writer, services: Using, limit: RefInPath) -> replies.Deleted:
    """Take a limit away, with what was counted against it."""
    gone = services.limits.remove(principal, limit)
    return replies.Deleted(object="limit", id=gone.id)


@budgets.get("", operation_id="budgets_list")
def list_budgets(
    principal: Reader, services: Using, query: Annotated[wire.LimitPageQuery, Query()]
) -> replies.Page[wire.Budget]:
    """List the limits that have a budget, and how each stands in the month that runs."""
    found = services.limits.budgets(
        principal, _subject(query), after=query.after, limit=query.limit
    )
    return views.page(found, show.budget)


@prices.get("", operation_id="prices_list")
def list_prices(
    _: PriceReader, services: Using, query: Annotated[requests.PageQuery, Query()]
) -> replies.Page[wire.ModelPrices]:
    """List what the models of the catalogue cost, the free ones too."""
    found = services.prices.list(after=query.after, limit=query.limit)
    return views.page(found, show.prices)


@prices.get("/{model}", operation_id="prices_get")
def get_prices(_: PriceReader, services: Using, model: RefInPath) -> wire.ModelPrices:
    """Return what one model costs."""
    return show.prices(services.prices.get(model))


@prices.put("/{model}", operation_id="prices_set")
def set_prices(
    principal: PriceWriter, services: Using, model: RefInPath, body: wire.SetPrices
) -> wire.ModelPrices:
    """Set what a model costs, in every deployment of it; holds for requests that begin later."""
    new = Prices(
        prompt_micro=body.prompt_micro,
        completion_micro=body.completion_micro,
        cached_micro=body.cached_micro,
        request_micro=body.request_micro,
    )
    return show.prices(services.prices.set(principal, model, new))


@prices.delete("/{model}", operation_id="prices_remove")
def remove_prices(principal: PriceWriter, services: Using, model: RefInPath) -> wire.ModelPrices:
    """Make a model free."""
    return show.prices(services.prices.remove(principal, model))


@class_prices.get("", operation_id="class_prices_list")
def list_class_prices(_: PriceReader, services: Using) -> quotas_wire.ClassPrices:
    """List what an accelerator costs for an hour in each class, the free ones too."""
    found = services.class_prices.list()
    return quotas_wire.ClassPrices(data=[show.class_price(each) for each in found])


@class_prices.put("/{priority_class}", operation_id="class_prices_set")
def set_class_price(
    principal: PriceWriter,
    services: Using,
    priority_class: PriorityClass,
    body: quotas_wire.SetClassPrice,
) -> quotas_wire.ClassPrice:
    """Set what a class costs; holds for attempts that are accounted later."""
    found = services.class_prices.set(principal, priority_class, body.device_hour_micro)
    return show.class_price(found)


def _subject(sent: wire.SetLimit | wire.LimitPageQuery) -> Subject:
    return Subject(organization=sent.organization, project=sent.project, api_key=sent.api_key)
