"""The life of one inference request, from its body to its usage event, as a state machine.

    body -> checked -> (dialing ->) sent -> reply head -> reply pieces -> ended

It is the `Sink` of the client's request and the `Receiver` of the engine's reply. Whatever
happens, it ends once, and a request that reached an engine leaves exactly one usage event.

When a request is tried again, on another replica or on a new connection, before the client saw a
byte: (1) no connection came about, or it was dead before it took a byte; (2) the engine answered
503, which engines do while they load or drain, before they look at a request; (3) a *kept*
connection was closed within a second of our writing to it and without one byte of a reply: the
engine had hung up before, as an idle or draining server does, and both messages crossed. A new
connection that breaks is never tried again: there the engine may have died of the request.
"""

import logging
from typing import TYPE_CHECKING, Final

import orjson

from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import RouteKey
from tramontane.domain.usage import Outcome
from tramontane.gateway import refusals
from tramontane.gateway.client import replies
from tramontane.gateway.metering.entry import Entry
from tramontane.gateway.metering.events import STATUS_NONE, Started
from tramontane.gateway.routes import ActiveRoute
from tramontane.gateway.calls.bodies import EMBEDDINGS, Call, Endpoint, read_call
from tramontane.gateway.upstream.connection import DialError, Headers, UpstreamConnection, dial
from tramontane.gateway.upstream.faults import read_fault
from tramontane.gateway.upstream.replica import Replica, pick
from tramontane.gateway.calls.stream import EventTooLargeError, StreamWatch
from tramontane.gateway.calls.usage import MalformedReplyError, Tokens, read_reply
from tramontane.wire import errors

if TYPE_CHECKING:
    from tramontane.gateway.client.connection import ClientConnection
    from tramontane.gateway.client.request import Request
    from tramontane.gateway.dispatch import Gateway

LOG: Final = logging.getLogger("tramontane.gateway.exchange")
_STREAM: Final = b"text/event-stream"
_DONE: Final = b"data: [DONE]\n\n"
_NO_TOKENS: Final[Tokens] = (0, 0, 0)


