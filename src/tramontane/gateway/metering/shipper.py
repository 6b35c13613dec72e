"""Hands the spool's events to the control plane: batch after batch, until each was accepted.

At least once: a batch whose answer is lost is sent again, and the control plane keeps the ids.
An event that the control plane calls malformed is set aside in ``rejected.jsonl`` beside the
spool: it must neither be lost nor hold up the others.
"""

import asyncio
import logging
import os
import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from tramontane.gateway.control_plane.link import ControlAwayError, ControlLink
from tramontane.gateway.limits import Limits
from tramontane.gateway.metering.meter import Meter
from tramontane.gateway.metering.spool import Segment, read_lines

LOG: Final = logging.getLogger("tramontane.gateway.shipper")
PATH: Final = "/internal/v1/usage-events"
_FIRST_RETRY_S: Final = 0.2


class _Rejected(msgspec.Struct):
    index: int
    reason: str = ""


class _Answer(msgspec.Struct):
    accepted: int = 0
    duplicates: int = 0
    rejected: list[_Rejected] = []


class Shipper(threading.Thread):
    """The thread that empties the spool."""

    def __init__(
        self,
        meter: Meter,
        link: ControlLink,
        folder: Path,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
    ) -> None:
        super().__init__(name="usage-shipper", daemon=True)
        self._meter = meter
        self._link = link
        self._folder = folder
        self._loop = loop
        self._limits = limits
        self._wake = threading.Event()
        self._dropped: Segment | None = None
        self._reading: Segment | None = None
        self._at = 0
        self.shipped = 0

    def wake(self) -> None:
        """Say that there is something to send; cheap enough for every event."""
        if not self._wake.is_set():
            self._wake.set()

    def run(self) -> None:
        """Send what there is, then sleep until woken; pause longer after each failure."""
        retry_s = _FIRST_RETRY_S
        while not self._link.closed.is_set():
            self._wake.clear()
            try:
                while (sent := self.ship_one()) is not None:
                    retry_s = _FIRST_RETRY_S
                    is_behind = sent >= self._limits.ship_batch
                    if not is_behind and self._link.closed.wait(self._limits.ship_pause_s):
                        break
            except (ControlAwayError, OSError) as error:
                if self._link.closed.is_set():
                    break
                LOG.warning("usage events wait, next try in %.1f s: %s", retry_s, error)
                self._link.closed.wait(retry_s)
                retry_s = min(retry_s * 2, self._limits.retry_s_max)
                continue
            if not self._link.closed.is_set():
                self._wake.wait()
        self._link.disconnect()

    def ship_one(self) -> int | None:
        """Send one batch; return its size, or None when there is nothing to do.

        Raises `ControlAwayError` or OSError.
        """
        began_s = time.monotonic()
        segment = self._oldest()
        if segment is None:
            self._meter.settled.handed_in_s = began_s
            return None
        if segment is not self._reading:  # an older one was adopted meanwhile
            self._reading, self._at = segment, 0
        is_last = segment is self._meter.segments[-1]
        lines, end = read_lines(segment, self._at, self._limits.ship_batch)
        if lines:
            self._send(lines)
            self._at = end
            self.shipped += len(lines)
        if is_last and len(lines) < self._limits.ship_batch:
            self._meter.settled.handed_in_s = began_s
        if segment.is_sealed and self._at >= segment.size:
            self._dropped = segment
            self._drop(segment)
            return self._limits.ship_batch  # the next segment may be waiting
        return len(lines) or None

    def close(self) -> None:
        """Stop the thread; what was not accepted stays in the spool."""
        self._link.close()
        self._wake.set()

    def _oldest(self) -> Segment | None:
        for segment in list(self._meter.segments):
            if segment is not self._dropped:
                return segment
        return None

    def _drop(self, segment: Segment) -> None:
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._meter.drop, segment)
        else:
            self._meter.drop(segment)

    def _send(self, lines: list[bytes]) -> None:
        body = b'{"events":[' + b",".join(lines) + b"]}"
        status, data = self._link.request("POST", PATH, body)
        if status != 200:
            msg = f"the control plane answered {status} to usage events"
            raise ControlAwayError(msg)
        try:
            answer = msgspec.json.decode(data, type=_Answer)
        except msgspec.DecodeError as error:
            msg = "the control plane's answer to usage events is not understood"
            raise ControlAwayError(msg) from error
        rejected = [item for item in answer.rejected if 0 <= item.index < len(lines)]
        if rejected:
            self._set_aside([lines[item.index] for item in rejected])
            LOG.error("%d usage events were rejected: %s", len(rejected), rejected[0].reason)

    def _set_aside(self, lines: list[bytes]) -> None:
        path = self._folder / "rejected.jsonl"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"\n".join(lines) + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
