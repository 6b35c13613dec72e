"""Heads that the parser has accepted before, so that the next message like it is not parsed again.

A client or an engine sends the same head again and again, but for the number in Content-Length.
A head is remembered by its bytes less those digits, after the strict parser (llhttp) has taken
a whole message with it; a message whose remaining bytes are equal is framed the same, because
nothing but the length differs. Anything else about it, be it one space, goes through the parser.

Only messages that arrive in one piece are looked at: a head, exactly its body, and no byte more.
"""

from typing import Final, Generic, TypeVar

_END: Final = b"\r\n\r\n"
_NAMES: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_NAME_BYTES: Final = len(_NAMES[0])
_DIGITS_MAX: Final = 9
HEAD_BYTES_MAX: Final = 2_048
HEADS_MAX: Final = 512

Found = TypeVar("Found")


class KnownHeads(Generic[Found]):
    """What is known of heads, by their bytes. It starts anew when it is full."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Found] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, data: bytes) -> tuple[Found, int] | None:
        """Return what is known of the whole message ``data`` and where its body begins."""
        cut = _cut(data)
        if cut is None:
            return None
        found = self._known.get(cut[0])
        return None if found is None else (found, cut[1])

    def learn(self, data: bytes, length: int, found: Found) -> None:
        """Remember the head of ``data``, which the parser has taken as one whole message.

        ``length`` is the Content-Length that the parser has seen.
        """
        cut = _cut(data)
        if cut is None or len(data) - cut[1] != length:
            return
        if len(self._known) >= HEADS_MAX:
            self._known.clear()
        self._known[cut[0]] = found


def _cut(data: bytes) -> tuple[bytes, int] | None:
    """Return a head without the digits of its Content-Length and where the body begins.

    None unless ``data`` is one head and exactly as many bytes as it announces.
    """
    end = data.find(_END, 0, HEAD_BYTES_MAX)
    if end < 0:
        return None
    at = data.find(_NAMES[0], 0, end)
    if at < 0:
        at = data.find(_NAMES[1], 0, end)
        if at < 0:
            return None
    start = at + _NAME_BYTES
    stop = data.find(b"\r\n", start, end + 2)
    digits = data[start:stop]
    body_at = end + 4
    if stop - start > _DIGITS_MAX or not digits.isdigit() or int(digits) != len(data) - body_at:
        return None
    return data[:start] + data[stop:body_at], body_at
