"""Carries reports about slices to the control plane, blocking, in a thread of its own.

One try per call: when to try again is the business of `admission.leases`, which knows whether a
report may have arrived.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from tramontane.domain.spending.limits import Limit
from tramontane.domain.spending.slices import Ask, Charge, Grant, Reply, Report
from tramontane.gateway.control_plane.link import ControlAwayError, ControlLink
from tramontane.gateway.limits import Limits

PATH: Final = "/internal/v1/slices"
_FILE: Final = "gateways"
_GATEWAYS_MAX: Final = 100_000
_AMOUNT_MAX: Final = 1 << 62
_PASSING: Final = frozenset({401, 403, 404, 405, 408, 429})  # may be better later


class _Report(msgspec.Struct):
    gateway: str
    holder: str
    sequence: int
    settled_holders: tuple[str, ...]
    asks: tuple[Ask, ...]


class SliceLink:
    """The thread that asks. Its answers come through ``call_soon_threadsafe``."""

    def __init__(
        self,
        link: ControlLink,
        gateway: str,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        folder: Path,
    ) -> None:
        """``folder`` remembers how many gateways there are, for a start without control plane."""
        self._file = folder / _FILE
        self.gateways = _number_in(self._file)
        self._link = link
        self._gateway = gateway
        self._loop = loop
        self._limits = limits
        self._reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._on_reply: Callable[[Reply], None] = lambda _: None
        self._on_failure: Callable[[str, bool, bool], None] = lambda *_: None
        self._thread = threading.Thread(target=self._run, name="slice-link", daemon=True)

    def start(
        self, on_reply: Callable[[Reply], None], on_failure: Callable[[str, bool, bool], None]
    ) -> None:
        """Begin."""
        self._on_reply, self._on_failure = on_reply, on_failure
        self._thread.start()

    def apply(self, limits: Mapping[str, Limit]) -> None:
        """Do nothing: the control plane knows its limits."""

    def exchange(self, report: Report, charges: tuple[Charge, ...]) -> None:  # noqa: ARG002
        """Send ``report``; what requests cost goes to the control plane as usage events."""
        self._reports.put(report)

    def close(self) -> None:
        """Stop the thread."""
        self._link.close()
        self._reports.put(None)

    def _run(self) -> None:
        while (report := self._reports.get()) is not None:
            try:
                reply = self._ask(report)
            except ControlAwayError as error:
                self._tell(self._on_failure, str(error), error.is_unsent, error.is_refused)
            else:
                self._tell(self._on_reply, reply)
        self._link.disconnect()

    def _ask(self, report: Report) -> Reply:
        wire = _Report(
            self._gateway,
            report.holder,
            report.sequence,
            report.settled_holders,
            report.asks,
        )
        status, data = self._link.request(
            "POST", PATH, msgspec.json.encode(wire), timeout_s=self._limits.slices_reply_s
        )
        if status != 200:
            msg = f"the control plane answered {status} to a report about slices"
            is_refused = 400 <= status < 500 and status not in _PASSING
            raise ControlAwayError(msg, is_refused=is_refused)
        try:
            reply = _read(data, report.asks)
        except (msgspec.MsgspecError, ValueError) as error:
            msg = f"the control plane's answer about slices is not understood: {error}"
            raise ControlAwayError(msg, is_refused=True) from error
        if reply.gateways != self.gateways:
            self.gateways = reply.gateways
            with contextlib.suppress(OSError):  # a guess for a bad day, not worth a failure
                self._file.write_text(str(reply.gateways))
        return reply

    def _tell(self, call: Callable[..., None], *values: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(call, *values)


def _number_in(path: Path) -> int:
    try:
        return min(max(1, int(path.read_text())), _GATEWAYS_MAX)
    except (OSError, ValueError):
        return 1


def _read(data: bytes, asks: tuple[Ask, ...]) -> Reply:
    """Return the reply in ``data``. Raises `msgspec.MsgspecError` or ValueError."""
    reply = msgspec.json.decode(data, type=Reply)
    if len(reply.grants) != len(asks):
        msg = f"{len(asks)} asks were answered by {len(reply.grants)} grants"
        raise ValueError(msg)
    for ask, grant in zip(asks, reply.grants, strict=True):
        if (grant.limit_id, grant.meter) != (ask.limit_id, ask.meter):
            msg = "the grants are not in the order of the asks"
            raise ValueError(msg)
        if not _is_sound(grant):
            msg = f"an amount is out of range in the grant of {grant.limit_id}"
            raise ValueError(msg)
    return reply


def _is_sound(grant: Grant) -> bool:
    amounts = (grant.granted, grant.expires_in_ms, grant.remaining, grant.retry_in_ms)
    return all(0 <= amount <= _AMOUNT_MAX for amount in (*amounts, grant.window)) and (
        -1 <= grant.bound <= _AMOUNT_MAX
    )
