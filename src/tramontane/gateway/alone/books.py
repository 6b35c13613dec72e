"""What becomes of usage events where no control plane takes them.

With a home they stay in the spool, and a gateway that is started on it with ``--control`` hands
them over. Without one the folder goes with the process: the oldest files go before, so that a
long run does not fill the disk.
"""

import asyncio
from typing import Final

from tramontane.gateway.metering.meter import Meter

KEPT_BYTES: Final = 64 * 1024 * 1024  # some 130,000 events: the last minutes, to look at
_LOOK_S: Final = 1.0


class PassingBooks:
    """Drops the oldest spool files beyond `KEPT_BYTES`."""

    def __init__(self, meter: Meter, loop: asyncio.AbstractEventLoop) -> None:
        self._meter = meter
        self._loop = loop
        self._next: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look now, then every second."""
        sealed = [segment for segment in self._meter.segments if segment.is_sealed]
        excess = sum(segment.size for segment in sealed) - KEPT_BYTES
        for segment in sealed:
            if excess <= 0:
                break
            excess -= segment.size
            self._meter.drop(segment)
        self._next = self._loop.call_later(_LOOK_S, self.start)

    def close(self) -> None:
        """Stop looking."""
        if self._next is not None:
            self._next.cancel()
