"""Dead gateways whose books are ours: the control plane frees what they held once it knows.

What a gateway held of a budget stands for what its requests cost until their usage events are
accepted. So a dead gateway is reported only after everything that was in the spool when its books
were taken over has been accepted. Until then a small file remembers it, through our own death too.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_PREFIX: Final = "settled-"
_REPORTED_MAX: Final = 100  # at a time; the control plane takes no more


class SettledHolders:
    """The dead gateways that ``owner``, this process, has to report."""

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder = folder
        self._owner = owner
        self._since_s: dict[str, float] = {}
        self.handed_in_s = float("-inf")  # what was spooled before this moment was accepted

    def note(self, holder: str) -> None:
        """Remember that the books of ``holder`` are ours now, and with them those it had to report.

        Raises OSError.
        """
        for path in self._folder.glob(f"{_PREFIX}*"):
            if _text(path) == holder:
                self._own(path)
        self._own(self._folder / f"{_PREFIX}{holder}")

    def take_over(self, is_alive: Callable[[str], bool]) -> None:
        """Report also those whose reporter ended in order. Raises OSError."""
        for path in self._folder.glob(f"{_PREFIX}*"):
            by = _text(path)
            if by != self._owner and not is_alive(by):
                self._own(path)

    @property
    def is_pending(self) -> bool:
        """Tell whether somebody is to be reported, now or later."""
        return bool(self._since_s)

    def holders(self) -> tuple[str, ...]:
        """Return those of whom everything was accepted."""
        if not self._since_s:
            return ()
        found = [name for name, at in self._since_s.items() if at < self.handed_in_s]
        return tuple(found[:_REPORTED_MAX])

    def forget(self, holders: tuple[str, ...]) -> None:
        """Take note that the control plane knows."""
        for holder in holders:
            self._since_s.pop(holder, None)
            with contextlib.suppress(OSError):
                (self._folder / f"{_PREFIX}{holder}").unlink()

    def _own(self, path: Path) -> None:
        path.write_text(self._owner)
        self._since_s[path.name[len(_PREFIX) :]] = time.monotonic()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
