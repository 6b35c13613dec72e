"""The life of one request for a response: an exchange that may look back, store and go on alone.

    body -> checked -> (earlier items, or: can it be stored?) -> admitted
         -> (in the background: stored as queued, answered, client gone) -> attempted -> ended
         -> (stored) -> the last bytes

What is stored is stored before the client's last byte, so it can be read right after. Where it
could not be stored after all, the last bytes say ``"store": false``.
"""

from collections.abc import Callable
from typing import Any

import orjson

from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.routing import RouteKey
from tramontane.domain.usage import Outcome
from tramontane.gateway import refusals
from tramontane.gateway.admission.ticket import Ticket
from tramontane.gateway.calls.call import Call
from tramontane.gateway.calls.responses import reply
from tramontane.gateway.calls.responses.call import ResponsesCall, read_responses_call
from tramontane.gateway.calls.responses.events import ResponseStream
from tramontane.gateway.calls.usage import MalformedReplyError
from tramontane.gateway.client import replies
from tramontane.gateway.exchange import Exchange
from tramontane.gateway.responses.background import Absent
from tramontane.gateway.responses.stored import (
    ALONE,
    NOT_REACHED,
    RUNS_MAX,
    RUNS_PROJECT_MAX,
    Ended,
)
from tramontane.gateway.routes import RouteIndex
from tramontane.wire import errors

_STOPPED = "the gateway stopped before the answer was there: ask again"


