"""The engine's side of a request: pick a replica, connect, send, and try again where that is safe.

    (waiting for a replica ->) picked -> (dialing ->) sent -> reply head -> reply pieces -> ended

It is the `Receiver` of the engine's reply and passes it on to its owner. While no replica has room
it is a `Waiter` in the gateway's queue.

When a request is tried again, on another replica or on a new connection, before the client saw a
byte: (1) no connection came about, or it was dead before it took a byte; (2) the engine answered
503, which engines do while they load or drain, before they look at a request; (3) a *kept*
connection was closed within a second of our writing to it and without one byte of a reply: the
engine had hung up before, as an idle or draining server does, and both messages crossed. A new
connection that breaks is never tried again: there the engine may have died of the request.

With a canary, which version serves the request is decided once; only when that one has no replica
left to try does the other one serve it.
"""

import logging
from typing import TYPE_CHECKING, Final, Protocol

from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import RouteKey
from tramontane.gateway import refusals
from tramontane.gateway.calls import adapters
from tramontane.gateway.calls.bodies import Call
from tramontane.gateway.metering.entry import Entry
from tramontane.gateway.metering.events import Started
from tramontane.gateway.routes import ActiveRoute
from tramontane.gateway.routing import outliers, queue
from tramontane.gateway.routing.choice import pick
from tramontane.gateway.routing.prefix import prefix_of
from tramontane.gateway.telemetry.series import RouteSeries
from tramontane.gateway.upstream.connection import DialError, Headers, UpstreamConnection, dial
from tramontane.gateway.upstream.replica import Replica

if TYPE_CHECKING:
    from tramontane.gateway.client.request import Request
    from tramontane.gateway.dispatch import Gateway

LOG: Final = logging.getLogger("tramontane.gateway.attempt")


class AttemptOwner(Protocol):
    """Who gets what an engine answers. After the last four the attempt is over."""

    def on_reply_head(self, status: int, content_type: bytes) -> None:
        """Take the final status and the type of the body."""
        ...

    def on_reply_data(self, data: bytes) -> None:
        """Take a piece of the body."""
        ...

    def on_reply_end(self) -> None:
        """The reply is whole."""
        ...

    def on_whole_reply(self, content_type: bytes, body: bytes) -> None:
        """Take a reply of status 200 that came in one piece."""
        ...

    def on_engine_failed(self, why: str) -> None:
        """The engine got the request and did not answer it to the end."""
        ...

    def on_no_replica(self, refusal: Refusal) -> None:
        """No replica is left to try."""
        ...


