"""Reports demand to the control plane, from a thread of its own so that no request waits for it.

Only the newest figures matter: while a report is on its way, or the control plane is away, newer
ones replace those that were not sent yet.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import orjson

from tramontane.gateway.control_plane.link import ControlAwayError, ControlLink
from tramontane.gateway.routing.demand import Figures

LOG: Final = logging.getLogger("tramontane.gateway.demand")
PATH: Final = "/internal/v1/demand"
_DEPLOYMENTS_MAX: Final = 1_000  # in one report: the control plane takes no more
_PAUSE_S: Final = 1.0  # after a failure; the next reading comes this soon anyway


class DemandReporter(threading.Thread):
    """The thread that reports."""

    def __init__(self, link: ControlLink, gateway: str, holder: str) -> None:
        """``holder`` names this life of the process, ``gateway`` all of its lives."""
        super().__init__(name="demand-reporter", daemon=True)
        self._link = link
        self._gateway = gateway
        self._holder = holder
        self._lock = threading.Lock()
        self._next: dict[str, Figures] = {}
        self._wake = threading.Event()
        self._is_away = False

    def tell(self, figures: Sequence[Figures]) -> None:
        """Report ``figures`` soon; from any thread, without waiting for the network."""
        with self._lock:
            self._next.update((item.deployment_id, item) for item in figures)
        self._wake.set()

    def run(self) -> None:
        """Report whenever there is something, until the link is closed."""
        while not self._link.closed.is_set():
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                figures, self._next = list(self._next.values()), {}
            if not figures:
                continue
            try:
                for at in range(0, len(figures), _DEPLOYMENTS_MAX):
                    self._report(figures[at : at + _DEPLOYMENTS_MAX])
                self._is_away = False
            except ControlAwayError as error:
                if self._link.closed.is_set():
                    break
                if not self._is_away:
                    LOG.warning("the control plane does not hear of demand: %s", error)
                self._is_away = True
                self._keep(figures)
                self._link.closed.wait(_PAUSE_S)
        self._link.disconnect()

    def close(self) -> None:
        """Stop the thread."""
        self._link.close()
        self._wake.set()

    def _report(self, figures: Sequence[Figures]) -> None:
        body = {
            "gateway": self._gateway,
            "holder": self._holder,
            "deployments": [asdict(item) for item in figures],
        }
        status, _ = self._link.request("POST", PATH, orjson.dumps(body))
        if status != 200:
            msg = f"it answered {status} to a report of demand"
            raise ControlAwayError(msg)

    def _keep(self, figures: Sequence[Figures]) -> None:
        """Put back what was not heard, where nothing newer has come."""
        with self._lock:
            self._next = {item.deployment_id: item for item in figures} | self._next
        self._wake.set()
