"""The route table of a gateway that runs alone: a file that people write.

It is JSON in the form of `domain.routing.RouteTable`; docs/route-table.md shows every field. A
file that people write is looked at more closely than a table from the control plane: whatever
would fail later is told now, with its place in the file.
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import msgspec

from tramontane.domain.routing import Route, RouteReplica, RouteTable
from tramontane.domain.spending.limits import Limit
from tramontane.gateway import routes

LOG: Final = logging.getLogger("tramontane.gateway.route_file")
_LOOK_S: Final = 0.5  # between two looks at the file's time
_SYNTAX: Final = re.compile(r"\(byte (\d+)\)")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
# Ids and names stand in a slot of the in-flight table, which has room for just so much.
_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,28}")
_MODEL: Final = re.compile(r"[A-Za-z0-9_.:/@+-]{1,80}")
_SECRET: Final = re.compile(r"[!-~]{0,4096}")
_PORT_MAX: Final = 65_535

Apply = Callable[[RouteTable], None]


class RouteFile:
    """The file, and how to look at it again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked = threading.Event()

    def look_again(self) -> None:
        """Have the file read again now, whatever its time says; for SIGHUP."""
        self.asked.set()

    def read(self) -> RouteTable:
        """Return the table. Raises `routes.TableError`, whose message names file and place."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            msg = f"the route table {self.path} cannot be read: {error.strerror}"
            raise routes.TableError(msg) from error
        try:
            table = routes.decode(data)
        except routes.TableError as error:
            msg = f"{self.path}: {_with_line(str(error), data)}; docs/route-table.md has the form"
            raise routes.TableError(msg) from error
        fault = next(_faults(table), None)
        if fault is not None:
            raise routes.TableError(f"{self.path}: {fault}; docs/route-table.md has the form")
        ignored = sorted(_unknown(msgspec.json.decode(data), msgspec.to_builtins(table), ""))
        if ignored:
            LOG.warning("%s: fields without a meaning here: %s", self.path, ", ".join(ignored[:20]))
        return table

    def stamp(self) -> tuple[int, int, int]:
        """Return what changes when the file does; zeros while there is none."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - one call a look
        except OSError:
            return (0, 0, 0)
        return (found.st_mtime_ns, found.st_size, found.st_ino)


class RouteFileWatch(threading.Thread):
    """Reads the file again when it changes. A file that cannot be used changes nothing."""

    def __init__(self, file: RouteFile, apply: Apply) -> None:
        """``apply`` must take a table over to the loop itself."""
        super().__init__(name="route-file", daemon=True)
        self._file = file
        self._apply = apply
        self._seen = file.stamp()
        self._is_closed = False

    def run(self) -> None:
        """Look at the file until closed."""
        while not self._is_closed:
            was_asked = self._file.asked.wait(_LOOK_S)
            self._file.asked.clear()
            if not self._is_closed:
                self._look(was_asked)

    def close(self) -> None:
        """Stop the thread."""
        self._is_closed = True
        self._file.asked.set()

    def _look(self, was_asked: bool) -> None:  # noqa: FBT001 - a plain fact
        stamp = self._file.stamp()
        if stamp == self._seen and not was_asked:
            return
        self._seen = stamp
        try:
            table = self._file.read()
        except routes.TableError as error:
            LOG.error("the route table stays as it was: %s", error)
            return
        self._apply(table)
        LOG.info("route table %s, revision %d, is in use", self._file.path, table.revision)


def _with_line(message: str, data: bytes) -> str:
    """Say where a syntax error stands the way editors count."""
    found = _SYNTAX.search(message)
    if found is None:
        return message
    before = data[: int(found[1])]
    line = before.count(b"\n") + 1
    column = len(before) - before.rfind(b"\n")
    place = f"(line {line}, column {column})"
    return message[: found.start()] + place + message[found.end() :]