class Exchange:
    """One request between a client connection and an engine."""

    __slots__ = (
        "_call",
        "_chunks",
        "_client",
        "_connection",
        "_endpoint",
        "_entry",
        "_gateway",
        "_has_raced",
        "_is_client_paused",
        "_is_over",
        "_key",
        "_pieces",
        "_pieces_checked",
        "_progress_s",
        "_replica",
        "_reply",
        "_reply_bytes",
        "_request",
        "_route",
        "_status",
        "_tried",
        "_watch",
    )

    def __init__(
        self,
        gateway: "Gateway",
        client: "ClientConnection",
        request: "Request",
        endpoint: Endpoint,
    ) -> None:
        self._gateway = gateway
        self._client = client
        self._request = request
        self._endpoint = endpoint
        self._chunks: list[bytes] = []
        self._entry: Entry | None = None
        self._call: Call | None = None
        self._key: RouteKey | None = None
        self._connection: UpstreamConnection | None = None
        self._replica: Replica | None = None
        self._route: ActiveRoute | None = None
        self._tried: list[Replica] = []
        self._has_raced = False
        self._is_over = False
        self._is_client_paused = False
        self._watch: StreamWatch | None = None
        self._status = 0
        self._reply: list[bytes] = []
        self._reply_bytes = 0
        self._pieces = 0
        self._pieces_checked = 0
        self._progress_s = 0.0

    # The client's side.

    def on_upload(self, data: bytes) -> None:
        """Collect the body: the model's name may stand anywhere in it."""
        self._chunks.append(data)

    def on_upload_end(self) -> None:
        """Check the request, and send it to an engine."""
        gateway = self._gateway
        index = gateway.index
        if index is None:
            self._refuse(refusals.NO_TABLE)
            return
        now_ms = gateway.clock.now_ms()
        key = index.auth.may_infer(self._request.authorization, now_ms)
        if isinstance(key, Refusal):
            self._refuse(key)
            return
        chunks, self._chunks = self._chunks, []
        call = read_call(self._endpoint, chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if isinstance(call, Refusal):
            self._refuse(call)
            return
        active = index.find(key.project_id, call.model)
        if active is None:
            self._refuse(refusals.model_not_found(call.model))
            return
        unfit = call.refused_by(active.route.engine, active.route.context_length)
        if unfit is not None:
            self._refuse(unfit)
            return
        full = gateway.admission.enter(key)
        if full is not None:
            self._refuse(full)
            return
        self._key, self._call = key, call
        self._entry = Entry(gateway.meter, gateway.loop.time(), now_ms)
        why_not = self._entry.admit()
        if why_not is not None:
            self._refuse(refusals.not_metered(why_not))
            return
        self._attempt()

    def on_client_gone(self) -> None:
        """Stop the engine at once: nobody reads the answer."""
        if self._is_over:
            return
        self._drop_connection()
        self._end(Outcome.CUT, 200 if self._request.has_reply else STATUS_NONE)

    def on_client_paused(self, is_paused: bool) -> None:  # noqa: FBT001 - a plain event
        """Hold the engine back while the client is slow."""
        self._is_client_paused = is_paused
        if self._connection is not None:
            self._connection.set_reading(on=not is_paused)

    def check(self, now: float) -> None:
        """Give an engine up that says nothing for too long."""
        if self._connection is None:
            return
        if self._pieces != self._pieces_checked or self._is_client_paused:
            self._pieces_checked = self._pieces
            self._progress_s = now
            return
        limits = self._gateway.limits
        allowed_s = limits.idle_s if self._pieces else limits.first_byte_s
        if now - self._progress_s > allowed_s:
            self._drop_connection()
            self._fail(f"it said nothing for {allowed_s:g} s")

    # Towards the engine.

    def _attempt(self) -> None:
        """Send the request to the least loaded replica that was not tried yet."""
        gateway, call, key = self._gateway, self._call, self._key
        assert call is not None  # this and the key are set before the first attempt
        assert key is not None
        self._route = gateway.index.find(key.project_id, call.model) if gateway.index else None
        if self._route is None:
            self._give_up(refusals.model_not_found(call.model))
            return
        self._route.turn += 1
        now = gateway.loop.time()
        limits, active = gateway.limits, self._route
        most = limits.replica_inflight_max
        replica = pick(active.replicas, active.turn, now, self._tried, most)
        if replica is None or len(self._tried) >= limits.attempts_max:
            is_full = any(other.inflight >= most for other in active.replicas)
            full = refusals.replicas_full(active.route, most)
            self._give_up(full if is_full else refusals.no_ready_replica(active.route))
            return
        self._tried.append(replica)
        self._replica = replica
        replica.inflight += 1
        # After a race only a new connection will do: kept ones to other replicas may be as dead.
        while not self._has_raced and (connection := replica.take_idle()) is not None:
            if self._send(connection, replica):
                return
        gateway.spawn(self._dial(replica))

    async def _dial(self, replica: Replica) -> None:
        try:
            connection = await dial(
                replica.host, replica.port, self._gateway.limits.connect_s, replica
            )
        except DialError as error:
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
        replica.aside_until = now + self._gateway.limits.aside_s
        if not self._is_over:
            self._leave_replica()
            self._attempt()

    def _send(self, connection: UpstreamConnection, replica: Replica) -> bool:
        """Write the slot, then the request; False when the connection took no byte of it."""
        call, key, route, entry = self._call, self._key, self._route, self._entry
        assert call and key and route and entry  # noqa: PT018 - set before the first attempt
        pieces = call.pieces_for(route.route.upstream_model)
        head = b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
            replica.heads[self._endpoint.name],
            self._request.id.encode(),
            sum(map(len, pieces)),
        )
        started = Started(
            self._request.id,
            key.organization_id,
            key.project_id,
            key.id,
            route.route.deployment_id,
            replica.id,
            call.model,
            self._endpoint.name,
            call.is_stream,
            entry.started_ms,
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
        """Look at what kind of reply it is; nothing goes to the client before its first piece."""
        self._status = status
        self._pieces += 1
        call, entry = self._call, self._entry
        if entry is not None:
            entry.note_reply(self._gateway.loop.time())
        if status == 200 and call is not None and self._is_event_stream():
            limit = self._gateway.limits.stream_event_bytes_max
            self._watch = StreamWatch(call.form, lead=self._endpoint.lead, event_bytes_max=limit)

    def _is_event_stream(self) -> bool:
        connection = self._connection
        kind = connection.content_type if connection is not None else b""
        return kind[: len(_STREAM)].lower() == _STREAM

    def on_reply_data(self, data: bytes) -> None:
        """Pass a piece of a stream on, or collect a reply that comes whole."""
        self._pieces += 1
        watch, entry = self._watch, self._entry
        if watch is None or entry is None:
            self._collect(data)
            return
        try:
            out = watch.feed(data)
        except EventTooLargeError:
            self._drop_connection()
            self._fail("it sent an event beyond the limit")
            return
        entry.count(watch.counted)
        if watch.is_done:
            self._end_stream(out)
        elif watch.error is not None:
            self._pass_on(out)
            self._drop_connection()
            self._fail(watch.error)
        elif out:
            self._pass_on(out)

    def on_reply_end(self) -> None:
        """Answer the client: the engine has said all."""
        self._connection = None
        watch = self._watch
        if watch is None:
            if self._status == 200:
                self._end_whole(b"".join(self._reply))
            else:
                self._end_fault(b"".join(self._reply))
            return
        rest = watch.end()
        if watch.is_done or watch.has_finish:
            self._end_stream(rest if watch.is_done else rest + _DONE)
        else:
            self._pass_on(rest)
            self._fail("it ended the stream before the answer")

    def on_reply_broken(self, reason: str) -> None:
        """Try again where nothing can have happened yet (see above), else tell the client."""
        connection, self._connection = self._connection, None
        assert connection is not None  # only the one in use reports to us
        age_s = self._gateway.loop.time() - connection.since
        has_crossed = (
            connection.is_reused
            and not connection.has_reply
            and not self._has_raced
            and age_s < self._gateway.limits.reuse_race_s
        )
        replica, watch = self._replica, self._watch
        if has_crossed and replica is not None:
            self._has_raced = True
            connection.note_hang_up()
            replica.drop_idle()  # they have the same age
            self._tried.remove(replica)
            self._leave_replica()
            self._attempt()
        elif watch is not None and watch.has_finish:
            self._end_stream(watch.end() + _DONE)
        else:
            self._fail(reason)

    def on_upload_paused(self, is_paused: bool) -> None:  # noqa: FBT001 - a plain event
        """Do nothing: the whole body is in memory already."""

    # Endings.

    def _collect(self, data: bytes) -> None:
        self._reply.append(data)
        self._reply_bytes += len(data)
        limits = self._gateway.limits
        allowed = limits.reply_bytes_max if self._status == 200 else limits.error_bytes_max
        if self._reply_bytes > allowed:
            self._drop_connection()
            self._fail("its reply is too large")

    def _pass_on(self, out: bytes) -> None:
        """Send a piece of the stream; the reply's head goes with the first one."""
        out = self._renamed(out)
        request = self._request
        if not out:
            return
        if not request.is_http_10:
            out = replies.chunk(out)
        if not request.has_reply:
            request.has_reply = True
            out = self._stream_head() + out
        self._client.send(out)

    def _end_stream(self, out: bytes) -> None:
        """Count the request, then send the last bytes."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.let_go()
        watch, request = self._watch, self._request
        out = self._renamed(out)
        if not request.is_http_10:
            out = (replies.chunk(out) if out else b"") + replies.LAST_CHUNK
        if not request.has_reply:
            request.has_reply = True
            out = self._stream_head() + out
        self._end(Outcome.COMPLETED, 200, watch.tokens if watch is not None else None)
        self._client.send(out)
        self._client.finish()

    def _end_whole(self, body: bytes) -> None:
        try:
            tokens, has_id = read_reply(body)
        except MalformedReplyError:
            self._fail("its reply is not JSON", Outcome.FAILED)
            return
        body = self._renamed(body)
        if self._endpoint is EMBEDDINGS and not has_id:  # Mistral's client insists on one
            start = body.index(b"{") + 1
            is_empty = body[start : start + 16].lstrip().startswith(b"}")
            name = b'"id":"embd-%b"' % self._request.id[4:].encode()
            body = b"%b%b%b%b" % (body[:start], name, b"" if is_empty else b",", body[start:])
        self._end(Outcome.COMPLETED, 200, tokens)
        self._client.reply(200, replies.JSON_TYPE, body)

    def _end_fault(self, body: bytes) -> None:
        refusal = read_fault(self._status, body)
        replica = self._replica
        if self._status == 503 and replica is not None and self._has_other(replica):
            self._reply.clear()
            self._reply_bytes = 0
            self._try_another(replica, refusal.message)
            return
        self._end(Outcome.FAILED, errors.status_of(refusal.code, self._request.dialect), _NO_TOKENS)
        self._gateway.refuse(self._client, self._request, refusal)

    def _has_other(self, replica: Replica) -> bool:
        replicas = self._route.replicas if self._route is not None else ()
        return any(other is not replica and other not in self._tried for other in replicas)

    def _fail(self, why: str, outcome: Outcome = Outcome.CUT) -> None:
        """Tell the client that the engine did not make it, in the form that it can still read."""
        refusal = refusals.engine_failed(why)
        request, watch, call = self._request, self._watch, self._call
        if not request.has_reply or watch is None or call is None:
            self._end(outcome, errors.status_of(refusal.code))
            self._gateway.refuse(self._client, request, refusal)
            return
        event = watch.failure(errors.body_of(refusal)["error"], call.model)
        self._pass_on(watch.end() + event)
        self._end(outcome, 200)
        request.keeps_alive = False  # and no last chunk: the client must notice
        self._client.finish()

    def _give_up(self, refusal: Refusal) -> None:
        """Refuse a request for which no replica is left."""
        if self._entry is not None and self._entry.has_reached:
            status = errors.status_of(refusal.code, self._request.dialect)
            self._end(Outcome.FAILED, status, _NO_TOKENS)
            self._gateway.refuse(self._client, self._request, refusal)
        else:
            self._refuse(refusal)

    def _refuse(self, refusal: Refusal) -> None:
        """Refuse a request that reached no engine: it is not counted."""
        self._end(Outcome.FAILED, 0)
        self._gateway.refuse(self._client, self._request, refusal)

    def _end(self, outcome: Outcome, status: int, tokens: Tokens | None = None) -> None:
        """Leave the replica and close the books; only once."""
        if self._is_over:
            return
        self._is_over = True
        self._leave_replica()
        if self._key is not None:
            self._gateway.admission.leave(self._key)
        if self._entry is not None:
            self._entry.end(outcome, status, tokens, self._gateway.loop.time())

    def _leave_replica(self) -> None:
        if self._replica is not None:
            self._replica.inflight -= 1
            self._replica = None

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _renamed(self, data: bytes) -> bytes:
        """Put the model's name as it was asked for in the place of the engine's name for it."""
        call, route = self._call, self._route
        if call is None or route is None or call.model == route.route.upstream_model:
            return data
        theirs, ours = orjson.dumps(route.route.upstream_model), orjson.dumps(call.model)
        data = data.replace(b'"model":' + theirs, b'"model":' + ours)
        return data.replace(b'"model": ' + theirs, b'"model": ' + ours)

    def _stream_head(self) -> bytes:
        return b"%b%b%bx-request-id: %b\r\n%b%b\r\n" % (
            replies.status_line(200),
            self._gateway.date,
            replies.STREAM_TYPE,
            self._request.id.encode(),
            self._client.closing_line(),
            b"" if self._request.is_http_10 else replies.CHUNKED,
        )
