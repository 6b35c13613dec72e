"""Waiting for a newer route table, by any number of gateways at the cost of one.

A waiting request holds no thread and asks nothing: it waits for an event of the event loop. While
anyone waits, one task reads the revision (one indexed row) every `POLL_INTERVAL_S` and wakes all
of them when it changed. What the reconciler of this process publishes it `tell`s: a request that
waits for a first replica cannot spare that interval. What another copy of the control plane
publishes is found by looking.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from starlette.concurrency import run_in_threadpool

from tramontane.store.errors import StoreUnavailableError

_log = logging.getLogger(__name__)

# A revoked key must stop working within 5 s at every gateway; two reads a second cost 0.1 % of a
# core.
POLL_INTERVAL_S: Final = 0.5


class RevisionWatch:
    """Belongs to one event loop, that of the requests."""

    def __init__(
        self, read_revision: Callable[[], int], poll_interval_s: float = POLL_INTERVAL_S
    ) -> None:
        self._read_revision = read_revision
        self._poll_interval_s = poll_interval_s
        self._waiting = 0
        self._seen = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        self._is_closed = False

    async def wait_for_other(self, revision: int, wait_s: float) -> None:
        """Return when the revision is not ``revision``, or after ``wait_s`` seconds.

        It is lower after the database was restored from a backup: then, too, the gateway's copy
        is not the current one. Raises `StoreUnavailableError` when the first look fails.
        """
        self._loop = asyncio.get_running_loop()
        self._note(await run_in_threadpool(self._read_revision))
        if self._seen != revision or self._is_closed:
            return
        self._waiting += 1
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(wait_s):
                while self._seen == revision and not self._is_closed:
                    await self._changed.wait()
        except TimeoutError:
            return
        finally:
            self._waiting -= 1

    @property
    def is_awaited(self) -> bool:
        """Tell whether anyone waits now."""
        return self._waiting > 0

    def tell(self, revision: int) -> None:
        """Wake those who wait for another revision than the one that was just published.

        May be called from any thread.
        """
        loop = self._loop
        if loop is not None:
            # Closed already, when the process is ending: then nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._note, revision)

    def close(self) -> None:
        """Let everyone who waits go, now and from now on: the process is to end.

        May be called from any thread and from a signal handler.
        """
        self._is_closed = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake)

    async def _poll(self) -> None:
        try:
            while self._waiting and not self._is_closed:
                await asyncio.sleep(self._poll_interval_s)
                try:
                    self._note(await run_in_threadpool(self._read_revision))
                except StoreUnavailableError as error:
                    _log.warning("the revision of the route table cannot be read: %s", error)
        finally:
            self._poller = None

    def _note(self, revision: int) -> None:
        if revision != self._seen:
            self._seen = revision
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
