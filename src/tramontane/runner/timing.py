"""How long something has been so."""

from __future__ import annotations

import time


class Lasting:
    """One thing that is looked at again and again."""

    def __init__(self) -> None:
        self.since: float | None = None

    def held_s(self, *, is_so: bool) -> float:
        """Return for how many seconds it has been so at each look; 0 at the first."""
        now = time.monotonic()
        if not is_so:
            self.since = None
            return 0.0
        if self.since is None:
            self.since = now
        return now - self.since
