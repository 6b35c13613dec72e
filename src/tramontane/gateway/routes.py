"""The route table in use: what a request looks up, and the copy on disk that outlives a restart.

A table is decoded in the poller's thread; applying it in the loop is one pass over the routes in
which replicas that stay keep their connections and their load.
"""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec
import orjson

from tramontane.domain.routing import Route, RouteReplica, RouteTable
from tramontane.gateway.auth import Authenticator
from tramontane.gateway.calls import adapters
from tramontane.gateway.routing.ring import Ring
from tramontane.gateway.routing.traffic import Traffic
from tramontane.gateway.telemetry.series import RouteSeries
from tramontane.gateway.upstream.replica import Replica

LOG: Final = logging.getLogger("tramontane.gateway.routes")
FILE: Final = "route-table.json"


class ActiveRoute:
    """A route and its replicas as they are now. ``canary`` is the other version of it.

    ``scales`` stands in every body for its engine (`calls.adapters`).
    """

    __slots__ = (
        "canary",
        "replicas",
        "ring",
        "route",
        "scales",
        "seed",
        "series",
        "share",
        "traffic",
    )

    def __init__(self, route: Route, replicas: tuple[Replica, ...], traffic: Traffic) -> None:
        model = adapters.upstream_model(route)
        self.route = (
            route if model == route.upstream_model else replace(route, upstream_model=model)
        )
        self.scales = adapters.scales_of(route)
        self.replicas = replicas
        self.traffic = traffic
        self.ring: Ring | None = None  # made when the first prefix is looked up
        self.canary: ActiveRoute | None = None
        self.series: RouteSeries | None = None  # from the first request on
        self.share = 0  # what `takes_canary` has added up
        # Keeps the prefixes of projects apart, and those of a model's adapters.
        self.seed = crc32(f"{route.project_id}/{route.model}".encode())

    def make_ring(self) -> Ring:
        """Return the ring of the replicas, from now on at hand."""
        self.ring = Ring(self.replicas)
        return self.ring

    def all_replicas(self) -> tuple[Replica, ...]:
        """Return the replicas of both versions."""
        return self.replicas if self.canary is None else self.replicas + self.canary.replicas

    def takes_canary(self) -> bool:
        """Tell whether the next request goes to the canary: exactly its share of any hundred."""
        self.share += self.route.canary_percent
        if self.share < 100:
            return False
        self.share -= 100
        return True

    def succeed(self, before: "ActiveRoute") -> None:
        """Go on where ``before``, the same name in the table before, has left off."""
        self.share = before.share
        if self.replicas == before.replicas:
            self.ring = before.ring
        if self.canary is not None and before.canary is not None:
            self.canary.succeed(before.canary)


class RouteIndex:
    """One revision, ready for look-ups."""

    __slots__ = (
        "auth",
        "by_name",
        "by_project",
        "probe_deployment_id",
        "replicas",
        "revision",
        "traffic",
    )

    def __init__(self, table: RouteTable, before: "RouteIndex | None" = None) -> None:
        """``before`` is the revision in use: replicas that stay keep connections and load."""
        self.revision = table.revision
        self.auth = Authenticator(table.hmac_key, table.keys)
        self.probe_deployment_id = table.probe_deployment_id
        self.replicas: dict[str, Replica] = {}
        self.traffic: dict[str, Traffic] = {}
        self.by_name: dict[tuple[str, str], ActiveRoute] = {}
        self.by_project: dict[str, list[ActiveRoute]] = {}
        for route in table.routes:
            active = self._active(route, before)
            name = (route.project_id, route.model)
            old = before.by_name.get(name) if before is not None else None
            if old is not None:
                active.succeed(old)
            self.by_name[name] = active
            self.by_project.setdefault(route.project_id, []).append(active)

    def find(self, project_id: str, model: str) -> ActiveRoute | None:
        """Return the project's own route to ``model``; other projects' routes do not exist."""
        return self.by_name.get((project_id, model))

    def probe_route(self) -> ActiveRoute | None:
        """Return the route that /ready asks about."""
        found = None
        for active in self.by_name.values():
            if active.route.deployment_id == self.probe_deployment_id:
                found = active
                if active.route.adapter is None:
                    break
        return found

    def _active(self, route: Route, before: "RouteIndex | None") -> ActiveRoute:
        replicas = tuple(self._replica(item, before) for item in route.replicas)
        is_first = route.deployment_id not in self.traffic
        traffic = self._traffic(route.deployment_id, before)
        if is_first or route.adapter is None:  # those of an adapter may be fewer
            traffic.replicas = replicas
        active = ActiveRoute(route, replicas, traffic)
        if route.canary is not None:
            active.canary = self._active(route.canary, before)
        return active

    def _traffic(self, deployment_id: str, before: "RouteIndex | None") -> Traffic:
        found = self.traffic.get(deployment_id)
        if found is None and before is not None:
            found = before.traffic.get(deployment_id)
        if found is None:
            found = Traffic(deployment_id)
        self.traffic[deployment_id] = found
        return found

    def _replica(self, item: RouteReplica, before: "RouteIndex | None") -> Replica:
        found = self.replicas.get(item.id)
        if found is None and before is not None:
            found = before.replicas.get(item.id)
        if found is None or (found.address, found.secret) != (item.address, item.secret):
            found = Replica(item.id, item.address, item.secret)
        self.replicas[item.id] = found
        return found


class TableError(Exception):
    """A route table cannot be read; the message says why."""


def decode(data: bytes) -> RouteTable:
    """Return the route table in ``data``, as the control plane sends it. Raises `TableError`."""
    try:
        table = msgspec.json.decode(data, type=RouteTable)
        bytes.fromhex(table.hmac_key)
    except (msgspec.MsgspecError, ValueError) as error:
        msg = f"the route table is not understood: {error}"
        raise TableError(msg) from error
    return table


def save(folder: Path, table: RouteTable) -> None:
    """Keep ``table`` as the last good copy, readable by its owner alone. Raises OSError."""
    fresh = folder / f"{FILE}.{os.getpid()}.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(orjson.dumps(table))
            file.flush()
            os.fsync(fd)
        fresh.rename(folder / FILE)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def load(folder: Path) -> RouteTable | None:
    """Return the last good copy, or None when there is none that can be used."""
    try:
        return decode((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, TableError) as error:
        LOG.error("the copy of the route table on disk is not usable: %s", error)
        return None
