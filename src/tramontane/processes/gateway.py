"""Composition of one gateway process: wires its parts, runs them, and ends them in order."""

import asyncio
import contextlib
import gc
import os
import resource
import secrets
import signal
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from tramontane.domain.ids import is_dns_label
from tramontane.domain.routing import RouteTable
from tramontane.gateway import routes
from tramontane.gateway.admission.local import LocalAuthority
from tramontane.gateway.alone.books import PassingBooks
from tramontane.gateway.alone.route_file import Apply, RouteFile, RouteFileWatch
from tramontane.gateway.control_plane.demand import DemandReporter
from tramontane.gateway.control_plane.link import ControlLink
from tramontane.gateway.control_plane.poller import RoutePoller
from tramontane.gateway.control_plane.slices import SliceLink
from tramontane.gateway.control_plane.stored_link import StoredLink
from tramontane.gateway.dispatch import Gateway
from tramontane.gateway.limits import Limits
from tramontane.gateway.metering.meter import Meter
from tramontane.gateway.metering.shipper import Shipper
from tramontane.gateway.responses.stored import StoredResponses
from tramontane.gateway.routes import TableError
from tramontane.gateway.telemetry import readings
from tramontane.processes.gateway_doors import Doors, open_doors
from tramontane.processes.handover import take_or_listen
from tramontane.processes.startup import FATAL_EXIT, inherited_or_listen, refuse
from tramontane.runtime import logs, parent, settings
from tramontane.runtime.clock import SystemClock
from tramontane.runtime.home import Home, HomeError

_OWNER_NAME_MAX: Final = 40  # with number and chance a name of 64, the longest that is taken
_LAST_SHIPPING_S: Final = 2.0  # what is not sent by then is sent by the next start
_GC_YOUNG: Final = 20_000  # exchanges free themselves; the collector is only a safety net


@dataclass(frozen=True, slots=True)
class Alone:
    """What a gateway without a control plane has in place of links to it.

    ``table`` is what ``file`` held at the start. ``keeps_usage``: the folder outlives the process.
    """

    file: RouteFile
    table: RouteTable
    keeps_usage: bool


Links = tuple[ControlLink, ControlLink]


