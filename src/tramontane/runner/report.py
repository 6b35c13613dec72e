"""The report: what a runner says of itself, by file and, when it was told where to, over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any, Final

from tramontane.runner import linux
from tramontane.runner.output import plain, replace_file, say
from tramontane.runner.timing import Lasting

if TYPE_CHECKING:
    from tramontane.runner.post import Poster

REPORT_EVERY_S: Final = 2.0
SHARED_EVERY_S: Final = 60.0  # where it is posted too: file systems that many nodes share are slow
LAST_REPORT_TRIES_MAX: Final = 20  # half a second apart: a full disk may get room again
_LOAD: Final = frozenset({"requests_running", "requests_waiting"})


class Report:
    """Replaces the report in a run directory; a full disk stops that, and nothing else.

    ``poster`` may be set once it is known whom to tell.
    """

    def __init__(self, run_dir: str, name: str, id_field: str, id_: str) -> None:
        self.path = f"{run_dir}/{name}"
        self.poster: Poster | None = None
        self._run_dir = run_dir
        self._fixed = {
            id_field: id_,
            "pid": os.getpid(),
            "start_ticks": linux.start_ticks(os.getpid()),
            "boot_id": linux.boot_id(),
            "node_name": os.environ.get("SLURMD_NODENAME") or os.uname().nodename,
        }
        self._unwritten = Lasting()
        self._filed: dict[str, Any] | None = None
        self._filed_at = 0.0
        self.written_at = 0.0

    @property
    def is_due(self) -> bool:
        """Tell whether it should be written though nothing changed."""
        return time.monotonic() - self.written_at >= REPORT_EVERY_S * 0.9

    def write(self, news: dict[str, Any], *, strict: bool = False) -> bool:
        """Write it and tell whether that worked; with ``strict`` raise instead."""
        self.written_at = time.monotonic()
        news = {**news, "reason": plain(news.get("reason"))}
        report = {**self._fixed, **news, "at_ms": time.time_ns() // 1_000_000}
        if self.poster is not None:
            self.poster.tell(report)
            lasting = {name: value for name, value in news.items() if name not in _LOAD}
            if lasting == self._filed and self.written_at - self._filed_at < SHARED_EVERY_S:
                return True
            self._filed, self._filed_at = lasting, self.written_at
        return self._file(report, strict=strict)

    def write_last(self, news: dict[str, Any], *, may_give_up: bool = False) -> None:
        """Write how it ended, and do not leave before that is known where it matters."""
        for _ in range(LAST_REPORT_TRIES_MAX):
            if self.write(news) or may_give_up:
                break
            self._filed = None
            time.sleep(0.5)
        if self.poster is not None and not self.poster.wait_until_told():
            say("the control plane was not told how it ended")

    def _file(self, report: dict[str, Any], *, strict: bool) -> bool:
        try:
            replace_file(self.path, json.dumps(report).encode())
        except OSError as error:
            if strict:
                raise
            self._filed = None
            if self._unwritten.held_s(is_so=True) == 0:
                say(f"cannot write {self.path}: {error.strerror}; going on without")
            with contextlib.suppress(OSError):
                os.mkdir(self._run_dir, 0o700)  # if it was removed: by its report it is found
                return self._file(report, strict=False)
            return False
        self._unwritten.held_s(is_so=False)
        return True
