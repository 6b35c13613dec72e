"""The life of one inference request, from its body to its usage event, as a state machine.

    body -> checked -> admitted -> attempted -> reply head -> reply pieces -> ended

It is the `Sink` of the client's request and the owner of an `Attempt`, which is the engine's side.
Whatever happens, it ends once, and a request that reached an engine leaves exactly one usage
event.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import orjson

from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.routing import RouteKey
from tramontane.domain.usage import Outcome
from tramontane.gateway import refusals
from tramontane.gateway.admission.ticket import Ticket
from tramontane.gateway.attempt import Attempt, AttemptOwner
from tramontane.gateway.calls.bodies import CHAT, Call, Endpoint, read_call
from tramontane.gateway.calls.call import TextCall
from tramontane.gateway.calls.stream import EventTooLargeError, StreamWatch
from tramontane.gateway.calls.usage import MalformedReplyError, Tokens
from tramontane.gateway.client import replies
from tramontane.gateway.fan_out import FanOut
from tramontane.gateway.metering.entry import Entry
from tramontane.gateway.metering.events import STATUS_NONE
from tramontane.gateway.routes import RouteIndex
from tramontane.gateway.telemetry import tracing
from tramontane.gateway.telemetry.series import REFUSED, RouteSeries
from tramontane.gateway.upstream.faults import read_fault
from tramontane.wire import errors

if TYPE_CHECKING:
    from tramontane.gateway.client.connection import ClientConnection
    from tramontane.gateway.client.request import Request
    from tramontane.gateway.dispatch import Gateway
    from tramontane.gateway.responses.background import Absent

_STREAM: Final = b"text/event-stream"
_COMMENT: Final = b": keep-alive\n\n"
_NO_TOKENS: Final[Tokens] = (0, 0, 0)


class Exchange:
    """One request between a client connection and an engine."""

    __slots__ = (
        "_asked_s",
        "_attempt",
        "_call",
        "_chunks",
        "_client",
        "_endpoint",
        "_entry",
        "_gateway",
        "_is_client_paused",
        "_is_over",
        "_is_waiting",
        "_key",
        "_passed",
        "_passed_checked",
        "_reply",
        "_reply_bytes",
        "_request",
        "_series",
        "_silent_since",
        "_status",
        "_ticket",
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
        self._client: ClientConnection | Absent = client
        self._request = request
        self._endpoint = endpoint
        self._chunks: list[bytes] = []
        self._attempt: Attempt | FanOut | None = None
        self._entry: Entry | None = None
        self._call: Call | None = None
        self._key: RouteKey | None = None
        self._ticket: Ticket | None = None
        self._series: RouteSeries | None = None
        self._asked_s = 0.0
        self._is_waiting = False  # for a slice of a limit
        self._is_over = False
        self._is_client_paused = False
        self._watch: StreamWatch | None = None
        self._passed = 0  # pieces of the stream that went to the client
        self._passed_checked = 0
        self._silent_since = 0.0
        self._status = 0
        self._reply: list[bytes] = []
        self._reply_bytes = 0

    # The client's side.

    def on_upload(self, data: bytes) -> None:
        """Collect the body: the model's name may stand anywhere in it."""
        self._chunks.append(data)

    def on_upload_end(self) -> None:
        """Check the request and ask for its admission."""
        gateway = self._gateway
        index = gateway.index
        if index is None:
            self._refuse(refusals.NO_TABLE)
            return
        key = index.auth.may_infer(self._request.authorization, gateway.clock.now_ms())
        if isinstance(key, Refusal):
            self._refuse(key)
            return
        self._key = key
        chunks, self._chunks = self._chunks, []
        call = self._read(chunks[0] if len(chunks) == 1 else b"".join(chunks), key)
        if isinstance(call, Refusal):
            self._refuse(call)
        else:
            self._enter(index, key, call)

    def _read(self, body: bytes, key: RouteKey) -> Call | Refusal:
        return read_call(self._endpoint, body, is_strict=key.is_strict)

    def _enter(self, index: RouteIndex, key: RouteKey, call: Call) -> None:
        """Check what is asked against the model's route, and ask for admission."""
        active = index.find(key.project_id, call.model)
        if active is None:
            self._refuse(refusals.model_not_found(call.model))
            return
        if active.series is None:
            active.series = self._gateway.telemetry.series_of(key.project_id, call.model)
        self._series = series = active.series
        unfit = call.refused_by(active.route)
        if unfit is not None:
            self._refuse(unfit)
            return
        self._key, self._call = key, call
        admitted = self._gateway.admission.enter(self, key, active.route, call)
        if admitted is None:
            self._is_waiting = True
            self._asked_s = self._gateway.loop.time()
            series.waiting += 1
        elif isinstance(admitted, Refusal):
            self._refuse(admitted)
        else:
            self.on_admitted(admitted)

    def on_admitted(self, ticket: Ticket) -> None:
        """Go to an engine: every limit has room."""
        gateway, call, key, series = self._gateway, self._call, self._key, self._series
        assert call is not None  # this, key and series are set before admission is asked for
        assert key is not None
        assert series is not None
        if self._is_waiting:
            self._end_waiting()
        self._ticket = ticket
        series.in_flight += 1
        self._entry = entry = Entry(gateway.meter, gateway.loop.time(), gateway.clock.now_ms())
        why_not = entry.admit()
        if why_not is not None:
            self._refuse(refusals.not_metered(why_not))
            return
        request = self._request
        if gateway.spans is not None or request.trace_headers:
            tracing.begin(gateway.spans, request)
        if isinstance(call, TextCall) and call.is_split:
            attempt: Attempt | FanOut = FanOut(gateway, self, call, entry, request.id, self._part)
        else:
            attempt = Attempt(gateway, self, key, call, entry, request, series)
        self._attempt = attempt
        attempt.start()

    def _part(self, owner: AttemptOwner, call: Call, entry: Entry) -> Attempt:
        """Return the attempt for one answer of several."""
        key, series = self._key, self._series
        assert key is not None  # set before
        assert series is not None
        return Attempt(self._gateway, owner, key, call, entry, self._request, series)

    def on_refused(self, refusal: Refusal) -> None:
        """Tell the client which limit has no room."""
        self._end_waiting()
        self._refuse(refusal)

    def on_client_gone(self) -> None:
        """Stop the engine at once: nobody reads the answer."""
        if self._is_over:
            return
        if self._is_waiting:
            self._gateway.admission.leave_queue(self)
            self._end_waiting()
        if self._attempt is not None:
            self._attempt.abort()
        self._end(Outcome.CUT, 200 if self._request.has_reply else STATUS_NONE)

    def on_client_paused(self, is_paused: bool) -> None:  # noqa: FBT001 - a plain event
        """Hold the engine back while the client is slow."""
        self._is_client_paused = is_paused
        if self._attempt is not None:
            self._attempt.set_reading(on=not is_paused)

    def check(self, now: float) -> None:
        """Look at deadlines."""
        if self._attempt is not None:
            self._attempt.check(now, is_held_back=self._is_client_paused)
            if not self._is_over and not self._is_client_paused:
                self._keep_alive(now)

    def _keep_alive(self, now: float) -> None:
        """Send a comment on a stream whose engine is silent (wire reference, S2).

        Before the first piece only after a good while: with the reply's head goes the way to
        say no with a status. What fails later is told as a failure midway is.
        """
        call, entry, request, limits = self._call, self._entry, self._request, self._gateway.limits
        if call is None or entry is None or not call.is_stream or not entry.has_reached:
            return
        if self._passed != self._passed_checked or not self._silent_since:
            self._passed_checked, self._silent_since = self._passed, now
            return
        if now - self._silent_since < (
            limits.comment_s if request.has_reply else limits.first_comment_s
        ):
            return
        self._pass_on(_COMMENT)
        self._silent_since = now
        self._passed_checked = self._passed

    # The engine's side.

    def on_reply_head(self, status: int, content_type: bytes) -> None:
        """Look at what kind of reply it is; nothing goes to the client before its first piece."""
        self._status = status
        call = self._call
        is_stream = content_type[: len(_STREAM)].lower() == _STREAM
        if status == 200 and call is not None and is_stream:
            self._watch = call.watch(self._gateway.limits.stream_event_bytes_max)

    def on_reply_data(self, data: bytes) -> None:
        """Pass a piece of a stream on, or collect a reply that comes whole."""
        watch, entry = self._watch, self._entry
        if watch is None or entry is None:
            self._collect(data)
            return
        try:
            out = watch.feed(data)
        except EventTooLargeError:
            self._stop("it sent an event beyond the limit", "too_large")
            return
        entry.count(watch.counted)
        if watch.prompt is not None:
            entry.note_prompt(*watch.prompt)
            watch.prompt = None
        if watch.is_done:
            self._end_stream(out)
        elif watch.error is not None:
            self._pass_on(out)
            self._stop(watch.error, "status")
        elif out:
            self._pass_on(out)

    def on_reply_end(self) -> None:
        """Answer the client: the engine has said all."""
        watch = self._watch
        if watch is None:
            if self._status == 200:
                self._end_whole(b"".join(self._reply))
            else:
                self._end_fault(b"".join(self._reply))
            return
        rest = watch.end()
        if watch.is_done or watch.has_finish:
            self._end_stream(rest if watch.is_done else rest + watch.tail)
        else:
            self._pass_on(rest)
            self._note_fault("closed")
            self._fail("it ended the stream before the answer")

    def on_whole_reply(self, content_type: bytes, body: bytes) -> None:
        """Answer the client with a reply that came in one piece."""
        if content_type.startswith(_STREAM) or len(body) > self._gateway.limits.reply_bytes_max:
            self.on_reply_head(200, content_type)
            self.on_reply_data(body)
            if not self._is_over:
                self.on_reply_end()
            return
        self._status = 200
        self._end_whole(body)

    def on_engine_failed(self, why: str) -> None:
        """Tell the client, unless the answer was whole but for its last line."""
        watch = self._watch
        if watch is not None and watch.has_finish and not isinstance(self._attempt, FanOut):
            self._end_stream(watch.end() + watch.tail)
        else:
            self._fail(why)

    def on_no_replica(self, refusal: Refusal) -> None:
        """Refuse a request for which no replica is left."""
        if self._entry is not None and self._entry.has_reached:
            self._end_refused(refusal)
        else:
            self._refuse(refusal)

    # Endings.

    def _collect(self, data: bytes) -> None:
        self._reply.append(data)
        self._reply_bytes += len(data)
        limits = self._gateway.limits
        allowed = limits.reply_bytes_max if self._status == 200 else limits.error_bytes_max
        if self._reply_bytes > allowed:
            self._stop("its reply is too large", "too_large")

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
        self._passed += 1
        self._client.send(out)

    def _end_stream(self, out: bytes) -> None:
        """Count the request, then send the last bytes."""
        watch, request, attempt = self._watch, self._request, self._attempt
        if attempt is not None:
            attempt.finish()
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
        assert self._call is not None
        try:
            found = self._call.read_whole(body, self._request.id)
        except MalformedReplyError:
            self._note_fault("malformed")
            self._fail("its reply is not JSON", Outcome.FAILED)
            return
        if isinstance(found, Refusal):
            self._end_refused(found)
            return
        if self._request.has_reply:
            self._fail("it answered a stream whole", Outcome.FAILED)
            return
        body, tokens = found
        body = self._renamed(body)
        self._end(Outcome.COMPLETED, 200, tokens)
        self._client.reply(200, replies.JSON_TYPE + self._limit_lines(), body)

    def _end_fault(self, body: bytes) -> None:
        refusal = read_fault(self._status, body)
        if self._status >= 500:
            self._note_fault("status")
        if self._status == 503 and self._attempt is not None:
            self._reply.clear()
            self._reply_bytes = 0
            if self._attempt.start_elsewhere("it answered 503"):
                return
        if refusal.code is Code.UPSTREAM_ERROR and self._attempt is not None:
            self._attempt.blame()
        if refusal.param == CHAT.prompt:
            refusal = replace(refusal, param=self._endpoint.prompt)
        self._end_refused(refusal)

    def _end_refused(self, refusal: Refusal) -> None:
        """Charge nothing for what was refused, but what other answers of the request took."""
        is_cut = self._entry is not None and any(self._entry.counted)
        outcome, tokens = (Outcome.CUT, None) if is_cut else (Outcome.FAILED, _NO_TOKENS)
        self._end(outcome, self._status_of(refusal), tokens)
        self._tell(refusal)

    def _stop(self, why: str, kind: str) -> None:
        self._note_fault(kind)
        if self._attempt is not None:
            self._attempt.blame()
            self._attempt.abort()
        self._fail(why)

    def _fail(self, why: str, outcome: Outcome = Outcome.CUT) -> None:
        """Tell the client that the engine did not make it, in the form that it can still read."""
        refusal = refusals.engine_failed(why)
        if self._attempt is not None:
            self._attempt.blame()
        self._end(outcome, self._status_of(refusal))
        self._tell(refusal)

    def _tell(self, refusal: Refusal) -> None:
        """Refuse with a status, or as a failure midway (S6) once the reply's head has gone out."""
        request, call = self._request, self._call
        if not request.has_reply or call is None:
            self._gateway.refuse(self._client, request, refusal, self._limit_lines())
            return
        watch = self._watch or call.watch(self._gateway.limits.stream_event_bytes_max)
        event = watch.failure(errors.body_of(refusal)["error"], call.model)
        self._pass_on(watch.end() + event)
        request.keeps_alive = False  # and no last chunk: the client must notice
        self._client.finish()

    def _status_of(self, refusal: Refusal) -> int:
        """Return the status that the client sees."""
        if self._request.has_reply:
            return 200
        return errors.status_of(refusal.code, self._request.dialect)

    def _refuse(self, refusal: Refusal) -> None:
        """Refuse a request that reached no engine: it is not metered."""
        self._end(Outcome.FAILED, errors.status_of(refusal.code, self._request.dialect))
        self._gateway.refuse(self._client, self._request, refusal, self._limit_lines())

    def _end(self, outcome: Outcome, status: int, tokens: Tokens | None = None) -> None:
        """Leave the replica and close the books; only once."""
        if self._is_over:
            return
        self._is_over = True
        attempt, entry, ticket = self._attempt, self._entry, self._ticket
        if attempt is not None:
            attempt.finish()
        now = self._gateway.loop.time()
        cost = entry.end(outcome, status, tokens, now) if entry is not None else 0
        counted = entry.counted if entry is not None else _NO_TOKENS
        spent = tokens or counted
        if attempt is not None:
            attempt.count_tokens(spent[1])
        self._count(outcome, status, spent, now)
        if ticket is not None:
            ticket.end(spent, cost)
        self._attempt = None  # it knows us: without a circle both are freed at once

    def _count(self, outcome: Outcome, status: int, spent: Tokens, now: float) -> None:
        """Tell the metrics of the model."""
        series, entry, name = self._series, self._entry, self._endpoint.name
        if series is None:
            return
        if entry is not None and entry.has_reached:
            began, replied = entry.started_s, entry.first_byte_s
            first_byte_s = replied - began if replied else None
            is_stream = self._watch is not None
            series.ended(name, outcome, status, now - began, first_byte_s, *spent, is_stream)
            if self._request.trace is not None and self._gateway.spans is not None:
                tracing.end(self._gateway.spans, self._request, entry, outcome, status, spent, now)
            return
        if entry is not None:
            series.in_flight -= 1
        series.unreached(name, REFUSED if outcome is Outcome.FAILED else outcome, status)

    def _end_waiting(self) -> None:
        self._is_waiting = False
        if self._series is not None:
            self._series.waiting -= 1
            self._series.waited(self._gateway.loop.time() - self._asked_s)

    def _note_fault(self, kind: str) -> None:
        if self._series is not None:
            self._series.upstream_failed(kind)

    def _limit_lines(self) -> bytes:
        if self._ticket is not None:
            return self._ticket.header_lines()
        key, model = self._key, self._call.model if self._call is not None else None
        return self._gateway.admission.header_lines(key, model) if key is not None else b""

    def _renamed(self, data: bytes) -> bytes:
        """Put the model's name as it was asked for in the place of the engine's name for it."""
        call, attempt = self._call, self._attempt
        active = attempt.route if attempt is not None else None
        if call is None or active is None or call.model == active.route.upstream_model:
            return data
        theirs, ours = orjson.dumps(active.route.upstream_model), orjson.dumps(call.model)
        data = data.replace(b'"model":' + theirs, b'"model":' + ours)
        return data.replace(b'"model": ' + theirs, b'"model": ' + ours)

    def _stream_head(self) -> bytes:
        lines = self._limit_lines() + self._client.closing_line()
        request = self._request
        is_chunked = not request.is_http_10
        return replies.stream_head(self._gateway.date, lines, request.id, is_chunked=is_chunked)
