"""Grants slices by the control plane's own rules, in memory: for a gateway that runs alone."""

import asyncio
from collections.abc import Callable, Mapping

from tramontane.domain.spending import slices
from tramontane.domain.spending.limits import Limit
from tramontane.domain.spending.slices import Books, Charge, Outdated, Reply, Report
from tramontane.runtime.clock import Clock


class LocalAuthority:
    """One `Books` of the process. What was spent is forgotten with it."""

    gateways = 1

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._books = Books()
        self._limits: Mapping[str, Limit] = {}
        self._on_reply: Callable[[Reply], None] = lambda _: None

    def start(
        self,
        on_reply: Callable[[Reply], None],
        on_failure: Callable[[str, bool, bool], None],  # noqa: ARG002 - it never fails
    ) -> None:
        """Begin."""
        self._on_reply = on_reply

    def apply(self, limits: Mapping[str, Limit]) -> None:
        """Grant by ``limits`` from now on."""
        self._limits = limits

    def exchange(self, report: Report, charges: tuple[Charge, ...]) -> None:
        """Answer ``report`` in the next turn of the loop."""
        self._loop.call_soon(self._answer, report, charges)

    def _answer(self, report: Report, charges: tuple[Charge, ...]) -> None:
        books = slices.settle(self._books, charges)
        reply, self._books = slices.exchange(books, self._limits, report, self._clock.now_ms())
        assert not isinstance(reply, Outdated)  # one gateway counts its reports up
        self._on_reply(reply)

    def close(self) -> None:
        """Do nothing: there is no thread."""