class ResponsesExchange(Exchange):
    """One request for a response. In the background it is also the `stored.Run` of it."""

    __slots__ = ("_is_detached", "has_begun", "id", "project_id")

    id: str
    project_id: str
    has_begun: bool

    # Before the engine.

    def _read(self, body: bytes, key: RouteKey) -> Call | Refusal:
        self._is_detached = False
        self.has_begun = False
        gateway = self._gateway
        token = self._request.id.partition("_")[2]
        self.id = f"resp_{token}"
        may_store = key.may_store and gateway.stored is not None
        return read_responses_call(
            body, token, may_store=may_store, now_s=self._now_s, is_strict=key.is_strict
        )

    def _now_s(self) -> int:
        return self._gateway.clock.now_ms() // 1000

    def _enter(self, index: RouteIndex, key: RouteKey, call: Call) -> None:
        assert isinstance(call, ResponsesCall)  # `_read` gave it
        stored, previous = self._gateway.stored, call.asked.previous_response_id
        if previous is not None:
            if stored is None:
                self._refuse(ALONE)
                return

            def go_on(found: list[dict[str, Any]] | Refusal) -> None:
                self._join(key, call, found)

            stored.history(key.project_id, previous, go_on)
        elif call.asks_to_store and stored is not None:

            def look(can_store: bool) -> None:  # noqa: FBT001 - a plain answer
                self._join(key, call, [] if can_store else NOT_REACHED)

            stored.look(key.project_id, look)
        else:
            self._join(key, call, [], index)

    def _join(
        self,
        key: RouteKey,
        call: ResponsesCall,
        found: list[dict[str, Any]] | Refusal,
        index: RouteIndex | None = None,
    ) -> None:
        """Go on with the earlier items ``found``, if the client is still there."""
        if self._is_over:
            return
        index = index or self._gateway.index
        refusal = found if isinstance(found, Refusal) else call.compose(found)
        if refusal is not None:
            self._refuse(refusal)
        elif index is None:
            self._refuse(refusals.NO_TABLE)
        else:
            super()._enter(index, key, call)

    def on_admitted(self, ticket: Ticket) -> None:
        """Go to an engine; in the background, first let the client go."""
        call, key, stored = self._response_call(), self._key, self._gateway.stored
        if not call.asked.background or stored is None or key is None:
            super().on_admitted(ticket)
            return
        if self._is_waiting:
            self._end_waiting()
        self._ticket = ticket
        self.project_id = key.project_id
        if not stored.has_room(key.project_id):
            self._refuse(_too_many())
            return
        queued = call.skeleton.response("queued")
        stored.keep(key, call, queued, lambda refusal: self._on_queued(queued, ticket, refusal))

    def _on_queued(self, queued: dict[str, Any], ticket: Ticket, refusal: Refusal | None) -> None:
        if self._is_over:  # the client left before it knew of a response
            if refusal is None:
                self._store_end(reply.failed("the client left before the response began"))
            return
        if refusal is not None:
            self._refuse(refusal)
            return
        client, request = self._client, self._request
        self._request = request.apart()
        absent = Absent(self._request, self, self._on_refused_late, self._on_gateway_stops)
        self._client = absent
        self._is_detached = True
        client.reply(200, replies.JSON_TYPE + self._limit_lines(), orjson.dumps(queued))
        if self._gateway.stored is not None:
            self._gateway.stored.begin(self)
        if not self._gateway.add_client(self._client):
            self._on_gateway_stops()
            return
        self.has_begun = True
        super().on_admitted(ticket)

    # In the background.

    def stop(self) -> None:
        """End it: it was cancelled or deleted, and that is stored already."""
        self.on_client_gone()
        self._leave()

    def _on_gateway_stops(self) -> None:
        self.on_client_gone()
        self._store_end(reply.failed(_STOPPED))

    def _on_refused_late(self, status: int, message: str) -> None:
        code = "rate_limit_exceeded" if status == 429 else "server_error"
        self._store_end(reply.failed(message, "invalid_prompt" if status == 400 else code))

    def _store_end(self, ending: reply.Ending, response: dict[str, Any] | None = None) -> None:
        """Store how it ended, however long that takes."""
        stored, key, call = self._gateway.stored, self._key, self._response_call()
        if stored is None or key is None:
            return
        response = response or call.skeleton.response(ending.status, ending=ending)
        stored.end(self, Ended(key.project_id, response, self._leave))

    def _leave(self) -> None:
        if self._gateway.stored is not None:
            self._gateway.stored.drop(self)
        self._gateway.remove_client(self._client)

    # Endings.

    def _end_whole(self, body: bytes) -> None:
        try:
            response, tokens = self._response_call().read_response(body)
        except MalformedReplyError:
            self._note_fault("malformed")
            self._fail("its reply is not a chat completion", Outcome.FAILED)
            return
        self._end(Outcome.COMPLETED, 200, tokens)
        lines = replies.JSON_TYPE + self._limit_lines()

        def answer(is_stored: bool) -> None:  # noqa: FBT001 - a plain answer
            response["store"] = is_stored
            self._client.reply(200, lines, orjson.dumps(response))

        self._settle(response, answer)

    def _end_stream(self, out: bytes) -> None:
        watch, attempt = self._response_stream(), self._attempt
        if attempt is not None:
            attempt.finish()
        self._end(Outcome.COMPLETED, 200, watch.tokens)
        self._pass_on(out)
        self._close_stream(watch)

    def _fail(self, why: str, outcome: Outcome = Outcome.CUT) -> None:
        """Tell the client in the middle of a stream, which then ends in good order."""
        watch = self._watch
        if not (self._request.has_reply and isinstance(watch, ResponseStream)):
            super()._fail(why, outcome)
            return
        if self._attempt is not None:
            self._attempt.blame()
        self._end(outcome, 200)
        error = errors.body_of(refusals.engine_failed(why))["error"]
        self._pass_on(watch.failure(error, self._response_call().model))
        self._close_stream(watch)

    def _close_stream(self, watch: ResponseStream) -> None:
        response = watch.response
        assert response is not None  # the stream has ended or failed

        def close(is_stored: bool) -> None:  # noqa: FBT001 - a plain answer
            self._pass_on(watch.closing(is_stored=is_stored))
            if not self._request.is_http_10:
                self._client.send(replies.LAST_CHUNK)
            self._client.finish()

        self._settle(response, close)

    def _settle(self, response: dict[str, Any], answer: Callable[[bool], None]) -> None:
        """Store ``response`` if it may be, then answer: with the truth about that."""
        stored, key, call = self._gateway.stored, self._key, self._response_call()
        if self._is_detached:
            self._client.finish()
            self._store_end(reply.ending_of(None), response)
            return
        if not call.skeleton.is_stored or stored is None or key is None:
            answer(False)  # noqa: FBT003 - a plain answer
            return

        def go_on(refusal: Refusal | None) -> None:
            if self._client.current is self._request:  # it is still there
                answer(refusal is None)

        stored.keep(key, call, response, go_on)

    def _renamed(self, data: bytes) -> bytes:
        """Return ``data`` as it is: the model's name in it is the one that was asked for."""
        return data

    def _response_call(self) -> ResponsesCall:
        assert isinstance(self._call, ResponsesCall)  # set before admission is asked for
        return self._call

    def _response_stream(self) -> ResponseStream:
        assert isinstance(self._watch, ResponseStream)  # the call made it
        return self._watch


def _too_many() -> Refusal:
    message = (
        f"{RUNS_MAX} responses run in the background on this gateway, or {RUNS_PROJECT_MAX} of "
        "your project, as many as may: try again, or ask without 'background'"
    )
    return Refusal(Code.UNAVAILABLE, message, "background", 1)
