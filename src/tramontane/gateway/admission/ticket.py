"""What a request asks of its limits, and what it holds of them once it is admitted."""

from collections.abc import Callable
from typing import Final, Protocol

from tramontane.domain.refusal import Refusal
from tramontane.gateway.admission import headers
from tramontane.gateway.admission.held import Binding


class Demand(Protocol):
    """The most that a request can take."""

    def prompt_tokens_max(self, context_length: int) -> int:
        """Return the most tokens of the prompt."""
        ...

    def completion_tokens_max(self, context_length: int) -> int:
        """Return the most tokens of all answers."""
        ...


class Waiter(Protocol):
    """A request that waits for room; it is told once."""

    def on_admitted(self, ticket: "Ticket") -> None:
        """Go on: every limit has room."""
        ...

    def on_refused(self, refusal: Refusal) -> None:
        """Give up: a limit has no room."""
        ...


class Ticket:
    """What an admitted request holds, until it ends."""

    __slots__ = ("_binding", "_cost", "_is_over", "_on_room", "_reserves", "_tokens", "_turn")

    def __init__(
        self,
        binding: Binding,
        reserves: list[int],
        cost: int,
        turn: int,
        on_room: Callable[[], None],
    ) -> None:
        """``reserves`` are tokens, one amount for each slice of tokens, and ``cost`` nano-euros.

        They were taken in turn ``turn``. ``on_room`` is called when something became free
        that somebody waits for.
        """
        self._binding = binding
        self._reserves = reserves
        self._cost = cost
        self._turn = turn
        self._on_room = on_room
        self._tokens = -1
        self._is_over = False

    def end(self, tokens: tuple[int, int, int] | None, cost_nano: int) -> None:
        """Settle what was reserved to what was used, and leave; exactly once.

        ``tokens`` are prompt, completion and cached tokens, None when no engine was reached.
        """
        assert not self._is_over  # a request ends once
        self._is_over = True
        binding, turn = self._binding, self._turn
        for held in binding.in_flight:
            held.used -= 1
            if held.owes:  # it is another gateway's turn
                held.owes -= 1
                held.leased -= 1
                held.returning += 1
            else:
                held.free += 1
        if binding.tokens:
            used = tokens[0] + tokens[1] if tokens is not None else 0
            self._tokens = used
            for held, reserve in zip(binding.tokens, self._reserves, strict=True):
                if turn >= held.turn:
                    held.reserved -= reserve
                    held.free += reserve - used
        if binding.budgets:
            cost = self._cost
            for held in binding.budgets:
                if turn >= held.turn:
                    held.reserved -= cost
                    held.free += cost - cost_nano
                    held.settled += cost_nano
        for held in binding.all:
            if held.waiting:  # who waits for other limits is not woken
                self._on_room()
                break

    def header_lines(self) -> bytes:
        """Return the headers that tell what is left; the cost of this query once it has ended."""
        return headers.lines(self._binding, self._tokens)


class _Unlimited(Ticket):
    """The one ticket of all requests that no limit binds."""

    __slots__ = ()

    def __init__(self) -> None:
        """Hold nothing."""

    def end(self, tokens: tuple[int, int, int] | None, cost_nano: int) -> None:
        """Give nothing back."""

    def header_lines(self) -> bytes:
        """Say nothing: a limit of 0 would be read as no allowance, and there is no number."""
        return b""


UNLIMITED: Final = _Unlimited()
