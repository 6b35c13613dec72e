"""The route table in use: what a request looks up, and the copy on disk that outlives a restart.

A table is decoded in the poller's thread; applying it in the loop is one pass over the routes in
which replicas that stay keep their connections and their load.
"""

import logging
import os
from pathlib import Path
from typing import Final

import msgspec
import orjson

from tramontane.domain.routing import Route, RouteReplica, RouteTable
from tramontane.gateway.auth import Authenticator
from tramontane.gateway.telemetry.series import RouteSeries
from tramontane.gateway.upstream.replica import Replica

LOG: Final = logging.getLogger("tramontane.gateway.routes")
FILE: Final = "route-table.json"


class ActiveRoute:
    """A route and its replicas as they are now."""

    __slots__ = ("replicas", "route", "series", "turn")

    def __init__(self, route: Route, replicas: tuple[Replica, ...]) -> None:
        self.route = route
        self.replicas = replicas
        self.series: RouteSeries | None = None  # from the first request on
        self.turn = 0  # where the search for the least loaded begins, so that ties are shared out


class RouteIndex:
    """One revision, ready for look-ups."""

    __slots__ = ("auth", "by_name", "by_project", "probe_deployment_id", "replicas", "revision")

    def __init__(self, table: RouteTable, known: dict[str, Replica]) -> None:
        """``known`` are the replicas of the revision before, by id; those that stay are kept."""
        self.revision = table.revision
        self.auth = Authenticator(table.hmac_key, table.keys)
        self.probe_deployment_id = table.probe_deployment_id
        self.replicas: dict[str, Replica] = {}
        self.by_name: dict[tuple[str, str], ActiveRoute] = {}
        self.by_project: dict[str, list[ActiveRoute]] = {}
        for route in table.routes:
            replicas = tuple(self._replica(item, known) for item in route.replicas)
            active = ActiveRoute(route, replicas)
            self.by_name[route.project_id, route.model] = active
            self.by_project.setdefault(route.project_id, []).append(active)

    def find(self, project_id: str, model: str) -> ActiveRoute | None:
        """Return the project's own route to ``model``; other projects' routes do not exist."""
        return self.by_name.get((project_id, model))

    def probe_route(self) -> ActiveRoute | None:
        """Return the route that /ready asks about."""
        for active in self.by_name.values():
            if active.route.deployment_id == self.probe_deployment_id:
                return active
        return None

    def _replica(self, item: RouteReplica, known: dict[str, Replica]) -> Replica:
        found = self.replicas.get(item.id) or known.get(item.id)
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
