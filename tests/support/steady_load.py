"""Load that goes on in a thread of its own while a test changes the world under it."""

import asyncio
import threading

from tests.support.load import Ending, Load, endless_asks
from tests.support.system import DEMO, System
from tests.support.waiting import until

CONNECTIONS = 8


class SteadyLoad:
    """Load that runs in a thread of its own until stopped."""

    def __init__(self, system: System) -> None:
        asks = endless_asks(DEMO, seed=7)
        self._load = Load(system.port, system.api_key, asks, CONNECTIONS)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._load.run()))
        self._thread.start()

    @property
    def answered(self) -> int:
        """How many requests were answered so far."""
        return self._load.counts()["answered"]

    def stop(self) -> list[Ending]:
        """Finish what is in flight; returns every request's ending."""
        self._load.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self._load.endings

    def go_on(self, requests: int = 40) -> None:
        """Wait until another ``requests`` were answered."""
        wanted = self.answered + requests
        until(lambda: self.answered >= wanted, f"{requests} more answers")


def failures(endings: list[Ending]) -> list[Ending]:
    """Return the requests that were not answered."""
    return [ending for ending in endings if ending.how != "answered"]


def told(endings: list[Ending]) -> str:
    """Return what went wrong, one line each, the first few."""
    lines = [f"{e.began_s:.3f}-{e.ended_s:.3f} {e.how} {e.status} {e.detail}" for e in endings]
    return "\n".join([f"{len(endings)} failed", *lines[:5]])
