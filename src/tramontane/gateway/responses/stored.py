"""What is stored of responses, seen from a gateway: it brings them and asks for conversations.

While a response runs in the background, the control plane hears of it every second and answers
which ones to stop: cancelled or deleted by anyone, through any gateway. A gateway that falls
silent has lost its responses, and the control plane says so in its place.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote

import orjson

from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.routing import RouteKey
from tramontane.gateway.control_plane.stored_link import AWAY, StoredLink, Told

if TYPE_CHECKING:
    from tramontane.gateway.calls.responses.call import ResponsesCall

LOG: Final = logging.getLogger("tramontane.gateway.responses")
PATH: Final = "/internal/v1/responses"
REPORT_S: Final = 1.0
RETRY_S: Final = 1.0
# Of requests that wait for the control plane: beyond them, and this long after it did not answer,
# none waits, so that a control plane that hangs holds up nobody for longer than it must.
WAITING_MAX: Final = 128
WAITING_PROJECT_MAX: Final = 64  # of one project: half, so that one cannot fill it
AWAY_S: Final = 1.0
RUNS_MAX: Final = 512  # in the background at a time; each keeps its answer in memory
RUNS_PROJECT_MAX: Final = 256  # of one project: the same
NOT_REACHED: Final = Refusal(
    Code.UNAVAILABLE,
    "stored responses cannot be reached now, so nothing was asked of the model: try again, or "
    "send 'store': false",
    "store",
    1,
)
ALONE: Final = Refusal(
    Code.INVALID_VALUE,
    "this gateway runs without a control plane, so no response is stored: send the earlier items "
    "in 'input'",
    "previous_response_id",
)
_KNOWN_CODES: Final = frozenset(code.value for code in Code)

Item = dict[str, Any]


class Run(Protocol):
    """A response that runs in the background."""

    id: str
    project_id: str
    has_begun: bool

    def stop(self) -> None:
        """End it: nobody wants it any more."""
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """A response in the background that is over, and who is told once that is stored."""

    project_id: str
    response: Mapping[str, Any]
    told: Callable[[], None]


class StoredResponses:
    """One gateway's dealings with what is stored. Everything happens on the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, link: StoredLink, gateway: str, holder: str
    ) -> None:
        """``holder`` names this life of the process, ``gateway`` all of its lives."""
        self._loop = loop
        self._link = link
        self._gateway = gateway
        self._holder = holder[-64:]
        self._runs: dict[str, Run] = {}
        self._next_report: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._unsaved = 0
        self._waiting: Counter[str] = Counter()  # by project
        self._away_until = 0.0

    def has_room(self, project_id: str) -> bool:
        """Tell whether one more response of the project may run in the background."""
        mine = sum(run.project_id == project_id for run in self._runs.values())
        return len(self._runs) < RUNS_MAX and mine < RUNS_PROJECT_MAX

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is left to be stored."""
        return not self._unsaved

    def look(self, project_id: str, told: Callable[[bool], None]) -> None:
        """Tell whether what is stored now would be."""

        def read(status: int, _: bytes) -> None:
            told(status == 200)

        self._ask_for(project_id, "POST", "/report", self._report(), read)

    def history(
        self, project_id: str, response_id: str, told: Callable[[list[Item] | Refusal], None]
    ) -> None:
        """Tell the items of the conversation that ``response_id`` ends, or why there is none."""
        path = f"/{quote(response_id, safe='')}/history?project_id={quote(project_id, safe='')}"

        def read(status: int, data: bytes) -> None:
            told(orjson.loads(data)["items"] if status == 200 else _refusal_of(status, data))

        self._ask_for(project_id, "GET", path, None, read)

    def keep(
        self,
        key: RouteKey,
        call: "ResponsesCall",
        response: Mapping[str, Any],
        told: Callable[[Refusal | None], None],
    ) -> None:
        """Store ``response`` and tell when it is; else why it is not."""
        wish = {
            "organization_id": key.organization_id,
            "project_id": key.project_id,
            "api_key_id": key.id,
            "holder": self._holder,
            "response": response,
            "input_items": call.items,
        }

        def read(status: int, data: bytes) -> None:
            told(None if status == 200 else _refusal_of(status, data))

        self._ask_for(key.project_id, "POST", "", wish, read)

    # In the background.

    def begin(self, run: Run) -> None:
        """Speak for ``run`` from now on."""
        self._runs[run.id] = run
        if self._next_report is None and not self._is_closed:
            self._next_report = self._loop.call_later(REPORT_S, self._tell)

    def end(self, run: Run, ended: Ended) -> None:
        """Store the end of ``run``, as often as it takes."""
        self._unsaved += 1
        self._save(run, ended)

    def drop(self, run: Run) -> None:
        """Speak no more of ``run``."""
        self._runs.pop(run.id, None)

    def close(self) -> None:
        """Speak no more."""
        self._is_closed = True
        if self._next_report is not None:
            self._next_report.cancel()
        self._link.close()

    def join(self) -> None:
        """Wait for the end of what was being said; after `close`."""
        self._link.join()

    def _save(self, run: Run, ended: Ended) -> None:
        wish = {"project_id": ended.project_id, "response": ended.response}
        self._ask("PUT", "", wish, partial(self._on_saved, run, ended))

    def _on_saved(self, run: Run, ended: Ended, status: int, data: bytes) -> None:
        if status == AWAY or status >= 500:
            if not self._is_closed:
                self._loop.call_later(RETRY_S, self._save, run, ended)
            return
        if status not in {200, 404}:  # deleted meanwhile is 404
            LOG.error("the end of %s was not stored: %s", run.id, _refusal_of(status, data).message)
        self._unsaved -= 1
        self.drop(run)
        ended.told()

    def _tell(self) -> None:
        self._next_report = None
        if self._runs and not self._is_closed:
            self._ask("POST", "/report", self._report(), self._on_orders)

    def _on_orders(self, status: int, data: bytes) -> None:
        if status == 200:
            for response_id in orjson.loads(data)["stop"]:
                run = self._runs.get(response_id)
                if run is not None:
                    run.stop()
        if self._runs and not self._is_closed and self._next_report is None:
            self._next_report = self._loop.call_later(REPORT_S, self._tell)

    def _report(self) -> dict[str, Any]:
        runs: Sequence[Run] = list(self._runs.values())
        return {
            "gateway": self._gateway,
            "holder": self._holder,
            "queued": [run.id for run in runs if not run.has_begun],
            "in_progress": [run.id for run in runs if run.has_begun],
        }

    def _ask_for(self, project_id: str, method: str, path: str, value: object, told: Told) -> None:
        """Ask for a request that waits for the answer."""
        waiting = self._waiting
        is_full = (
            waiting.total() >= WAITING_MAX or waiting.get(project_id, 0) >= WAITING_PROJECT_MAX
        )
        if is_full or self._loop.time() < self._away_until:
            told(AWAY, b"")
            return
        waiting[project_id] += 1

        def answer(status: int, data: bytes) -> None:
            waiting[project_id] -= 1
            if not waiting[project_id]:
                del waiting[project_id]
            if status == AWAY:
                self._away_until = self._loop.time() + AWAY_S
            told(status, data)

        self._ask(method, path, value, answer)

    def _ask(self, method: str, path: str, value: object, told: Told) -> None:
        body = None if value is None else orjson.dumps(value)
        self._link.ask(method, PATH + path, body, told)


def _refusal_of(status: int, data: bytes) -> Refusal:
    """Return what the control plane's answer with an error says."""
    if status == AWAY or status >= 500:
        return NOT_REACHED
    try:
        error = orjson.loads(data)["error"]
        code, message, param = error["code"], error["message"], error["param"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return NOT_REACHED
    if code not in _KNOWN_CODES or status == 401:
        return NOT_REACHED
    return Refusal(Code(code), message, param)
