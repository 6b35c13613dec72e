"""Carries what the Responses API asks of the control plane, blocking, in threads of its own.

Its answers come back to the loop. A call is made again at once when it found a kept connection
dead; every call may be repeated without harm. Then it is for the asker to try again.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tramontane.gateway.control_plane.link import ControlAwayError, ControlLink

THREADS: Final = 4  # a write takes the control plane milliseconds; these bear hundreds a second
TIMEOUT_S: Final = 5.0
_QUICK_S: Final = 1.0  # what failed sooner may have met a connection that was being closed
AWAY: Final = 0  # the status of a call that was not answered

# Gets the status and the body, on the loop.
Told = Callable[[int, bytes], None]


class StoredLink:
    """A few connections to the control plane, each with its thread, made when they are needed."""

    def __init__(self, link: ControlLink, loop: asyncio.AbstractEventLoop) -> None:
        """``link`` is only the pattern of the links."""
        self._pattern = link
        self._loop = loop
        self._pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="stored-link")
        self._own = threading.local()
        self._links: list[ControlLink] = []

    def ask(self, method: str, path: str, body: bytes | None, told: Told) -> None:
        """Make one call and tell its answer, soon; `AWAY` when there is none."""
        with contextlib.suppress(RuntimeError):  # it is closed: nobody waits for an answer
            self._pool.submit(self._run, method, path, body, told)

    def close(self) -> None:
        """Make no more calls, and end those that wait for an answer."""
        for link in list(self._links):
            link.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Wait for the threads, and disconnect; after `close`."""
        self._pool.shutdown(wait=True)
        for link in self._links:
            link.disconnect()

    def _run(self, method: str, path: str, body: bytes | None, told: Told) -> None:
        status, data = self._answer(method, path, body)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(told, status, data)

    def _answer(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        link = self._link()
        began_s = time.monotonic()
        for _ in range(2):
            with contextlib.suppress(ControlAwayError):
                return link.request(method, path, body, timeout_s=TIMEOUT_S)
            if link.closed.is_set() or time.monotonic() - began_s > _QUICK_S:
                break
        return AWAY, b""

    def _link(self) -> ControlLink:
        link: ControlLink | None = getattr(self._own, "link", None)
        if link is None:
            link = self._own.link = self._pattern.another()
            self._links.append(link)
        return link
