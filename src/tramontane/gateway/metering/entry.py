"""One request's entry in the books: admitted, begun, ended, each at most once."""

from tramontane.domain.usage import Outcome
from tramontane.gateway.calls.usage import Tokens
from tramontane.gateway.metering.events import Started, ended
from tramontane.gateway.metering.meter import Meter

_NO_SLOT = -1


class Entry:
    """What the meter knows of one request. ``has_reached``: an engine got bytes of it."""

    __slots__ = (
        "_is_admitted",
        "_left_slot",
        "_meter",
        "_slot",
        "cached_tokens",
        "counted_tokens",
        "first_byte_s",
        "has_reached",
        "prompt_tokens",
        "started",
        "started_ms",
        "started_s",
    )

    def __init__(self, meter: Meter, started_s: float, started_ms: int) -> None:
        """``started_s`` is the loop's time, ``started_ms`` the same moment on the clock."""
        self._meter = meter
        self._slot = _NO_SLOT
        self._left_slot = _NO_SLOT
        self.started: Started | None = None
        self.first_byte_s = 0.0  # the loop's time, 0 without a reply
        self._is_admitted = False
        self.has_reached = False
        self.counted_tokens = 0
        self.prompt_tokens = 0  # as the engine told before the answer
        self.cached_tokens = 0
        self.started_s = started_s
        self.started_ms = started_ms

    def admit(self) -> str | None:
        """Reserve what counting the request needs; return why not when it cannot be counted."""
        why_not = self._meter.admit()
        self._is_admitted = why_not is None
        return why_not

    def begin(self, started: Started) -> None:
        """Write the slot for an engine; a slot for an engine before it stands until `settle`."""
        self.started = started
        self._left_slot = self._slot
        self._slot = self._meter.begin(started)

    def arm(self) -> None:
        """Make the slot count; the request's first bytes must follow at once."""
        self._meter.arm(self._slot)

    def settle(self, *, is_sent: bool) -> None:
        """Say whether the engine's connection took a byte of what `arm` announced."""
        if is_sent:
            self.has_reached = True
        elif self.has_reached:  # an engine before this one got it
            self._meter.arm(self._slot)
        else:
            self._meter.forget(self._slot)
            self._slot = _NO_SLOT
        if self._left_slot != _NO_SLOT:
            self._meter.forget(self._left_slot)
            self._left_slot = _NO_SLOT

    def note_reply(self, now_s: float) -> None:
        """Note when the engine began to answer."""
        self.first_byte_s = now_s

    def count(self, tokens: int) -> None:
        """Note how many pieces of a stream with a token in them have passed."""
        self.counted_tokens = tokens
        self._meter.count(self._slot, tokens)

    def note_prompt(self, tokens: int, cached: int) -> None:
        """Note what the engine told of the prompt before it began to answer."""
        self.prompt_tokens = tokens
        self.cached_tokens = cached
        self._meter.note_prompt(self._slot, tokens, cached)

    @property
    def counted(self) -> Tokens:
        """Return what is known without the engine's own count at the end."""
        return self.prompt_tokens, self.counted_tokens, self.cached_tokens

    def end(self, outcome: Outcome, status: int, tokens: Tokens | None, now_s: float) -> int:
        """Write the usage event and return what the request costs, in nano-euros.

        Take everything back when no engine was reached.
        """
        if not self._is_admitted:
            return 0
        self._is_admitted = False
        if not self.has_reached or self.started is None:
            self._meter.dismiss()
            return 0
        meter, began_s, replied_s = self._meter, self.started_s, self.first_byte_s
        line = ended(
            self.started,
            meter.gateway,
            meter.owner,
            outcome,
            status,
            tokens,
            self.counted,
            int((now_s - began_s) * 1000 + 0.5),
            int((replied_s - began_s) * 1000 + 0.5) if replied_s else None,
        )
        meter.finish(self._slot, line)
        return line.cost_nano
