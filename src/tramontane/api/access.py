"""Who may call a route. Denied by default: an unmarked route stops the application at its start.

A route of the management API takes ``principal: Annotated[Principal, requires(Permission.X)]``.
The key is checked before the body is read, so that strangers cannot make the server parse.
"""

import hmac
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request, Response, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from tramontane.api.strict_request import StrictRequest
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import Permission, Principal
from tramontane.services.all import Services

BEARER: Final = HTTPBearer(
    scheme_name="apiKey",
    description="An API key: `Authorization: Bearer tmt_...`",
    auto_error=False,
)
_NO_KEY: Final = "no API key was sent: send `Authorization: Bearer <key>`"


class UnmarkedRouteError(AssertionError):
    """A bug: a route does not say who may call it."""


@dataclass(frozen=True, slots=True)
class Requires:
    """The route needs an API key whose role grants ``permission``."""

    permission: Permission

    async def admit(self, request: Request) -> None:
        """Let the request pass and remember whose it is, or refuse it (401, 403)."""
        services: Services = request.app.state.services
        key = bearer_of(request)
        principal = await run_in_threadpool(services.authentication.principal, key)
        if not principal.may(self.permission):
            message = (
                f"this key has the role {principal.role}, which lacks the permission "
                f"{self.permission}: use a key of another role"
            )
            raise refuse(Code.PERMISSION_DENIED, message)
        if principal.blocked and not self.permission.is_read:
            message = f"the {principal.blocked} of this key is blocked: it may read, not change"
            if principal.blocked == "key":
                message = "this key is blocked: it may read, not change; ask an operator"
            raise refuse(Code.PERMISSION_DENIED, message)
        request.state.principal = principal

    async def __call__(
        self, request: Request, _documented: Annotated[object, Security(BEARER)]
    ) -> Principal:
        """Return whose request it is."""
        return request.state.principal


@dataclass(frozen=True, slots=True)
class GatewayOnly:
    """The route needs the token that the installation's gateways share."""

    async def admit(self, request: Request) -> None:
        """Let the request pass, or refuse it (401)."""
        expected: str = request.app.state.gateway_token
        if not hmac.compare_digest(bearer_of(request).encode(), expected.encode()):
            raise refuse(Code.INVALID_API_KEY, "this is not the key of a gateway")

    async def __call__(self) -> None:
        """Do nothing more: `admit` was called before."""


@dataclass(frozen=True, slots=True)
class RunnerOnly:
    """The route needs the secret of the replica or attempt that its path names as ``id``."""

    async def admit(self, request: Request) -> None:
        """Let the request pass, or refuse it (401)."""
        services: Services = request.app.state.services
        secret = bearer_of(request)
        await run_in_threadpool(services.runner_reports.admit, request.path_params["id"], secret)

    async def __call__(self) -> None:
        """Do nothing more: `admit` was called before."""


@dataclass(frozen=True, slots=True)
class Public:
    """The route answers anyone."""

    async def admit(self, request: Request) -> None:
        """Let the request pass."""

    async def __call__(self) -> None:
        """Do nothing more."""


Access = Requires | GatewayOnly | RunnerOnly | Public


def requires(permission: Permission) -> Any:
    """Return the dependency that admits keys with ``permission`` and gives the principal."""
    return Depends(Requires(permission))


def gateway_only() -> Any:
    """Return the dependency that admits gateways."""
    return Depends(GatewayOnly())


def runner_only() -> Any:
    """Return the dependency that admits the runner of what the path names as ``id``."""
    return Depends(RunnerOnly())


def public() -> Any:
    """Return the dependency that admits anyone."""
    return Depends(Public())


class GuardedRoute(APIRoute):
    """A route that checks its access before it reads the body, which must be strict JSON."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        access = access_of(self)
        if isinstance(access, Requires):
            self.openapi_extra = {"x-permission": str(access.permission)}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler behind the check."""
        handle = super().get_route_handler()
        access = access_of(self)

        async def guarded(request: Request) -> Response:
            await access.admit(request)
            return await handle(StrictRequest(request.scope, request.receive))

        return guarded


def access_of(route: APIRoute) -> Access:
    """Return the one mark of the route; `UnmarkedRouteError` unless it has exactly one."""
    marks = [call for call in _calls(route.dependant) if isinstance(call, Access)]
    if len(marks) != 1:
        methods = ", ".join(sorted(route.methods or ()))
        msg = (
            f"{methods} {route.path} has {len(marks)} marks of access: give it one of "
            "requires(Permission.X), gateway_only(), runner_only() or public()"
        )
        raise UnmarkedRouteError(msg)
    return marks[0]


def check_routes(app: FastAPI, public_paths: frozenset[str]) -> None:
    """Raise `UnmarkedRouteError` for a route that nothing guards.

    ``public_paths`` are those that FastAPI itself serves.
    """
    for route in app.router.routes:
        if isinstance(route, GuardedRoute):
            access_of(route)
        elif getattr(route, "path", None) not in public_paths:
            msg = f"{route!r} is no GuardedRoute, so nothing checks who calls it"
            raise UnmarkedRouteError(msg)


def _calls(dependant: Dependant) -> Iterator[object]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)


def bearer_of(request: Request) -> str:
    """Return the key or secret that the request shows, or refuse it (401)."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise refuse(Code.INVALID_API_KEY, _NO_KEY)
    return key.strip()
