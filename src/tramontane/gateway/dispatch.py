"""The gateway: who serves which path, and what lives as long as the process.

Inference paths go to an `Exchange`, a few are answered here, `/internal` does not exist for
clients, and every other path is the control plane's.
"""

import asyncio
import logging
import os
import posixpath
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import orjson

from tramontane import __version__
from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.routing import RouteTable
from tramontane.gateway import openapi, refusals
from tramontane.gateway.admission.gate import Admission
from tramontane.gateway.admission.leases import Authority, Leases
from tramontane.gateway.calls.bodies import ENDPOINTS, Endpoint
from tramontane.gateway.calls.responses.call import INPUT_TOKENS, RESPONSES
from tramontane.gateway.client import replies
from tramontane.gateway.control_plane.forward import Forward
from tramontane.gateway.exchange import Exchange
from tramontane.gateway.limits import Limits
from tramontane.gateway.metering.meter import Meter
from tramontane.gateway.probe import Probe
from tramontane.gateway.request_ids import RequestIds
from tramontane.gateway.responses.exchange import ResponsesExchange
from tramontane.gateway.responses.input_tokens import InputTokens
from tramontane.gateway.responses.stored import StoredResponses
from tramontane.gateway.routes import RouteIndex
from tramontane.gateway.routing.demand import DemandMeter
from tramontane.gateway.routing.queue import WaitingQueue
from tramontane.gateway.telemetry.registry import Telemetry
from tramontane.gateway.telemetry.serving import PATH as METRICS_PATH
from tramontane.gateway.telemetry.serving import MetricsPage
from tramontane.gateway.telemetry.spans import Spans
from tramontane.gateway.tls import ReplicaTls
from tramontane.gateway.upstream.replica import Replica
from tramontane.runtime.clock import Clock
from tramontane.wire import unserved

if TYPE_CHECKING:
    from ssl import SSLContext

    from tramontane.gateway.client.connection import ClientConnection
    from tramontane.gateway.client.request import Request
    from tramontane.gateway.responses.background import Absent

LOG: Final = logging.getLogger("tramontane.gateway")

# mistralai appends /v1 itself to a base URL that ends in /v1, so the prefix may come twice.
_PREFIXES: Final = tuple(
    mount + prefix for mount in ("", "/openai", "/mistral") for prefix in ("/v1", "/v1/v1")
)
_INFERENCE: Final[dict[str, Endpoint]] = {
    prefix + endpoint.path.removeprefix("/v1") + slash: endpoint
    for endpoint in (*ENDPOINTS, RESPONSES, INPUT_TOKENS)
    for prefix in _PREFIXES
    for slash in ("", "/")
}
_KINDS: Final[dict[str, type[Exchange]]] = {
    RESPONSES.name: ResponsesExchange,
    INPUT_TOKENS.name: InputTokens,
}
_MODELS: Final = "/v1/models"
_RESPONSES: Final = RESPONSES.path + "/"
_OWN_PATHS: Final = frozenset({"/health", "/ready", METRICS_PATH, _MODELS, openapi.PATH})
_READ: Final = "GET, HEAD, OPTIONS"
_OK: Final = b'{"status":"ok"}'