class Attempt:
    """One request's way to an engine, over as many replicas as it takes."""

    __slots__ = (
        "_call",
        "_connection",
        "_entry",
        "_gateway",
        "_has_prefix",
        "_has_raced",
        "_is_canary",
        "_is_over",
        "_is_probe",
        "_is_waiting",
        "_is_well",
        "_key",
        "_owner",
        "_pieces",
        "_pieces_checked",
        "_prefix",
        "_progress_s",
        "_replica",
        "_request",
        "_series",
        "_tokens",
        "_tried",
        "_waits_since_s",
        "route",
    )

    def __init__(  # noqa: PLR0917 - one for each thing it needs
        self,
        gateway: "Gateway",
        owner: AttemptOwner,
        key: RouteKey,
        call: Call,
        entry: Entry,
        request: "Request",
        series: RouteSeries,
    ) -> None:
        self._gateway = gateway
        self._owner = owner
        self._key = key
        self._call = call
        self._entry = entry
        self._request = request
        self._series = series
        self.route: ActiveRoute | None = None  # the one in use, of the newest table
        self._connection: UpstreamConnection | None = None
        self._replica: Replica | None = None
        self._tried: list[Replica] = []
        self._has_raced = False
        self._has_prefix = False
        self._prefix: int | None = None
        self._is_canary: bool | None = None  # decided by the first pick
        self._is_probe = False  # of a replica that was ejected
        self._is_well = False  # the engine has answered and not failed
        self._is_waiting = False
        self._waits_since_s = 0.0
        self._tokens = 0  # generated and counted as the deployment's traffic
        self._is_over = False
        self._pieces = 0
        self._pieces_checked = 0
        self._progress_s = 0.0

    # What the owner calls.

    def start(self) -> None:
        """Send the request to a replica that was not tried yet, or wait for one."""
        gateway, call = self._gateway, self._call
        index = gateway.index
        active = index.find(self._key.project_id, call.model) if index is not None else None
        if active is None:
            self._give_up(refusals.model_not_found(call.model))
            return
        replica = self._pick(active, gateway.loop.time())
        if replica is None:
            self._wait(active)
            return
        self._tried.append(replica)
        self._replica = replica
        self._is_probe = replica.is_suspect
        replica.inflight += 1
        # After a race only a new connection will do: kept ones to other replicas may be as dead.
        while not self._has_raced and (connection := replica.take_idle()) is not None:
            if self._send(connection, replica):
                return
        gateway.spawn(self._dial(replica))

    def start_elsewhere(self, why: str) -> bool:
        """Try another replica after a whole reply that refused; False when there is none."""
        replica, index = self._replica, self._gateway.index
        active = index.find(self._key.project_id, self._call.model) if index is not None else None
        others = active.all_replicas() if active is not None else ()
        if replica is None or all(other in self._tried for other in others):
            return False
        if len(self._tried) >= self._gateway.limits.attempts_max:
            return False
        self._try_another(replica, why)
        return True

    def blame(self) -> None:
        """Count what the engine did against the replica that was tried last."""
        self._is_well = False
        active = self.route
        if active is None or not self._tried or self._is_over:
            return
        replica, limits = self._tried[-1], self._gateway.limits
        ejected_s = outliers.note_failure(
            replica, active.replicas, self._gateway.loop.time(), limits, is_probe=self._is_probe
        )
        if ejected_s:
            LOG.warning("replica %s is ejected for %g s: it keeps failing", replica.id, ejected_s)
            self._series.ejections += 1

    def count_tokens(self, tokens: int) -> None:
        """Note how many tokens the engine has generated so far."""
        if self.route is not None:
            self.route.traffic.tokens += tokens - self._tokens
            self._tokens = tokens

    def finish(self) -> None:
        """Take no more of a reply that has said all; its connection is kept if it can be."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            connection.let_go()
        if not self._is_over:
            self._end()

    def abort(self) -> None:
        """Stop the engine at once: nobody wants the answer."""
        self._drop_connection()
        self._end()

    def set_reading(self, *, on: bool) -> None:
        """Hold the engine back while the client is slow."""
        if self._connection is not None:
            self._connection.set_reading(on=on)

    def check(self, now: float, *, is_held_back: bool) -> None:
        """Give an engine up that says nothing for too long, unless we hold it back."""
        if self._connection is None:
            return
        self.count_tokens(self._entry.counted_tokens)
        if self._pieces != self._pieces_checked or is_held_back:
            self._pieces_checked = self._pieces
            self._progress_s = now
            return
        limits = self._gateway.limits
        allowed_s = limits.idle_s if self._pieces else limits.first_byte_s
        if now - self._progress_s > allowed_s:
            self._drop_connection()
            self._series.upstream_failed("timeout")
            self._fail(f"it said nothing for {allowed_s:g} s")

    # What the queue calls.

    def on_place(self) -> None:
        """Pick again: there is a replica with room."""
        self._end_waiting()
        self.start()

    def on_waited(self, refusal: Refusal) -> None:
        """Give up: no replica had room in time."""
        self._end_waiting()
        self._give_up(refusal)

    def _wait(self, active: ActiveRoute) -> None:
        """Wait for a replica with room where one may come, else give up."""
        limits, queue_ = self._gateway.limits, self._gateway.queue
        replicas, tried, most = active.all_replicas(), self._tried, limits.replica_inflight_max
        is_full = any(other.inflight >= most and other not in tried for other in replicas)
        is_spent = len(tried) >= limits.attempts_max
        if is_spent or not (is_full or (not replicas and queue.may_wait(active))):
            self._give_up(refusals.no_ready_replica(active.route))
            return
        now = self._gateway.loop.time()
        self._waits_since_s = self._waits_since_s or now
        refusal = queue_.wait(self, active, self._key, self._call, now, self._waits_since_s)
        if refusal is not None:
            self._give_up(refusal)
        else:
            self._is_waiting = True
            self._series.waiting += 1

    def _end_waiting(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._series.waiting -= 1
            self._series.waited(self._gateway.loop.time() - self._waits_since_s)

    # Towards the engine.

    def _pick(self, active: ActiveRoute, now: float) -> Replica | None:
        """Return the replica to try, and note which version of the route it belongs to."""
        limits, tried = self._gateway.limits, self._tried
        if len(tried) >= limits.attempts_max:
            return None
        version, other = active, active.canary
        if other is not None and self._goes_to_canary(active, other):
            version, other = other, version
        self.route = version
        if len(version.replicas) > 1 and not self._has_prefix:
            self._has_prefix = True
            self._prefix = prefix_of(self._call.prompt, active.seed)
        most = limits.replica_inflight_max
        replica = pick(version, self._prefix, now, tried, most)
        if replica is None and other is not None and self._call.refused_by(other.route) is None:
            replica = pick(other, self._prefix, now, tried, most)
            if replica is not None:
                self.route = other
        return replica

    def _goes_to_canary(self, active: ActiveRoute, canary: ActiveRoute) -> bool:
        """Decide once which version serves this request, if it can."""
        if self._is_canary is None:
            self._is_canary = active.takes_canary()
        return self._is_canary and self._call.refused_by(canary.route) is None

    async def _dial(self, replica: Replica) -> None:
        connect_s = self._gateway.limits.connect_s
        try:
            connection = await dial(
                replica.host, replica.port, connect_s, replica, self._gateway.replica_context
            )
        except DialError as error:
            self._series.upstream_failed("connect")
            self._try_another(replica, str(error))
            return
        if self._is_over:  # the client left meanwhile
            connection.keep()
        elif not self._send(connection, replica):
            self._try_another(replica, "it closed a new connection")

    def _try_another(self, replica: Replica, why: str) -> None:
        now = self._gateway.loop.time()
        if replica.aside_until < now:
            LOG.warning("replica %s is set aside: %s", replica.id, why)
            self._series.ejections += 1
        replica.aside_until = max(replica.aside_until, now + self._gateway.limits.aside_s)
        if not self._is_over:
            self._series.retries += 1
            self._leave_replica()
            self.start()

    def _send(self, connection: UpstreamConnection, replica: Replica) -> bool:
        """Write the slot, then the request; False when the connection took no byte of it."""
        call, key, active, entry = self._call, self._key, self.route, self._entry
        assert active is not None  # `start` found it
        route = active.route
        pieces = call.pieces_for(route)
        if active.scales:
            pieces = adapters.with_scales(active.scales, pieces)
        head = b"%b%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
            replica.heads[call.upstream_path],
            self._request.trace_lines,
            self._request.id.encode(),
            sum(map(len, pieces)),
        )
        started = Started(
            self._request.id,
            key.organization_id,
            key.project_id,
            key.id,
            route.deployment_id,
            replica.id,
            call.model,
            call.endpoint.name,
            call.is_stream,
            entry.started_ms,
            route.prices,
        )
        entry.begin(started)
        is_sent = connection.send(self, (head, *pieces), entry.arm)
        entry.settle(is_sent=is_sent)
        if is_sent:
            self._connection = connection
            self._progress_s = connection.since
        return is_sent

    # From the engine.

    def on_reply_head(self, status: int, headers: Headers) -> None:  # noqa: ARG002 - not used
        """Pass the head on."""
        self._pieces += 1
        self._is_well = status < 500
        self._entry.note_reply(self._gateway.loop.time())
        connection = self._connection
        self._owner.on_reply_head(status, connection.content_type if connection else b"")

    def on_reply_data(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        self._pieces += 1
        self._owner.on_reply_data(data)

    def on_reply_end(self) -> None:
        """The engine has said all; its replica is left when the owner has looked at it."""
        self._connection = None
        self._owner.on_reply_end()

    def on_whole_reply(self, content_type: bytes, body: bytes) -> None:
        """Pass a reply on that came in one piece."""
        self._pieces += 1
        self._is_well = True
        self._connection = None
        self._entry.first_byte_s = self._gateway.loop.time()
        self._owner.on_whole_reply(content_type, body)

    def on_reply_broken(self, reason: str) -> None:
        """Try again where nothing can have happened yet (see above), else tell the owner."""
        connection, self._connection = self._connection, None
        assert connection is not None  # only the one in use reports to us
        age_s = self._gateway.loop.time() - connection.since
        has_crossed = (
            connection.is_reused
            and not connection.has_reply
            and not self._has_raced
            and age_s < self._gateway.limits.reuse_race_s
        )
        replica = self._replica
        if has_crossed and replica is not None:
            self._has_raced = True
            connection.note_hang_up()
            replica.drop_idle()  # they have the same age
            self._tried.remove(replica)
            self._series.retries += 1
            self._leave_replica()
            self.start()
        else:
            self._series.upstream_failed("closed")
            self._fail(reason)

    def on_upload_paused(self, is_paused: bool) -> None:  # noqa: FBT001 - a plain event
        """Do nothing: the whole body is in memory already."""

    # Endings.

    def _fail(self, why: str) -> None:
        self._owner.on_engine_failed(why)

    def _give_up(self, refusal: Refusal) -> None:
        self._owner.on_no_replica(refusal)

    def _end(self) -> None:
        self._is_over = True
        if self._is_waiting:
            self._gateway.queue.leave(self)
            self._end_waiting()
        replica = self._replica
        if replica is not None:
            if self._is_well:
                outliers.note_answer(replica, is_probe=self._is_probe)
            self._leave_replica()

    def _leave_replica(self) -> None:
        if self._replica is not None:
            self._replica.inflight -= 1
            self._replica = None
            if self._gateway.queue.count and self._is_awaited():
                self._gateway.flush_queue_soon()

    def _is_awaited(self) -> bool:
        """Tell whether somebody may wait for the room that this request leaves."""
        return self.route is not None and (
            bool(self.route.traffic.queued) or self._is_canary is not None
        )

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