def run(  # noqa: PLR0917 - the command line's options, in its order
    home: Path | None,
    fd: int | None,
    parent_pid: int | None,
    host: str | None,
    port: int | None,
    control: str | None,
    name: str | None,
    route_table: Path | None = None,
    shares_port: bool = False,  # noqa: FBT001, FBT002 - as above
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    ``fd`` is a listening socket inherited from a supervisor, with which the process then dies, also
    when that, ``parent_pid``, is gone already; without it ``host`` and ``port`` are listened on.
    ``control`` is the control plane's URL; a gateway that runs alone has the file ``route_table``
    in its place and needs no home. ``shares_port``: other gateways may listen on the same port,
    and one of the same name and folder hands its socket over.
    """
    if shares_port and fd is not None:
        return refuse("--reuse-port and --fd exclude each other: give one", FATAL_EXIT)
    if (control is None) == (route_table is None):
        return refuse("a gateway takes either --control URL or --route-table FILE", FATAL_EXIT)
    with contextlib.ExitStack() as stack:
        try:
            options = settings.load({"home": home, "host": host, "port": port})
            if name is not None and not is_dns_label(name):
                msg = f"--name takes lower-case letters, digits and hyphens, not {name!r}"
                raise ValueError(msg)
            folder = Home(options.home)
            links: Links | Alone
            if route_table is not None:
                state = _state_alone(home, stack)
                logs.configure(
                    options.log_level, form=options.log_format
                )  # reading the file may have something to say
                file = RouteFile(route_table)
                links = Alone(file, file.read(), keeps_usage=home is not None)
            else:
                state = folder.gateway
                token = folder.secrets().gateway_token
                links = (ControlLink(str(control), token), ControlLink(str(control), token))
            if fd is not None:
                parent.die_with_parent(parent_pid)
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            name = name or "gateway"
            shared = None
            if shares_port:
                shared = take_or_listen(state, name, options.host, options.port)
            listener = (
                shared.listener if shared else inherited_or_listen(fd, options.host, options.port)
            )
            listener.setblocking(False)  # noqa: FBT003 - the library's signature
            doors = open_doors(options, name, shared=shared)
        except (settings.SettingsError, HomeError, TableError, ValueError, OSError) as error:
            return refuse(str(error), FATAL_EXIT)
        is_own = fd is None or route_table is not None
        path = None if is_own else folder.logs / "gateway.log"
        logs.configure(options.log_level, path, form=options.log_format, process="gateway")
        _allow_many_files()
        limits = Limits(drain_s=float(options.drain_timeout_s))
        uvloop.run(_run(listener, state, name, links, limits, doors))
    return 0


def _state_alone(home: Path | None, stack: contextlib.ExitStack) -> Path:
    """Return the folder for the spool of a gateway that runs alone: kept only in a home."""
    if home is not None:
        return Home(home.absolute()).gateway
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tramontane-gateway-")))


async def _run(  # noqa: PLR0917 - wiring
    listener: socket.socket,
    folder: Path,
    name: str,
    links: Links | Alone,
    limits: Limits,
    doors: Doors,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if isinstance(links, Alone) or doors.has_files:
        loop.add_signal_handler(signal.SIGHUP, _look_again, links, doors)
    gc.set_threshold(_GC_YOUNG)
    gc.collect()
    gc.freeze()
    await serve(listener, folder, name, links, limits, stop, doors)


def _look_again(links: Links | Alone, doors: Doors) -> None:
    """Take every file up again that has changed."""
    doors.look()
    if isinstance(links, Alone):
        links.file.look_again()


async def serve(  # noqa: PLR0917 - wiring
    listener: socket.socket,
    folder: Path,
    name: str,
    links: Links | Alone,
    limits: Limits,
    stop: asyncio.Event,
    doors: Doors | None = None,
) -> None:
    """Serve on ``listener`` until ``stop`` is set, then drain and settle all accounts.

    ``folder`` keeps the route table's copy, the in-flight tables and the spool. ``links`` lead to
    the control plane, one for the poller's thread and one for the shipper's. ``doors`` is what
    is open beside the listener.
    """
    loop = asyncio.get_running_loop()
    doors = doors or Doors()
    clock = SystemClock()
    owner = f"{name[:_OWNER_NAME_MAX]}-{os.getpid()}-{secrets.token_hex(4)}"
    meter = Meter(folder, owner=owner, gateway=name, clock=clock, limits=limits)
    control = None if isinstance(links, Alone) else (links[0].host, links[0].port)
    authority = (
        LocalAuthority(loop, clock)
        if isinstance(links, Alone)
        else SliceLink(links[0].another(), name, loop, limits, folder)
    )
    gateway = Gateway(
        loop,
        meter=meter,
        clock=clock,
        limits=limits,
        control_address=control,
        authority=authority,
    )

    def apply(table: RouteTable) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(gateway.apply, table)

    around = (
        _AroundAlone(links, gateway, meter, apply)
        if isinstance(links, Alone)
        else _AroundLinked(links, gateway, meter, apply, folder, owner)
    )
    meter.open(loop)
    around.start()
    readings.of_gateway(gateway)
    gateway.sweep()
    gateway.admission.start()
    scraping = await doors.attend(gateway)
    servers = await doors.serve(gateway, listener, folder)
    await stop.wait()
    for server in servers:
        server.close()
    listener.close()
    if scraping is not None:
        scraping.close()
    await gateway.drain()
    await gateway.admission.close()
    authority.close()
    await doors.close()
    await around.close()
    await asyncio.sleep(0)  # for what a thread has handed to the loop
    meter.close()
    gateway.stop()


class _AroundLinked:
    """What runs beside the gateway of a control plane: it brings tables and takes events."""

    def __init__(  # noqa: PLR0917 - wiring
        self,
        links: Links,
        gateway: Gateway,
        meter: Meter,
        apply: Apply,
        folder: Path,
        owner: str,
    ) -> None:
        """``owner`` names this life of the process."""
        self._gateway = gateway
        self._meter = meter
        self._folder = folder
        self._shipper = Shipper(meter, links[1], folder, gateway.loop, gateway.limits)
        self._poller = RoutePoller(links[0], folder, apply, gateway.limits)
        meter.on_event = self._shipper.wake
        self._demand = DemandReporter(links[0].another(), meter.gateway, owner)
        link = StoredLink(links[0].another(), gateway.loop)
        self._stored = StoredResponses(gateway.loop, link, meter.gateway, owner)
        gateway.stored = self._stored
        gateway.demand.tell = self._demand.tell
        readings.of_control_plane(gateway, self._poller, self._shipper)

    def start(self) -> None:
        """Begin with the last good table, then ask for a newer one."""
        last_good = routes.load(self._folder)
        if last_good is not None:
            self._gateway.apply(last_good)
        self._poller.start()
        self._shipper.start()
        self._demand.start()

    async def close(self) -> None:
        """Seal the books and hand over what can be handed over quickly."""
        await _wait_for(lambda: self._stored.is_idle)
        self._stored.close()
        await asyncio.to_thread(self._stored.join)
        self._poller.close()
        self._demand.close()
        self._meter.seal()
        self._shipper.wake()
        await _wait_for(lambda: not self._meter.segments)
        self._shipper.close()
        await asyncio.to_thread(self._shipper.join, _LAST_SHIPPING_S)
        await asyncio.to_thread(self._poller.join, _LAST_SHIPPING_S)
        await asyncio.to_thread(self._demand.join, _LAST_SHIPPING_S)


class _AroundAlone:
    """What runs beside a gateway that runs alone: it watches the file and bounds the books."""

    def __init__(self, alone: Alone, gateway: Gateway, meter: Meter, apply: Apply) -> None:
        self._alone = alone
        self._gateway = gateway
        self._meter = meter
        self._watch = RouteFileWatch(alone.file, apply)
        self._books = None if alone.keeps_usage else PassingBooks(meter, gateway.loop)

    def start(self) -> None:
        """Serve by the table that was read at the start."""
        self._gateway.apply(self._alone.table)
        self._watch.start()
        if self._books is not None:
            self._books.start()

    async def close(self) -> None:
        """Seal the books; nobody takes them over now."""
        self._watch.close()
        if self._books is not None:
            self._books.close()
        self._meter.seal()
        await asyncio.to_thread(self._watch.join, _LAST_SHIPPING_S)


async def _wait_for(is_so: Callable[[], bool]) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LAST_SHIPPING_S
    while not is_so() and loop.time() < deadline:
        await asyncio.sleep(0.02)


def _allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one: each connection is a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