class Gateway:
    """All of one gateway process that is not a connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        meter: Meter,
        clock: Clock,
        limits: Limits,
        control_address: tuple[str, int] | None,
        authority: Authority,
    ) -> None:
        """``authority`` grants what limits allow.

        ``control_address`` None: there is no control plane, and what it serves is not found.
        """
        self.loop = loop
        self.meter = meter
        self.clock = clock
        self.limits = limits
        self.control_address = control_address
        self.index: RouteIndex | None = None
        self.date = replies.date_line(time.time())
        leases = Leases(meter.owner, authority, limits, meter.settled, time.monotonic)
        self.admission = Admission(loop, leases, limits, time.monotonic)
        self.telemetry = Telemetry(meter.gateway, __version__, limits.metric_series_max)
        self.metrics = MetricsPage(self)
        self.admission.on_refusal = self.telemetry.limit_refused
        self.spans: Spans | None = None  # set at the start when tracing is on
        self.replica_tls: ReplicaTls | None = None  # set at the start when replicas speak TLS
        self.stored: StoredResponses | None = None  # set at the start with a control plane
        self.queue = WaitingQueue(limits, self._tell_first)
        self.demand = DemandMeter()
        self._is_flush_due = False
        self.is_draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[ClientConnection | Absent] = set()
        self._leaving: list[Replica] = []  # gone from the table, connections still ending
        self._ids = RequestIds(os.urandom)
        self._probe = Probe(self)
        self._next_sweep: asyncio.TimerHandle | None = None

    # What lives as long as the process.

    def apply(self, table: RouteTable) -> None:
        """Route by ``table`` from now on. Requests in flight stay where they are."""
        before = self.index.replicas if self.index is not None else {}
        self.index = RouteIndex(table, self.index)
        self.telemetry.make_room(self.index.by_name)
        self.admission.apply(table)
        kept = self.index.replicas
        for replica in before.values():
            if kept.get(replica.id) is not replica:
                replica.retire()
                self._leaving.append(replica)
        if self.queue.count:
            self.flush_queue_soon()

    def flush_queue_soon(self) -> None:
        """Send on who waits for a replica, when what is being done now is done."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_soon(self._flush_queue)

    def _flush_queue(self) -> None:
        self._is_flush_due = False
        if self.index is not None:
            self.queue.flush(self.index)

    def _tell_first(self) -> None:
        """Tell at once of a deployment for which a first request waits."""
        if self.index is not None:
            self.demand.wake(self.index.traffic.values(), self.loop.time())

    def add_client(self, client: "ClientConnection | Absent") -> bool:
        """Take a connection in; False when there are too many.

        One that was accepted just before we began to leave gets its reply too.
        """
        if client.is_public and len(self._clients) >= self.limits.connections_max:
            return False
        self._clients.add(client)
        return True

    def spawn(self, doing: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine of its own: dialling, and nothing else in the path of a request."""
        task = self.loop.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._end_task)

    def _end_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            LOG.error("a bug ended a task", exc_info=task.exception())

    def new_request_id(self) -> str:
        """Return a fresh id."""
        return self._ids.next()

    @property
    def client_count(self) -> int:
        """Return how many connections clients have open."""
        return len(self._clients)

    @property
    def replica_context(self) -> "SSLContext | None":
        """Return what connections to replicas begin TLS with, or None for plain ones."""
        return self.replica_tls.context if self.replica_tls is not None else None

    def remove_client(self, client: "ClientConnection | Absent") -> None:
        """Forget a connection that has ended."""
        self._clients.discard(client)

    def sweep(self) -> None:
        """Look at every deadline, then again in a second."""
        now = self.loop.time()
        self.date = replies.date_line(time.time())
        self.meter.touch()
        for client in list(self._clients):
            client.check(now)
        self.queue.sweep(now)
        if self.index is not None:
            self.demand.read(self.index.traffic.values(), now)
        replicas = list(self.index.replicas.values()) if self.index is not None else []
        for replica in replicas + self._leaving:
            replica.tidy(now, self.limits.pool_idle_s, self.limits.linger_s)
        self._leaving = [replica for replica in self._leaving if replica.ending]
        self._next_sweep = self.loop.call_later(self.limits.sweep_s, self.sweep)

    def stop(self) -> None:
        """Stop sweeping: the loop is about to end."""
        if self._next_sweep is not None:
            self._next_sweep.cancel()

    async def drain(self) -> None:
        """Finish what is being served, within the limit, then drop what is left."""
        self.is_draining = True
        self.queue.close()
        deadline = self.loop.time() + self.limits.drain_s
        # A connection may be between its acceptance and its first request, in a TLS handshake.
        soonest = self.loop.time() + self.limits.drain_idle_s
        while (self._clients or self.loop.time() < soonest) and self.loop.time() < deadline:
            for client in list(self._clients):
                client.check(self.loop.time())
            await asyncio.sleep(0.02)
        for client in list(self._clients):
            client.abort()
        for task in list(self._tasks):
            task.cancel()
        if self.index is not None:
            for replica in self.index.replicas.values():
                replica.retire()
        await asyncio.sleep(0)  # lets the connections tell their exchanges

    # One request.

    def begin(self, client: "ClientConnection", request: "Request") -> None:
        """Find out who serves a request whose head has arrived."""
        request.id = self._ids.next()
        if request.length is not None and request.length > self.limits.body_bytes_max:
            self.refuse(client, request, refusals.body_too_large(self.limits.body_bytes_max))
            return
        endpoint = _INFERENCE.get(request.path)
        if endpoint is None:
            self._begin_other(client, request)
        elif request.method != b"POST":
            self._refuse_method(client, request, "POST, OPTIONS")
        else:
            is_short = request.length is not None and (
                request.length <= self.limits.early_check_bytes
            )
            refusal = None if is_short else self._look_early(request)
            if refusal is not None:
                self.refuse(client, request, refusal)
            else:
                kind = _KINDS.get(endpoint.name, Exchange)
                request.sink = kind(self, client, request, endpoint)
                if not request.has_body:
                    request.sink.on_upload_end()

    def refuse(
        self,
        client: "ClientConnection | Absent",
        request: "Request",
        refusal: Refusal,
        further_lines: bytes = b"",
    ) -> None:
        """Answer with an error in the caller's dialect."""
        request.id = request.id or self._ids.next()
        self.telemetry.refused(refusal.code)
        status, lines, body = replies.error(refusal, request.dialect)
        client.reply(status, lines + further_lines, body)

    def _look_early(self, request: "Request") -> Refusal | None:
        """Refuse a stranger before his long body is read."""
        if self.index is None or not request.has_body:
            return None
        found = self.index.auth.may_infer(request.authorization, self.clock.now_ms())
        return found if isinstance(found, Refusal) else None

    def _begin_other(self, client: "ClientConnection", request: "Request") -> None:
        path = _plain(request.path)
        if path in _OWN_PATHS or path.startswith(_MODELS + "/"):
            if request.method not in {b"GET", b"HEAD"}:
                self._refuse_method(client, request, _READ)
            elif path == "/health":
                client.reply(200, replies.JSON_TYPE, _OK)
            elif path == "/ready":
                self._tell_ready(client, request)
            elif path == METRICS_PATH:
                self.metrics.ask(client, request)
            elif path == openapi.PATH:
                client.reply(200, replies.JSON_TYPE, openapi.document())
            else:
                self._tell_models(client, request, path)
        elif _is_internal(path) or path == "*":
            message = f"there is nothing at {request.path[:200]}"
            self.refuse(client, request, Refusal(Code.NOT_FOUND, message))
        elif unserved.is_models_work(path):
            self.refuse(client, request, unserved.refusal_at(request.method.decode(), path))
        elif self.control_address is None:
            message = f"there is nothing at {request.path[:200]}: this gateway runs alone"
            self.refuse(client, request, Refusal(Code.NOT_FOUND, message))
        else:
            target = path if path.startswith(_RESPONSES) else _forwarded(request.path)
            if request.query:
                target += "?" + request.query.decode("latin-1")
            request.sink = Forward(self, client, request, target, self.control_address)

    def _tell_ready(self, client: "ClientConnection", request: "Request") -> None:
        def tell(reason: str | None) -> None:
            if client.current is not request:
                return  # it left
            if self.is_draining:
                reason = "the gateway is stopping"
            status = 200 if reason is None else 503
            body = (
                {"status": "ready"} if reason is None else {"status": "starting", "reason": reason}
            )
            client.reply(status, replies.JSON_TYPE, orjson.dumps(body))

        self._probe.ask(tell)

    def _tell_models(self, client: "ClientConnection", request: "Request", path: str) -> None:
        if self.index is None:
            self.refuse(client, request, refusals.NO_TABLE)
            return
        key = self.index.auth.may_infer(request.authorization, self.clock.now_ms())
        if isinstance(key, Refusal):
            self.refuse(client, request, key)
            return
        wanted = unquote(path[len(_MODELS) + 1 :].rstrip("/"))
        if not wanted:
            actives = self.index.by_project.get(key.project_id, [])
            routes = [active.route for active in actives if key.may_call(active.route.model)]
            client.reply(200, replies.JSON_TYPE, orjson.dumps(replies.cards(routes)))
            return
        active = self.index.find(key.project_id, wanted)
        if active is None or not key.may_call(wanted):
            self.refuse(client, request, refusals.model_not_found(wanted))
        else:
            client.reply(200, replies.JSON_TYPE, orjson.dumps(replies.card(active.route)))

    def _refuse_method(self, client: "ClientConnection", request: "Request", allowed: str) -> None:
        allow = f"allow: {allowed}\r\n".encode()
        if request.method == b"OPTIONS":
            client.reply(204, allow, b"")
            return
        method = request.method.decode("latin-1")
        message = f"{request.path[:200]} does not take {method}; it takes {allowed}"
        status, lines, body = replies.error(
            Refusal(Code.METHOD_NOT_ALLOWED, message), request.dialect
        )
        client.reply(status, lines + allow, body)


def _plain(path: str) -> str:
    """Return ``path`` without its mount, a doubled prefix and a trailing slash."""
    for mount in ("/openai/v1", "/mistral/v1"):
        if path.startswith(mount):
            path = path[len(mount) - 3 :]
    path = _forwarded(path)
    if path in {"/v1/health", "/v1/ready"}:
        path = path[3:]
    return path.rstrip("/") or "/"


def _forwarded(path: str) -> str:
    """Return ``path`` with a doubled prefix made single."""
    if path.startswith(("/v1/v1/", "/v1/cloud/", "/v1/internal")):
        return path[3:]
    return path


def _is_internal(path: str) -> bool:
    """Tell whether ``path`` could be read, by however lenient a reader, as an internal one."""
    plain = "/".join(
        part.partition(";")[0] for part in unquote(unquote(path)).replace("\\", "/").split("/")
    )
    decoded = posixpath.normpath("/" + plain.lstrip("/"))
    parts = [part for part in decoded.split("/") if part not in {"", "v1"}]
    return bool(parts) and parts[0].lower() == "internal"
