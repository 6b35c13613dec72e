"""Keeps the route table fresh: a thread that long-polls the control plane for the next revision.

Without a control plane the gateway goes on with the last good table, from memory or, at the
start, from disk.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tramontane.domain.routing import RouteTable
from tramontane.gateway import routes
from tramontane.gateway.control_plane.link import ControlAwayError, ControlLink
from tramontane.gateway.limits import Limits

LOG: Final = logging.getLogger("tramontane.gateway.poller")
_FIRST_RETRY_S: Final = 0.1
_QUICK_S: Final = 0.05
_PATH: Final = "/internal/v1/route-table?revision={}&wait_s={}"


class RoutePoller(threading.Thread):
    """Fetches tables and gives each to ``apply``, which must take it over to the loop itself."""

    def __init__(
        self,
        link: ControlLink,
        folder: Path,
        apply: Callable[[RouteTable], None],
        limits: Limits,
    ) -> None:
        super().__init__(name="route-poller", daemon=True)
        self._link = link
        self._folder = folder
        self._apply = apply
        self._limits = limits
        # The first poll takes whatever there is: after a restored backup the control plane's
        # revision may be older than the one on our disk.
        self._revision = 0
        self.answered_s = time.monotonic()  # when the control plane last answered

    def run(self) -> None:
        """Poll until the link is closed; pause longer after each failure."""
        retry_s = _FIRST_RETRY_S
        while not self._link.closed.is_set():
            try:
                self.poll_once()
                retry_s = _FIRST_RETRY_S
            except (ControlAwayError, routes.TableError) as error:
                if self._link.closed.is_set():
                    break
                LOG.warning("no new route table, next try in %.1f s: %s", retry_s, error)
                self._link.closed.wait(retry_s)
                retry_s = min(retry_s * 2, self._limits.retry_s_max)
        self._link.disconnect()

    def poll_once(self) -> None:
        """Wait for the next revision and apply it. Raises `ControlAwayError`, `TableError`."""
        wait_s = self._limits.poll_wait_s
        path = _PATH.format(self._revision, wait_s)
        began_s = time.monotonic()
        status, data = self._link.request("GET", path, timeout_s=wait_s + 10.0)
        if status in {200, 304}:
            self.answered_s = time.monotonic()
        if status == 304:
            if time.monotonic() - began_s < _QUICK_S:
                self._link.closed.wait(_FIRST_RETRY_S)  # it does not wait for us: do not race
            return
        if status != 200:
            msg = f"the control plane answered {status} to the poll for the route table"
            raise ControlAwayError(msg)
        table = routes.decode(data)
        self._revision = table.revision
        self._apply(table)
        try:
            routes.save(self._folder, table)
        except OSError as error:
            LOG.error("the route table could not be kept on disk: %s", error)

    def close(self) -> None:
        """Stop the thread."""
        self._link.close()
