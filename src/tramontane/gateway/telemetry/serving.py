"""Answers GET /metrics: to an operator's key on the public port, to anyone on a port of its own.

The page is made a step at a time between other work, and once for all who wait for it.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.tenancy import Role
from tramontane.gateway import refusals
from tramontane.gateway.telemetry import exposition

if TYPE_CHECKING:
    from tramontane.gateway.client.connection import ClientConnection
    from tramontane.gateway.client.request import Request
    from tramontane.gateway.dispatch import Gateway

PATH: Final = "/metrics"
_OPERATORS_ONLY: Final = Refusal(
    Code.PERMISSION_DENIED, "metrics are for operators: send an operator's key"
)
_NOTHING_ELSE: Final = Refusal(
    Code.NOT_FOUND, "there is nothing here but /metrics: this port is for its scraper"
)


class MetricsPage:
    """Who waits for the page that is being made."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._waiting: list[tuple[ClientConnection, Request]] = []

    def ask(self, client: "ClientConnection", request: "Request") -> None:
        """Answer on the public port: only operators see all tenants' figures."""
        gateway = self._gateway
        if gateway.index is None:
            gateway.refuse(client, request, refusals.NO_TABLE)
            return
        key = gateway.index.auth.identify(request.authorization, gateway.clock.now_ms())
        if isinstance(key, Refusal):
            gateway.refuse(client, request, key)
        elif key.role is not Role.OPERATOR:
            gateway.refuse(client, request, _OPERATORS_ONLY)
        else:
            self._tell(client, request)

    def begin(self, client: "ClientConnection", request: "Request") -> None:
        """Answer on the scraper's port, which has nothing else."""
        if request.path != PATH:
            self._gateway.refuse(client, request, _NOTHING_ELSE)
        elif request.method not in {b"GET", b"HEAD"}:
            message = "the metrics can only be read: use GET"
            self._gateway.refuse(client, request, Refusal(Code.METHOD_NOT_ALLOWED, message))
        else:
            request.id = self._gateway.new_request_id()
            self._tell(client, request)

    def _tell(self, client: "ClientConnection", request: "Request") -> None:
        self._waiting.append((client, request))
        if len(self._waiting) == 1:
            self._gateway.spawn(self._make())

    async def _make(self) -> None:
        page = b""
        for page in exposition.steps(self._gateway.telemetry):
            if not page:
                await asyncio.sleep(0)
        waiting, self._waiting = self._waiting, []
        for client, request in waiting:
            if client.current is request:  # it has not left
                client.reply(200, exposition.CONTENT_TYPE, page)
