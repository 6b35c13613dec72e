"""The application: routes, errors and the front, wired from what the composition gives."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from tramontane import __version__
from tramontane.api import access, errors
from tramontane.api.front import Front
from tramontane.api.open_streams import OpenStreams
from tramontane.api.revision_watch import RevisionWatch
from tramontane.api.routes import (
    api_keys,
    deployments,
    events,
    fleet,
    internal,
    limits,
    models,
    organizations,
    plan,
    projects,
    replicas,
    usage,
    welcome,
    whoami,
)
from tramontane.api.routes.inference import responses
from tramontane.api.routes.jobs import jobs
from tramontane.api.routes.quotas import quotas
from tramontane.api.routes.reports import runners
from tramontane.runtime.clock import IdSource
from tramontane.services.all import Services

OPENAPI_PATH: Final = "/cloud/v1/openapi.json"
ROUTERS: Final[tuple[APIRouter, ...]] = (
    organizations.router,
    projects.router,
    api_keys.router,
    whoami.router,
    models.router,
    deployments.router,
    replicas.router,
    jobs.router,
    fleet.sites,
    fleet.clusters,
    fleet.nodes,
    usage.router,
    limits.limits,
    limits.budgets,
    limits.prices,
    limits.class_prices,
    quotas.quotas,
    quotas.reservations,
    events.router,
    plan.router,
    responses.router,
    internal.router,
    runners.router,
    responses.internal,
    welcome.router,
)
_TAGS: Final[tuple[tuple[str, str], ...]] = (
    ("organizations", "The units of billing, residency and keys."),
    ("projects", "The units of quota and isolation inside an organization."),
    ("api-keys", "Credentials, each of one project with one role."),
    ("whoami", "Whose key this is."),
    ("models", "The catalogue of open weights, each version pinned by its digest."),
    ("deployments", "What a project wants to be served, and how far that has come."),
    ("replicas", "Running engines."),
    ("jobs", "Work that ends: training, batches, anything with an exit code."),
    ("sites", "Where machines stand, and under whose law. For operators."),
    ("clusters", "Sets of nodes, each behind one driver. For operators."),
    ("nodes", "Machines and their accelerators. For operators."),
    ("usage", "What requests used, exactly once each."),
    ("responses", "Stored answers of the Responses API, for their own project."),
    ("limits", "What organizations, projects and keys may use."),
    ("budgets", "How much of the limits in euros is spent."),
    ("prices", "What models cost."),
    ("class-prices", "What an accelerator costs for an hour, by priority class."),
    ("quotas", "How many accelerators organizations and projects may use."),
    ("reservations", "Racks that are kept for one organization."),
    ("events", "What happened to an object."),
    ("plan", "What the reconciler would do next. For operators."),
)
_DESCRIPTION: Final = (
    "Manages an AI cloud: tenants, keys, models, deployments and usage. Send an API key as "
    "`Authorization: Bearer tmt_...`. Each operation names the permission that it needs "
    "(`x-permission`); what a key may not see answers 404. Times are milliseconds since 1970 UTC. "
    "Lists come in pages: ask for the next one with `after=<last_id>` while `has_more` is true."
)


def create_app(
    services: Services,
    *,
    gateway_token: str,
    ids: IdSource,
    routers: Sequence[APIRouter] = ROUTERS,
) -> FastAPI:
    """Return the application.

    Call ``app.state.revision_watch.close()`` when the process is asked to end, so that gateways
    that wait for a route table do not hold it up. Raises `access.UnmarkedRouteError` for a route
    that does not say who may call it.
    """
    app = FastAPI(
        title="Tramontane",
        version=__version__,
        description=_DESCRIPTION,
        openapi_tags=[{"name": name, "description": text} for name, text in _TAGS],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_url=OPENAPI_PATH,
        # Both would load their scripts from a third party's network.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.services = services
    app.state.gateway_token = gateway_token
    app.state.open_streams = OpenStreams()
    app.state.revision_watch = RevisionWatch(services.route_tables.revision)
    errors.install(app)
    app.add_middleware(Front, ids=ids)
    for router in routers:
        app.router.routes.extend(router.routes)
    access.check_routes(app, frozenset({OPENAPI_PATH}))
    return app


def permissions_of(app: FastAPI) -> dict[str, Any]:
    """Return the access of each route, by ``METHOD path``: for tests and for the documentation."""
    return {
        f"{method} {route.path}": access.access_of(route)
        for route in app.router.routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods or ())
    }
