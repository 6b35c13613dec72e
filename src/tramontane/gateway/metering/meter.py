"""The meter: what an exchange calls so that its request is counted exactly once.

The order of one request, and what a ``kill -9`` at each point leaves (everything written is in
the kernel's page cache, which outlives the process):

1. `admit` reserves spool room.              Nothing yet: no event, and no engine saw anything.
2. `begin` writes the slot, `arm` makes it   The slot: the next start makes a *cut* event of it.
   count, and the very next call writes      Between the store and the write lie some 100 ns in
   the request's bytes to the socket.        which a request that no engine saw would be counted.
3. Chunks pass, the slot counts them.        The slot, with the chunks: a cut event.
4. `finish` appends the event to the spool.  A torn line does not count; the slot still stands.
5. ... and frees the slot.                   Between 4 and 5 both exist: recovery finds the event
                                             in the spool, where it is the last line, and ignores
                                             the slot; the event ids are equal anyway.
6. The reply's last bytes go out.            The event says what the client could have read.

The spool is sent until accepted, so an event may be sent twice; the control plane keeps ids for
ever. Events are synced to the disk in groups a few milliseconds later, in a thread: a power cut
may lose those milliseconds, a dead process loses nothing. Nothing is served that could not be
counted: without spool room or slots `admit` says why, and the request is refused.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tramontane.gateway.limits import Limits
from tramontane.gateway.metering import recovery
from tramontane.gateway.metering.events import Started, UsageLine, encode
from tramontane.gateway.metering.inflight import InflightTable
from tramontane.gateway.metering.settled import SettledHolders
from tramontane.gateway.metering.spool import Segment, Spool
from tramontane.runtime.clock import Clock

# A request that is tried again takes its new slot before it leaves the old one.
_SPARE_SLOTS: Final = 64

LOG: Final = logging.getLogger("tramontane.gateway.meter")


class Meter:
    """Slots and spool of one gateway. Every method but `close` belongs to the loop's thread."""

    def __init__(
        self, folder: Path, *, owner: str, gateway: str, clock: Clock, limits: Limits
    ) -> None:
        """``owner`` names this process among all that share ``folder``; ``gateway`` is told."""
        self.gateway = gateway
        self.owner = owner
        self.settled = SettledHolders(folder, owner)
        self._folder = folder
        self._clock = clock
        self._limits = limits
        self._spool = Spool(folder / "spool", owner, limits)
        self._table: InflightTable | None = None
        self._unwritten: list[tuple[UsageLine, int]] = []
        self._syncer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool-sync")
        self._sync_due: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.on_event: Callable[[], None] = lambda: None

    def open(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Take the folder, settle what dead gateways left. A full disk is tried again later.

        Without a ``loop`` nothing is synced before `seal`.
        """
        self._loop = loop
        try:
            self._open_table()
        except OSError as error:
            LOG.error("metering is off, requests are refused: %s", error)

    def admit(self) -> str | None:
        """Reserve all that counting one more request needs; return why not when it cannot be."""
        if self._table is None:
            try:
                self._open_table()
            except OSError as error:
                return os.strerror(error.errno or 0).lower()
        if self._unwritten:
            self.retry_unwritten()
            if self._unwritten:
                return "usage events cannot be written"
        if self._table is not None and self._table.in_use >= self._limits.inflight_max:
            return "too many requests are being served"
        return self._spool.reserve()

    def dismiss(self) -> None:
        """Take back an `admit` whose request reached no engine."""
        self._spool.release()

    def begin(self, started: Started) -> int:
        """Write the admitted request into a slot and return it; `arm` makes the slot count."""
        table = self._table
        assert table is not None  # `admit` opened it
        slot = table.claim(encode(started))
        assert slot is not None  # `admit` looked
        return slot

    def arm(self, slot: int) -> None:
        """Make ``slot`` count from now on."""
        assert self._table is not None
        self._table.arm(slot)

    def forget(self, slot: int) -> None:
        """Take back a `begin` whose request reached no engine after all."""
        assert self._table is not None
        self._table.free(slot)

    def count(self, slot: int, chunks: int) -> None:
        """Set how many pieces of the stream have passed."""
        assert self._table is not None
        self._table.chunks[slot] = chunks

    def note_prompt(self, slot: int, tokens: int, cached: int) -> None:
        """Note what an engine told of a prompt before its answer."""
        assert self._table is not None
        self._table.note_prompt(slot, tokens, cached)

    def finish(self, slot: int, line: UsageLine) -> None:
        """Write the event, then free the slot. On a write error both wait for a better time."""
        assert self._table is not None
        try:
            fd = self._spool.append(encode(line))
        except OSError as error:
            LOG.error("usage event %s waits: %s", line.id, error)
            self._unwritten.append((line, slot))
            return
        self._table.free(slot)
        self._schedule_sync(fd)
        self.on_event()

    def touch(self) -> None:
        """Give a sign of life and write what could not be written before; call it regularly."""
        if self._table is not None:
            self._table.touch(self._clock.now_ms())
        if self._unwritten:
            self.retry_unwritten()

    def retry_unwritten(self) -> None:
        """Try the events again that a write error kept back."""
        waiting, self._unwritten = self._unwritten, []
        for line, slot in waiting:
            self.finish(slot, line)

    @property
    def segments(self) -> list[Segment]:
        """Return the spool's segments, for the shipper's eyes only."""
        return self._spool.segments

    @property
    def spooled(self) -> int:
        """Return how many events came into the spool since the start, what it found included."""
        return self._spool.lines

    def drop(self, segment: Segment) -> None:
        """Forget a segment of which everything was accepted."""
        self._spool.drop(segment)

    @property
    def in_use(self) -> int:
        """Return how many requests are in flight."""
        return self._table.in_use if self._table else 0

    def seal(self) -> None:
        """Sync and close the spool: nothing is served any more, the shipper may still send."""
        if self._sync_due is not None:
            self._sync_due.cancel()
        self._syncer.shutdown(wait=True)
        self._spool.close()

    def adopt_drained(self) -> None:
        """Take over what gateways in our folder could not hand in before they ended in order."""
        if self._table is None:
            return
        try:
            recovery.settle(
                self._folder, self._spool, self.settled, self.gateway, drained_only=True
            )
        except OSError as error:
            LOG.warning("what an ended gateway left is looked at later: %s", error)
        self.on_event()

    def close(self) -> None:
        """Let go of the folder. What was not shipped or settled waits for the next start."""
        if self._table is not None:
            nothing_left = not self._spool.segments and not self._table.in_use
            self._table.close(remove=nothing_left)
            self._table = None

    def _open_table(self) -> None:
        spool_folder = self._folder / "spool"
        spool_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        slots = self._limits.inflight_max + _SPARE_SLOTS
        table = InflightTable(recovery.table_path(self._folder, self.owner), slots)
        try:
            table.touch(self._clock.now_ms())
            recovery.settle(self._folder, self._spool, self.settled, self.gateway)
        except OSError:
            table.close(remove=True)
            raise
        self._table = table
        self.on_event()

    def _schedule_sync(self, fd: int) -> None:
        if self._sync_due is None and self._loop is not None:
            self._sync_due = self._loop.call_later(self._limits.sync_s, self._sync, fd)

    def _sync(self, fd: int) -> None:
        self._sync_due = None
        self._syncer.submit(_sync_file, fd)
        self._spool.rotate_if_full(self._retire)

    def _retire(self, fd: int) -> None:
        self._syncer.submit(_retire_file, fd)


def _sync_file(fd: int) -> None:
    try:
        os.fdatasync(fd)
    except OSError as error:
        LOG.error("spool sync failed: %s", error)


def _retire_file(fd: int) -> None:
    _sync_file(fd)
    os.close(fd)
