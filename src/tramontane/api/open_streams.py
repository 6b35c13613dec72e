"""How many replies that stay open one tenant may have at a time.

A log that is followed costs a connection, and a look at the database and at a file three times a
second, for as long as its reader likes: without a bound one project's readers could take all
that this process has. It counts what this process serves, and belongs to its event loop.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import Principal

PER_PROJECT_MAX: Final = 32  # a terminal for every node of a rack, and as many again
PER_KEY_MAX: Final = 16  # a script that forgets to hang up leaves its colleagues half of them
_RETRY_S: Final = 5


class OpenStreams:
    """Counts the streams that are open, by project and by key."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def held(self, principal: Principal) -> Iterator[None]:
        """Hold a place of the reader's project and key; refused when either has none left.

        The reader's own project, not that of what it reads: operators take no tenant's places.
        """
        bounds = (
            (principal.project_id, PER_PROJECT_MAX, "project"),
            (principal.key_id, PER_KEY_MAX, "API key"),
        )
        for holder, places, noun in bounds:
            if self._open[holder] >= places:
                raise _no_place(noun, places)
        for holder, _, _ in bounds:
            self._open[holder] += 1
        try:
            yield
        finally:
            for holder, _, _ in bounds:
                self._open[holder] -= 1
                if not self._open[holder]:
                    del self._open[holder]


class HeldStream(StreamingResponse):
    """A stream of text that holds a place from before its first byte until it has ended.

    The place is taken here, not by the route: whatever ends the reply (its last byte, a client
    that went away, an error, the end of the process) then gives it back. Refused with 429.
    """

    def __init__(
        self,
        content: AsyncIterator[bytes],
        streams: OpenStreams,
        principal: Principal,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(content, headers=headers, media_type="text/plain; charset=utf-8")
        self._streams = streams
        self._principal = principal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply, or refuse it."""
        with self._streams.held(self._principal):
            await super().__call__(scope, receive, send)


def _no_place(noun: str, places: int) -> Exception:
    message = (
        f"{places} logs are being read by this {noun}, and at most {places} may be at a time: end "
        "one, read only the last lines of this one (lines=100), or try again later"
    )
    return refuse(Code.RATE_LIMIT_EXCEEDED, message, retry_after_s=_RETRY_S)
