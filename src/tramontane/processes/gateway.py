"""Composition of one gateway process: wires its parts, runs them, and ends them in order."""

import asyncio
import contextlib
import gc
import os
import resource
import secrets
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvloop

from tramontane.domain.ids import is_dns_label
from tramontane.domain.routing import RouteTable
from tramontane.gateway import routes
from tramontane.gateway.client.connection import ClientConnection
from tramontane.gateway.control_plane.link import ControlLink
from tramontane.gateway.control_plane.poller import RoutePoller
from tramontane.gateway.dispatch import Gateway
from tramontane.gateway.limits import Limits
from tramontane.gateway.metering.meter import Meter
from tramontane.gateway.metering.shipper import Shipper
from tramontane.processes.startup import FATAL_EXIT, inherited_or_listen, refuse
from tramontane.runtime import logs, parent, settings
from tramontane.runtime.clock import SystemClock
from tramontane.runtime.home import Home, HomeError

_LAST_SHIPPING_S: Final = 2.0  # what is not sent by then is sent by the next start
_GC_YOUNG: Final = 20_000  # exchanges free themselves; the collector is only a safety net


def run(  # noqa: PLR0917 - the command line's options, in its order
    home: Path | None,
    fd: int | None,
    host: str | None,
    port: int | None,
    control: str,
    name: str | None,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    ``fd`` is a listening socket inherited from a supervisor, with which the process then dies;
    without it ``host`` and ``port`` are listened on. ``control`` is the control plane's URL.
    """
    try:
        options = settings.load({"home": home, "host": host, "port": port})
        if name is not None and not is_dns_label(name):
            msg = f"--name takes lower-case letters, digits and hyphens, not {name!r}"
            raise ValueError(msg)
        folder = Home(options.home)
        token = folder.secrets().gateway_token
        links = (ControlLink(control, token), ControlLink(control, token))
        if fd is not None:
            parent.die_with_parent(os.getppid())
        listener = inherited_or_listen(fd, options.host, options.port)
        listener.setblocking(False)  # noqa: FBT003 - the library's signature
    except (settings.SettingsError, HomeError, ValueError, OSError) as error:
        return refuse(str(error), FATAL_EXIT)
    folder.gateway.mkdir(mode=0o700, parents=True, exist_ok=True)
    logs.configure(options.log_level, folder.logs / "gateway.log" if fd is not None else None)
    _allow_many_files()
    limits = Limits(drain_s=float(options.drain_timeout_s))
    uvloop.run(_run(listener, folder.gateway, name or "gateway", links, limits))
    return 0


async def _run(
    listener: socket.socket,
    folder: Path,
    name: str,
    links: tuple[ControlLink, ControlLink],
    limits: Limits,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gc.set_threshold(_GC_YOUNG)
    gc.collect()
    gc.freeze()
    await serve(listener, folder, name, links, limits, stop)


async def serve(  # noqa: PLR0917 - wiring
    listener: socket.socket,
    folder: Path,
    name: str,
    links: tuple[ControlLink, ControlLink],
    limits: Limits,
    stop: asyncio.Event,
) -> None:
    """Serve on ``listener`` until ``stop`` is set, then drain and settle all accounts.

    ``folder`` keeps the route table's copy, the in-flight tables and the spool. ``links`` lead to
    the control plane, one for the poller's thread and one for the shipper's.
    """
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    owner = f"{name}-{os.getpid()}-{secrets.token_hex(4)}"
    meter = Meter(folder, owner=owner, gateway=name, clock=clock, limits=limits)
    control = (links[0].host, links[0].port)
    gateway = Gateway(loop, meter=meter, clock=clock, limits=limits, control_address=control)
    shipper = Shipper(meter, links[1], folder, loop, limits)
    meter.on_event = shipper.wake
    meter.open(loop)
    last_good = routes.load(folder)
    if last_good is not None:
        gateway.apply(last_good)

    def apply(table: RouteTable) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(gateway.apply, table)

    poller = RoutePoller(links[0], folder, apply, limits)
    poller.start()
    shipper.start()
    gateway.sweep()
    server = await loop.create_server(lambda: ClientConnection(gateway), sock=listener)
    await stop.wait()
    server.close()
    await gateway.drain()
    poller.close()
    meter.seal()
    shipper.wake()
    await _wait_for(lambda: not meter.segments)
    shipper.close()
    await asyncio.to_thread(shipper.join, _LAST_SHIPPING_S)
    await asyncio.to_thread(poller.join, _LAST_SHIPPING_S)
    await asyncio.sleep(0)  # for what the shipper has handed to the loop
    meter.close()
    gateway.stop()


async def _wait_for(is_so: Callable[[], bool]) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LAST_SHIPPING_S
    while not is_so() and loop.time() < deadline:
        await asyncio.sleep(0.02)


def _allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one: each connection is a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
