"""Shows on standard error what a command waits for."""

import sys
from typing import TextIO

from tramontane.cli.output import one_line

_SPINNER = "|/-\\"


class Progress:
    """One line that changes in place on a terminal; elsewhere a line for each change."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._told = ""
        self._turn = 0

    def show(self, told: str) -> None:
        """Show ``told`` as what is going on now."""
        told = one_line(told)
        if self._live:
            self._turn += 1
            spinner = _SPINNER[self._turn % len(_SPINNER)]
            self._stream.write(f"\r\x1b[2K{spinner} {told}")
            self._stream.flush()
        elif told != self._told:
            self._stream.write(f"{told}\n")
            self._stream.flush()
        self._told = told

    def clear(self) -> None:
        """Take the line away, so that a result can be printed in its place."""
        if self._live and self._told:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
