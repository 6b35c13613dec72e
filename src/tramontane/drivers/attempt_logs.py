"""The output of attempts as their runners keep it: ``log.N``, and what left it in ``log.N.1``.

Offsets count from the first byte ever written. The runner moves a log's end away when it grows too
long, and notes in ``log.N.begin`` how much left it. Attempts can write here: all is read as a
tenant's.
"""

from pathlib import Path
from typing import Final

from tramontane.runner.output import last_lines
from tramontane.runtime.tenant_files import TenantFileError, read_range, read_tail, size_of

TAIL_BYTES_MAX: Final = 4 << 20
_NUMBER_BYTES_MAX: Final = 20


def read_log(
    root: Path, run_dir: str, uid: int, rank: int, *, offset: int, bytes_max: int
) -> bytes:
    """Return what was written on node number ``rank`` from ``offset`` on; empty at the end.

    ``run_dir`` leads down from ``root``. What is no longer kept reads as zero bytes, as a hole in
    a file does. Raises OSError when it cannot be read.
    """
    name = f"{run_dir}/log.{rank}"
    try:
        begin = _number(read_range(root, f"{name}.begin", uid, offset=0, bytes_max=32))
        if offset >= begin:
            piece = read_range(root, name, uid, offset=offset - begin, bytes_max=bytes_max)
            return piece or b""
        older = size_of(root, f"{name}.1", uid) or 0
        lost = begin - older - offset
        if lost > 0:
            return bytes(min(lost, bytes_max))
        piece = read_range(root, f"{name}.1", uid, offset=-lost, bytes_max=bytes_max)
        return piece or b""
    except TenantFileError:
        return b""


def read_last_lines(root: Path, run_dir: str, uid: int, rank: int, lines_max: int) -> list[str]:
    """Return the last lines that node number ``rank`` wrote, oldest first."""
    lines: list[str] = []
    for name in (f"log.{rank}", f"log.{rank}.1"):
        try:
            data = read_tail(root, f"{run_dir}/{name}", uid, bytes_max=TAIL_BYTES_MAX)
        except TenantFileError:
            continue
        lines = last_lines(data or b"", lines_max - len(lines)) + lines
    return lines


def _number(text: bytes | None) -> int:
    digits = (text or b"").strip()
    is_number = digits.isdigit() and len(digits) <= _NUMBER_BYTES_MAX
    return int(digits) if is_number else 0