def _faults(table: RouteTable) -> Iterator[str]:
    if not table.hmac_key:
        yield "$.hmac_key must not be empty"
    for hashed, key in table.keys.items():
        place = f"$.keys[{hashed[:16]!r}]"
        if not _HASH.fullmatch(hashed):
            yield f"{place}: a key is named by its HMAC-SHA256, 64 hexadecimal digits in lower case"
        yield from _bad_ids(place, key.id, key.project_id, key.organization_id)
        for name in key.limit_ids:
            if name not in table.limits:
                yield f"{place}.limit_ids names {name!r}, which $.limits does not have"
    for name, limit in table.limits.items():
        yield from _limit_faults(name, limit)
    names: set[tuple[str, str]] = set()
    for number, route in enumerate(table.routes):
        place = f"$.routes[{number}]"
        if (route.project_id, route.model) in names:
            yield f"{place}: project {route.project_id!r} has two routes to {route.model!r}"
        names.add((route.project_id, route.model))
        yield from _route_faults(place, route)
    yield from _probe_faults(table)


def _limit_faults(name: str, limit: Limit) -> Iterator[str]:
    place = f"$.limits[{name!r}]"
    if limit.id != name:
        yield f"{place}.id must be {name!r} too, not {limit.id!r}"
    yield from _bad_ids(place, limit.id, limit.subject_id)
    for field in fields(limit):
        value = getattr(limit, field.name)
        if isinstance(value, int) and value < 0:
            yield f"{place}.{field.name} must be at least 0, not {value}"


def _route_faults(place: str, route: Route) -> Iterator[str]:
    yield from _bad_ids(place, route.project_id, route.deployment_id)
    for name in (route.model, route.upstream_model):
        if not _MODEL.fullmatch(name):
            yield f"{place}: a model's name is 1 to 80 letters, digits and _.:/@+-, not {name!r}"
    if route.context_length < 1:
        yield f"{place}.context_length must be at least 1 token"
    if not 0 <= route.canary_percent <= 100:
        yield f"{place}.canary_percent must be 0 to 100, not {route.canary_percent}"
    for field in fields(route.prices):
        if (getattr(route.prices, field.name) or 0) < 0:
            yield f"{place}.prices.{field.name} must be at least 0"
    for number, replica in enumerate(route.replicas):
        yield from _replica_faults(f"{place}.replicas[{number}]", replica)
    if route.canary is not None:
        yield from _route_faults(f"{place}.canary", route.canary)


def _replica_faults(place: str, replica: RouteReplica) -> Iterator[str]:
    yield from _bad_ids(place, replica.id)
    host, _, port = replica.address.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not host or not port.isdecimal() or not 0 < int(port) <= _PORT_MAX:
        yield f"{place}.address must be host:port, not {replica.address!r}"
    elif not _SECRET.fullmatch(host) or (":" in host and not is_bracketed):
        yield f"{place}.address: an IPv6 host stands in brackets, not {replica.address!r}"
    if not _SECRET.fullmatch(replica.secret):
        yield f"{place}.secret may only have printable ASCII characters without spaces"


def _probe_faults(table: RouteTable) -> Iterator[str]:
    wanted = table.probe_deployment_id
    if wanted is not None and all(route.deployment_id != wanted for route in table.routes):
        yield f"$.probe_deployment_id is {wanted!r}, which no route has"


def _bad_ids(place: str, *ids: str) -> Iterator[str]:
    for text in ids:
        if not _ID.fullmatch(text):
            yield f"{place}: an id is 1 to 28 letters, digits and _.:-, not {text!r}"


def _unknown(given: Any, known: Any, place: str) -> Iterator[str]:
    """Name what the file has and the table has not: a typing error must not pass unseen."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            here = f"{place}.{name[:16]}" if place else name[:40]
            if name in known:
                yield from _unknown(value, known[name], here)
            else:
                yield here
    elif isinstance(given, list) and isinstance(known, list | tuple):
        for number, (value, other) in enumerate(zip(given, known, strict=False)):
            yield from _unknown(value, other, f"{place}[{number}]")
