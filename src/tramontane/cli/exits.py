"""Exit codes of every command: scripts rely on them, so they never change meaning."""

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """What a command's end means."""

    DONE = 0
    FAILED = 1  # refused by the server, or any other error
    USAGE = 2
    NOT_FOUND = 3
    NOT_AUTHORIZED = 4
    CONFLICT = 5
    UNAVAILABLE = 6  # nobody answered, try later, or a wait that took too long
    INTERRUPTED = 130  # Ctrl-C, as shells have it: 128 + SIGINT


EPILOG: Final = (
    "Exit codes: 0 done; 1 refused by the server or failed; 2 wrong usage; 3 not found; "
    "4 not authorized; 5 conflict; 6 unavailable or timed out; 130 Ctrl-C."
)


def with_example(line: str) -> str:
    """Return the end of a help page that shows a command line, without ``tramontane``."""
    return f"\b\nExample: tramontane {line}\n\n{EPILOG}"


class CommandError(Exception):
    """Ends a command with one line on standard error and ``code``."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code
