"""One request as several attempts, one for each answer, for engines that count only one of them.

To the `Exchange` it is one attempt whose engine gives one reply: the parts' replies are joined
(`calls.parts`), a stream's choices as they come. There is one entry in the books. A few parts run
at a time, so that one request cannot take all of a replica's slots.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from tramontane.domain.refusal import Refusal
from tramontane.gateway.attempt import Attempt, AttemptOwner
from tramontane.gateway.calls.call import TextCall, as_object
from tramontane.gateway.calls.parts import JoinedReply
from tramontane.gateway.calls.stream import EventTooLargeError, StreamWatch
from tramontane.gateway.calls.usage import MalformedReplyError, Tokens
from tramontane.gateway.metering.entry import Entry
from tramontane.gateway.metering.events import Started
from tramontane.gateway.routes import ActiveRoute

if TYPE_CHECKING:
    from tramontane.gateway.dispatch import Gateway

AT_ONCE: Final = 8  # parts of one request that engines work on
_STREAM: Final = b"text/event-stream"
_JSON: Final = b"application/json"

Make = Callable[[AttemptOwner, TextCall, Entry], Attempt]


class FanOut:
    """The parts of one request. ``route`` is that of the part that was sent last."""

    __slots__ = (
        "_books",
        "_call",
        "_gateway",
        "_has_head",
        "_is_over",
        "_is_paused",
        "_make",
        "_next",
        "_owner",
        "_request_id",
        "_running",
        "_whole_bytes",
        "joined",
        "route",
    )

    def __init__(  # noqa: PLR0917 - one for each thing it needs
        self,
        gateway: "Gateway",
        owner: AttemptOwner,
        call: TextCall,
        entry: Entry,
        request_id: str,
        make: Make,
    ) -> None:
        """``make`` returns the attempt for a part, given its owner, its call and its entry."""
        self._gateway = gateway
        self._owner = owner
        self._call = call
        self._books = _Books(entry)
        self._request_id = request_id
        self._make = make
        self._running: list[_Part] = []
        self._next = 0
        self._has_head = False
        self._is_over = False
        self._is_paused = False
        self._whole_bytes = 0
        self.joined = JoinedReply(call.answers, call.answers // call.prompts)
        self.route: ActiveRoute | None = None

    # What the owner calls, as it does with an `Attempt`.

    def start(self) -> None:
        """Start parts until enough of them run."""
        count = self._call.answers
        while not self._is_over and self._next < count and len(self._running) < AT_ONCE:
            number, self._next = self._next, self._next + 1
            call = self._call.part(number)
            part = _Part(self, number, call, self._request_id)
            part.attempt = self._make(part, call, _Share(self._books, self._gateway))
            self._running.append(part)
            part.attempt.start()

    def start_elsewhere(self, why: str) -> bool:  # noqa: ARG002 - as an attempt's
        """Return False: the parts have tried by themselves."""
        return False

    def blame(self) -> None:
        """Do nothing: who failed was blamed in his part."""

    def count_tokens(self, tokens: int) -> None:
        """Do nothing: each part counts its own."""

    def finish(self) -> None:
        """End what still runs."""
        self.abort()

    def abort(self) -> None:
        """Stop every engine at once."""
        self._is_over = True
        running, self._running = self._running, []
        for part in running:
            part.attempt.abort()

    def set_reading(self, *, on: bool) -> None:
        """Hold the engines back while the client is slow."""
        self._is_paused = not on
        for part in self._running:
            part.attempt.set_reading(on=on)

    def check(self, now: float, *, is_held_back: bool) -> None:
        """Give engines up that say nothing for too long."""
        for part in list(self._running):
            if not self._is_over:
                part.attempt.check(now, is_held_back=is_held_back)

    # What the parts call.

    def note_route(self, part: "_Part") -> None:
        """Note where a part's engine is."""
        self.route = part.attempt.route
        if self._is_paused:
            part.attempt.set_reading(on=False)

    @property
    def event_bytes_max(self) -> int:
        """Return the limit of one event."""
        return self._gateway.limits.stream_event_bytes_max

    def note_prompt(self, tokens: int, cached: int) -> None:
        """Note what the prompts take, as far as engines have told."""
        self._books.entry.note_prompt(tokens, cached)

    def pass_on(self, events: bytes) -> None:
        """Give the owner events of the joined stream."""
        if self._is_over or not events:
            return
        self._begin(200, _STREAM)
        self._owner.on_reply_data(events)

    def end_part(self, part: "_Part") -> None:
        """Take a part that has its answer out; with the last one the reply is whole."""
        if self._is_over:
            return
        self._running.remove(part)
        self._note_spent()
        if self._running or self._next < self._call.answers:
            self.start()
        elif self._call.is_stream:
            self.pass_on(self.joined.last_events())
        else:
            self._is_over = True
            self._begin(200, _JSON)
            self._owner.on_reply_data(self.joined.whole())
            self._owner.on_reply_end()

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more is wanted of any part."""
        return self._is_over

    def keep(self, size_bytes: int) -> bool:
        """Count what a part has collected; False when all together is too much."""
        self._whole_bytes += size_bytes
        return self._whole_bytes <= self._gateway.limits.reply_bytes_max

    def fail(self, why: str) -> None:
        """End all because one engine failed."""
        if not self._is_over:
            self.abort()
            self._owner.on_engine_failed(why)

    def give_up(self, refusal: Refusal) -> None:
        """End all because one part found no replica."""
        if self._is_over:
            return
        self.abort()
        if self._has_head:
            self._owner.on_engine_failed(refusal.message)
        else:
            self._owner.on_no_replica(refusal)

    def refuse(self, status: int, body: bytes) -> None:
        """End all because one engine refused its part."""
        if self._is_over:
            return
        self.abort()
        if self._has_head:
            self._owner.on_engine_failed(f"it answered {status}")
            return
        self._begin(status, _JSON)
        self._owner.on_reply_data(body)
        self._owner.on_reply_end()

    def _note_spent(self) -> None:
        """Tell the books what parts that ended took, in case that the rest is cut or fails."""
        entry, joined = self._books.entry, self.joined
        entry.note_prompt(*joined.prompt)
        if not self._call.is_stream:  # of a stream the owner counts the pieces
            entry.count(joined.tokens[1])

    def _begin(self, status: int, content_type: bytes) -> None:
        if not self._has_head:
            self._has_head = True
            self._owner.on_reply_head(status, content_type)


class _Part:
    """One answer's attempt and its reply."""

    __slots__ = (
        "_call",
        "_fan_out",
        "_number",
        "_reply",
        "_request_id",
        "_status",
        "_watch",
        "attempt",
    )

    attempt: Attempt

    def __init__(self, fan_out: FanOut, number: int, call: TextCall, request_id: str) -> None:
        self._fan_out = fan_out
        self._number = number
        self._call = call
        self._request_id = request_id
        self._status = 0
        self._reply: list[bytes] = []
        self._watch: StreamWatch | None = None

    def on_reply_head(self, status: int, content_type: bytes) -> None:
        """Look at what kind of reply it is."""
        self._status = status
        self._fan_out.note_route(self)
        if status == 200 and content_type[: len(_STREAM)].lower() == _STREAM:
            self._watch = self._call.watch(self._fan_out.event_bytes_max)

    def on_reply_data(self, data: bytes) -> None:
        """Pass a piece of a stream on, or collect."""
        watch, fan_out = self._watch, self._fan_out
        if watch is None:
            self._reply.append(data)
            if not fan_out.keep(len(data)):
                fan_out.fail("its reply is too large")
            return
        try:
            out = watch.feed(data)
        except EventTooLargeError:
            self.attempt.blame()
            fan_out.fail("it sent an event beyond the limit")
            return
        joined = fan_out.joined
        if watch.prompt is not None:
            fan_out.note_prompt(*joined.note_prompt(self._number, watch.prompt))
            watch.prompt = None
        fan_out.pass_on(joined.events(self._number, out))
        if watch.is_done:
            self._end_stream(watch)
        elif watch.error is not None:
            self.attempt.blame()
            fan_out.fail(watch.error)

    def on_reply_end(self) -> None:
        """The engine has said all."""
        watch, fan_out = self._watch, self._fan_out
        if watch is not None:
            fan_out.pass_on(fan_out.joined.events(self._number, watch.end()))
            if watch.has_finish:
                self._end_stream(watch)
            else:
                self.attempt.blame()
                fan_out.fail("it ended the stream before the answer")
        elif self._status == 200:
            self._end_whole(b"".join(self._reply))
        else:
            reply, self._reply = b"".join(self._reply), []
            if self._status == 503 and self.attempt.start_elsewhere("it answered 503"):
                return
            self.attempt.finish()
            fan_out.refuse(self._status, reply)

    def on_whole_reply(self, content_type: bytes, body: bytes) -> None:
        """Take a reply that came in one piece."""
        self.on_reply_head(200, content_type)
        self.on_reply_data(body)
        if not self._fan_out.is_over:
            self.on_reply_end()

    def on_engine_failed(self, why: str) -> None:
        """End all, unless this answer was whole but for its last line."""
        watch = self._watch
        if watch is not None and watch.has_finish:
            self._end_stream(watch)
            return
        self.attempt.blame()
        self._fan_out.fail(why)

    def on_no_replica(self, refusal: Refusal) -> None:
        """End all."""
        self._fan_out.give_up(refusal)

    def _end_stream(self, watch: StreamWatch) -> None:
        self._fan_out.joined.note_tokens(self._number, watch.tokens)
        self._end()

    def _end_whole(self, body: bytes) -> None:
        fan_out = self._fan_out
        try:
            told, tokens = cast(
                "tuple[bytes, Tokens | None]", self._call.read_whole(body, self._request_id)
            )
            fan_out.joined.put(self._number, as_object(told))
        except MalformedReplyError:
            self.attempt.blame()
            fan_out.fail("its reply is not JSON")
            return
        fan_out.joined.note_tokens(self._number, tokens)
        self._end()

    def _end(self) -> None:
        self.attempt.finish()
        self._fan_out.end_part(self)


class _Books:
    """The one entry of the request, and which part's slot stands for all of them."""

    __slots__ = ("entry", "holder")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.holder: _Share | None = None


class _Share(Entry):
    """A part's view of the books: only the first part to reach an engine writes in them."""

    __slots__ = ("_books",)

    def __init__(self, books: _Books, gateway: "Gateway") -> None:
        super().__init__(gateway.meter, books.entry.started_s, books.entry.started_ms)
        self._books = books

    def begin(self, started: Started) -> None:
        """Write the slot, unless another part's stands already."""
        if self._books.holder is None:
            self._books.holder = self
        if self._books.holder is self:
            self._books.entry.begin(started)

    def arm(self) -> None:
        """Make the slot count."""
        if self._books.holder is self:
            self._books.entry.arm()

    def settle(self, *, is_sent: bool) -> None:
        """Say whether the engine took a byte."""
        if self._books.holder is self:
            self._books.entry.settle(is_sent=is_sent)
            if not self._books.entry.has_reached:
                self._books.holder = None

    def note_reply(self, now_s: float) -> None:
        """Note when the first of the engines began to answer."""
        if not self._books.entry.first_byte_s:
            self._books.entry.note_reply(now_s)
