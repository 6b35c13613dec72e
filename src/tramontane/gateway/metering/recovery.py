"""Settles what dead gateways left: requests in flight become cut events, spool files are adopted.

Each step may be cut short by another ``kill -9`` and done again by the next start: the same slot
always gives the same event id, and a table is deleted only after its events are on the disk and
its files are ours.
"""

import errno
import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from tramontane.domain.usage import Outcome
from tramontane.gateway.metering.events import (
    STATUS_NONE,
    UsageLine,
    encode,
    ended,
    event_id_of,
)
from tramontane.gateway.metering.inflight import Leftover, lock_dead, read_leftovers
from tramontane.gateway.metering.settled import SettledHolders
from tramontane.gateway.metering.spool import (
    SUFFIX,
    Segment,
    Spool,
    owner_of,
    read_lines,
    whole_bytes,
)

LOG: Final = logging.getLogger("tramontane.gateway.recovery")
_TABLE_PREFIX: Final = "inflight-"
_TABLE_SUFFIX: Final = ".map"
_LINES: Final = 10_000


class _Id(msgspec.Struct):
    id: str


def table_path(folder: Path, owner: str) -> Path:
    """Return where the gateway process ``owner`` keeps its in-flight table."""
    return folder / f"{_TABLE_PREFIX}{owner}{_TABLE_SUFFIX}"


def settle(
    folder: Path, spool: Spool, settled: SettledHolders, gateway: str, *, drained_only: bool = False
) -> None:
    """Take over all that dead gateways left in ``folder`` into ``spool``. Raises OSError.

    ``settled`` takes note of whose books are now ours. ``drained_only``: only of those that ended
    with no request in flight, which is quick enough to be done between requests.
    """
    # Files first: a gateway makes its table before its first segment, so a segment seen now
    # whose table is missing has no owner.
    segments = sorted((folder / "spool").glob(f"*{SUFFIX}"))
    tables = sorted(folder.glob(f"{_TABLE_PREFIX}*{_TABLE_SUFFIX}"))
    owners = {_owner(table) for table in tables}
    for table in tables:
        mine = [path for path in segments if owner_of(path) == _owner(table)]
        _settle_one(table, mine, spool, settled, gateway, drained_only=drained_only)
    orphans = [path for path in segments if owner_of(path) not in owners]
    spool.adopt([path for path in orphans if not table_path(folder, owner_of(path)).exists()])
    settled.take_over(lambda owner: table_path(folder, owner).exists())


def _settle_one(
    table: Path,
    paths: list[Path],
    spool: Spool,
    settled: SettledHolders,
    gateway: str,
    *,
    drained_only: bool,
) -> None:
    try:
        fd = lock_dead(table)
    except FileNotFoundError:
        return  # another gateway settled it just now
    if fd is None:
        return
    try:
        leftovers = read_leftovers(table.read_bytes())
        if leftovers and drained_only:
            return
        written = _last_ids(paths) if leftovers else set()
        cut = [item for item in leftovers if event_id_of(item.started.request_id) not in written]
        for item in cut:
            refusal = spool.reserve()
            if refusal is not None:
                msg = f"the requests in {table.name} cannot be settled: {refusal}"
                raise OSError(errno.ENOSPC, msg)
            os.fdatasync(spool.append(encode(_cut(item, gateway, _owner(table)))))
        spool.adopt(paths)
        settled.note(_owner(table))
        table.unlink(missing_ok=True)
        if cut or paths:
            told = "settled %s: %d requests were cut, %d spool files adopted"
            LOG.warning(told, table.name, len(cut), len(paths))
    finally:
        os.close(fd)


def _last_ids(paths: list[Path]) -> set[str]:
    """Return the ids at the end of a dead gateway's spool.

    A slot is freed right after its event was written, so of an event whose slot stands, the line
    is the last one; a whole file or two are read because that is simpler.
    """
    ids: set[str] = set()
    for path in paths[-2:]:
        segment = Segment(path, whole_bytes(path))
        at = 0
        while at < segment.size:
            lines, at = read_lines(segment, at, _LINES)
            ids.update(msgspec.json.decode(line, type=_Id).id for line in lines)
    return ids


def _cut(item: Leftover, gateway: str, holder: str) -> UsageLine:
    return ended(
        item.started,
        gateway,
        holder,
        Outcome.CUT,
        status=200 if item.chunks else STATUS_NONE,
        tokens=None,
        counted=(item.prompt[0], item.chunks, item.prompt[1]),
        duration_ms=item.last_alive_ms - item.started.started_at_ms,
        first_byte_ms=None,
    )


def _owner(table: Path) -> str:
    return table.name[len(_TABLE_PREFIX) : -len(_TABLE_SUFFIX)]
