"""The in-flight table: what is being served now, in a file that survives ``kill -9``.

One slot per request in a memory-mapped file: writing it is a copy in memory, counting a chunk is
one store, and the kernel keeps both when the process dies. The file is locked for the life of its
gateway, so a table whose lock is free belongs to a dead one.

Layout: 64 bytes of header (magic, slots, bytes per slot, last sign of life in ms), one 32-bit
chunk counter per slot, then the slots: used (1 byte), padding, length (2), CRC-32 (4), JSON, and
at the end of each the prompt's tokens and how many of them were cached (4 bytes each).
"""

import fcntl
import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from tramontane.gateway.metering.events import Started

SLOT_BYTES: Final = 512
_MAGIC: Final = b"TMTINF02"
_HEADER: Final = struct.Struct("<8sIIQ")
_HEADER_BYTES: Final = 64
_ALIVE: Final = struct.Struct("<Q")
_ALIVE_AT: Final = 16
_SLOT: Final = struct.Struct("<BxHI")
_PROMPT: Final = struct.Struct("<II")
_COUNT_MAX: Final = 2**32 - 1
_PROMPT_AT: Final = SLOT_BYTES - _PROMPT.size
PAYLOAD_BYTES_MAX: Final = _PROMPT_AT - _SLOT.size


@dataclass(frozen=True, slots=True)
class Leftover:
    """A request that was in flight when its gateway died, and the chunks that had passed.

    ``prompt`` are the tokens of its prompt, and those cached, if the engine had told them.
    """

    started: Started
    chunks: int
    last_alive_ms: int
    prompt: tuple[int, int] = (0, 0)


class InflightTable:
    """The slots of one live gateway. ``chunks[slot]`` is the slot's counter."""

    def __init__(self, path: Path, slots: int) -> None:
        """Create, lock and map the table. Raises OSError, leaving no file behind."""
        self.path = path
        size = _slots_at(slots) + slots * SLOT_BYTES
        fresh = path.with_suffix(".new")
        self._fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # All of it now: a store into a page that the disk cannot hold would be a SIGBUS.
            os.posix_fallocate(self._fd, 0, size)
            os.pwrite(self._fd, _HEADER.pack(_MAGIC, slots, SLOT_BYTES, 0), 0)
            self._map = mmap.mmap(self._fd, size)
            fresh.rename(path)  # with the lock held: nobody ever sees it without an owner
        except OSError:
            os.close(self._fd)
            fresh.unlink(missing_ok=True)
            raise
        self._view = memoryview(self._map)
        self.chunks = self._view[_HEADER_BYTES : _HEADER_BYTES + 4 * slots].cast("I")
        self._base = _slots_at(slots)
        self._free = list(range(slots - 1, -1, -1))  # the low slots are used first
        self.slots = slots

    @property
    def in_use(self) -> int:
        """Return how many requests are in flight."""
        return self.slots - len(self._free)

    def claim(self, payload: bytes) -> int | None:
        """Write ``payload`` (a `Started` as JSON) into a free slot and return the slot.

        It counts from `arm` on. Returns None when all slots are taken.
        """
        if not self._free:
            return None
        slot = self._free.pop()
        self.chunks[slot] = 0
        at = self._base + slot * SLOT_BYTES
        _SLOT.pack_into(self._map, at, 0, len(payload), zlib.crc32(payload))
        _PROMPT.pack_into(self._map, at + _PROMPT_AT, 0, 0)
        self._map[at + _SLOT.size : at + _SLOT.size + len(payload)] = payload
        return slot

    def arm(self, slot: int) -> None:
        """Make the claimed ``slot`` count: one store, the last thing before bytes are sent."""
        self._map[self._base + slot * SLOT_BYTES] = 1

    def note_prompt(self, slot: int, tokens: int, cached: int) -> None:
        """Note what the engine told of the prompt of ``slot`` before its answer."""
        at = self._base + slot * SLOT_BYTES + _PROMPT_AT
        _PROMPT.pack_into(self._map, at, min(tokens, _COUNT_MAX), min(cached, _COUNT_MAX))

    def free(self, slot: int) -> None:
        """Forget the request of ``slot``."""
        self._map[self._base + slot * SLOT_BYTES] = 0
        self._free.append(slot)

    def touch(self, now_ms: int) -> None:
        """Note a sign of life, from which a cut request's duration is told later."""
        _ALIVE.pack_into(self._map, _ALIVE_AT, now_ms)

    def close(self, *, remove: bool) -> None:
        """Unmap and unlock; ``remove`` when nothing of this gateway is left to account for."""
        if remove:
            self.path.unlink(missing_ok=True)
        self.chunks.release()
        self._view.release()
        self._map.close()
        os.close(self._fd)


def lock_dead(path: Path) -> int | None:
    """Return the locked descriptor of a dead gateway's table.

    None: its owner lives, or another gateway has settled it in this very moment.

    The caller closes it. Raises OSError when the file cannot be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if os.fstat(fd).st_nlink == 0:
        os.close(fd)
        return None
    return fd


def read_leftovers(data: bytes) -> list[Leftover]:
    """Return the used slots of a table's bytes; damaged slots (a power cut) are left out."""
    if len(data) < _HEADER_BYTES or not data.startswith(_MAGIC):
        return []
    _, slots, slot_bytes, alive_ms = _HEADER.unpack_from(data)
    if slot_bytes != SLOT_BYTES or len(data) < _slots_at(slots) + slots * SLOT_BYTES:
        return []
    counters = memoryview(data)[_HEADER_BYTES : _HEADER_BYTES + 4 * slots].cast("I")
    found: list[Leftover] = []
    for slot in range(slots):
        at = _slots_at(slots) + slot * SLOT_BYTES
        used, length, crc = _SLOT.unpack_from(data, at)
        payload = data[at + _SLOT.size : at + _SLOT.size + min(length, PAYLOAD_BYTES_MAX)]
        if used != 1 or zlib.crc32(payload) != crc:
            continue
        started = msgspec.json.decode(payload, type=Started)
        prompt = _PROMPT.unpack_from(data, at + _PROMPT_AT)
        found.append(Leftover(started, counters[slot], alive_ms, prompt))
    return found


def _slots_at(slots: int) -> int:
    end = _HEADER_BYTES + 4 * slots
    return end + -end % SLOT_BYTES
