"""The report: what a runner says of itself, by file."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any, Final

from tramontane.runner import linux
from tramontane.runner.output import replace_file, say
from tramontane.runner.timing import Lasting

REPORT_EVERY_S: Final = 2.0
LAST_REPORT_TRIES_MAX: Final = 20  # half a second apart: a full disk may get room again


class Report:
    """Replaces ``report.json`` of a run directory; a full disk stops it, and nothing else."""

    def __init__(self, run_dir: str, id_field: str, id_: str) -> None:
        self.path = f"{run_dir}/report.json"
        self._run_dir = run_dir
        self._fixed = {
            id_field: id_,
            "pid": os.getpid(),
            "start_ticks": linux.start_ticks(os.getpid()),
            "boot_id": linux.boot_id(),
        }
        self._unwritten = Lasting()
        self.written_at = 0.0

    @property
    def is_due(self) -> bool:
        """Tell whether it should be written though nothing changed."""
        return time.monotonic() - self.written_at >= REPORT_EVERY_S * 0.9

    def write(self, news: dict[str, Any], *, strict: bool = False) -> bool:
        """Write it and tell whether that worked; with ``strict`` raise instead."""
        self.written_at = time.monotonic()
        report = {**self._fixed, **news, "at_ms": time.time_ns() // 1_000_000}
        try:
            replace_file(self.path, json.dumps(report).encode())
        except OSError as error:
            if strict:
                raise
            if self._unwritten.held_s(is_so=True) == 0:
                say(f"cannot write report.json: {error.strerror}; going on without")
            with contextlib.suppress(OSError):
                os.mkdir(self._run_dir, 0o700)  # if it was removed: by its report it is found
                return self.write(news)
            return False
        self._unwritten.held_s(is_so=False)
        return True
