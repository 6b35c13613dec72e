"""What a gateway opens by its settings: TLS on its port, a metrics port, a way for spans."""

import asyncio
import contextlib
import importlib
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tramontane.gateway.client.connection import ClientConnection
from tramontane.gateway.dispatch import Gateway
from tramontane.gateway.telemetry.spans import Spans
from tramontane.gateway.tls import ReplicaTls, ServerTls, TlsError
from tramontane.processes.handover import Handover, Shared
from tramontane.processes.startup import listen, say
from tramontane.runtime.settings import Settings, SettingsError

_TABLE_S: Final = 10.0  # then it serves without one: better than connections that wait for ever
# libuv takes one connection in for each pass of the loop and handle. Under load a pass takes some
# ten milliseconds, and clients that come together would wait seconds for their turn.
_ACCEPTS: Final = 16
_BACKLOG: Final = 4_096  # asyncio would set the listening socket's back to 100
_ADOPT_S: Final = 5.0  # between two looks at what other gateways left
_LOOK_S: Final = 1.0  # between two looks at the certificate files
_OTEL: Final = "tramontane.gateway.telemetry.otel"  # imports what only the extra has


@dataclass(frozen=True, slots=True)
class Doors:
    """What is open. ``metrics`` listens for scrapers, ``tls`` is the public port's."""

    metrics: socket.socket | None = None
    spans: Spans | None = None
    tls: ServerTls | None = None
    replica_tls: ReplicaTls | None = None
    shared: Shared | None = None  # the public port's socket, where others have it too
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    async def serve(
        self, gateway: Gateway, listener: socket.socket, folder: Path
    ) -> list[asyncio.Server]:
        """Take clients in on the public port, with TLS where a certificate is set.

        On a port that is shared, others take them in until there is a route table to serve by.
        """
        if self.shared is not None:
            await _wait_for_table(gateway)
        context = self.tls.context if self.tls is not None else None
        handshake_s = gateway.limits.head_s if context is not None else None
        servers = [
            await gateway.loop.create_server(
                lambda: ClientConnection(gateway),
                sock=listener.dup(),
                backlog=_BACKLOG,
                ssl=context,
                ssl_handshake_timeout=handshake_s,
            )
            for _ in range(_ACCEPTS)
        ]
        if self.shared is not None:
            self.stack.enter_context(Handover(folder, gateway.meter.gateway, listener))
            host, port = listener.getsockname()[:2]
            before = self.shared.before
            whose = f"; the socket came from process {before}" if before else ""
            say(f"gateway {gateway.meter.gateway} serves on {host}:{port}{whose}")
        return servers

    @property
    def has_files(self) -> bool:
        """Tell whether there are certificate files to look at."""
        return self.tls is not None or self.replica_tls is not None

    def look(self) -> None:
        """Take certificates up again whose files have changed."""
        if self.tls is not None:
            self.tls.look()
        if self.replica_tls is not None:
            self.replica_tls.look()

    async def keep_looking(self) -> None:
        """Look at the files every second, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look()

    async def attend(self, gateway: Gateway) -> asyncio.Server | None:
        """Serve them with ``gateway``; the server returned is closed with the public one."""
        if self.spans is not None:
            self.spans.telemetry = gateway.telemetry
            gateway.spans = self.spans
            self.spans.start()
        gateway.replica_tls = self.replica_tls
        if self.has_files:
            gateway.spawn(self.keep_looking())
        if self.shared is not None:
            gateway.spawn(_keep_adopting(gateway))
        if self.metrics is None:
            return None
        begin = gateway.metrics.begin
        return await gateway.loop.create_server(
            lambda: ClientConnection(gateway, begin), sock=self.metrics
        )

    async def close(self) -> None:
        """Give what is queued a moment to leave."""
        self.stack.close()
        if self.spans is not None:
            await asyncio.to_thread(self.spans.close)


def open_doors(settings: Settings, name: str, *, shared: Shared | None = None) -> Doors:
    """Open what ``settings`` ask for. Raises `SettingsError`; OSError when a port is taken.

    ``name`` is the gateway's. ``shared``: other gateways may listen on the same ports.
    """
    metrics = None
    if settings.metrics_port is not None:
        try:
            metrics = listen(
                settings.metrics_host, settings.metrics_port, shares=shared is not None
            )
        except OSError as error:
            address = f"{settings.metrics_host}:{settings.metrics_port}"
            msg = f"cannot listen on {address} for metrics: {error.strerror}; set metrics_port"
            raise SettingsError(msg) from error
        metrics.setblocking(False)  # noqa: FBT003 - the library's signature
    try:
        tls, replica_tls = _open_tls(settings)
    except TlsError as error:
        raise SettingsError(str(error)) from error
    return Doors(metrics, _open_spans(settings, name), tls, replica_tls, shared)


async def _keep_adopting(gateway: Gateway) -> None:
    """See to it that a gateway whose place we took leaves no usage behind, until cancelled."""
    while True:
        await asyncio.sleep(_ADOPT_S)
        gateway.meter.adopt_drained()


async def _wait_for_table(gateway: Gateway) -> None:
    deadline = gateway.loop.time() + _TABLE_S
    while gateway.index is None and gateway.loop.time() < deadline:
        await asyncio.sleep(0.02)


def _open_tls(settings: Settings) -> tuple[ServerTls | None, ReplicaTls | None]:
    tls, replica_tls = None, None
    if settings.tls_certificate is not None and settings.tls_key is not None:
        tls = ServerTls(settings.tls_certificate, settings.tls_key)
    if settings.replica_tls_ca is not None:
        replica_tls = ReplicaTls(
            settings.replica_tls_ca, settings.replica_tls_certificate, settings.replica_tls_key
        )
    return tls, replica_tls


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
