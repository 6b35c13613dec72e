"""What a gateway opens by its settings beside its public port: a metrics port, a way for spans."""

import asyncio
import importlib
import socket
from dataclasses import dataclass
from typing import Final

from tramontane.gateway.client.connection import ClientConnection
from tramontane.gateway.dispatch import Gateway
from tramontane.gateway.telemetry.spans import Spans
from tramontane.processes.startup import listen
from tramontane.runtime.settings import Settings, SettingsError

_OTEL: Final = "tramontane.gateway.telemetry.otel"  # imports what only the extra has


@dataclass(frozen=True, slots=True)
class Doors:
    """What is open. ``metrics`` listens for scrapers."""

    metrics: socket.socket | None = None
    spans: Spans | None = None

    async def attend(self, gateway: Gateway) -> asyncio.Server | None:
        """Serve them with ``gateway``; the server returned is closed with the public one."""
        if self.spans is not None:
            self.spans.telemetry = gateway.telemetry
            gateway.spans = self.spans
            self.spans.start()
        if self.metrics is None:
            return None
        begin = gateway.metrics.begin
        return await gateway.loop.create_server(
            lambda: ClientConnection(gateway, begin), sock=self.metrics
        )

    async def close(self) -> None:
        """Give what is queued a moment to leave."""
        if self.spans is not None:
            await asyncio.to_thread(self.spans.close)


NO_DOORS: Final = Doors()


def open_doors(settings: Settings, name: str, *, shares_port: bool = False) -> Doors:
    """Open what ``settings`` ask for. Raises `SettingsError`; OSError when a port is taken.

    ``name`` is the gateway's. ``shares_port``: another gateway may listen on the same port.
    """
    metrics = None
    if settings.metrics_port is not None:
        try:
            metrics = listen(settings.metrics_host, settings.metrics_port, shares=shares_port)
        except OSError as error:
            address = f"{settings.metrics_host}:{settings.metrics_port}"
            msg = f"cannot listen on {address} for metrics: {error.strerror}; set metrics_port"
            raise SettingsError(msg) from error
        metrics.setblocking(False)  # noqa: FBT003 - the library's signature
    return Doors(metrics, _open_spans(settings, name))


def _open_spans(settings: Settings, name: str) -> Spans | None:
    if settings.otel_endpoint is None:
        return None
    try:
        otel = importlib.import_module(_OTEL)
    except ImportError as error:
        msg = (
            "otel_endpoint is set, but OpenTelemetry is not installed: install "
            "'tramontane[otel]' (requirements/otel.txt), or unset it"
        )
        raise SettingsError(msg) from error
    return Spans(otel.OtlpExporter(settings.otel_endpoint, name), settings.otel_sample_percent)
