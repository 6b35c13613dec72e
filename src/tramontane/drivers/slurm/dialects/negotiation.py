"""Which version of Slurm's REST API is spoken: the newest that both sides know."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tramontane.drivers.slurm.dialects.base import Dialect
from tramontane.drivers.slurm.dialects.v38 import V38
from tramontane.drivers.slurm.dialects.v39 import V39

OLDEST: Final = 38
NEWEST: Final = 45
_CONTROLLER: Final = re.compile(r"/slurm/v0\.0\.(\d{1,4})/")
_ACCOUNTING: Final = re.compile(r"/slurmdb/v0\.0\.(\d{1,4})/")


class UnsupportedVersionError(ValueError):
    """The cluster speaks no version that this driver knows; the text names both sides'."""


def choose(openapi: Mapping[str, Any]) -> tuple[Dialect, bool]:
    """Return the dialect for a server's OpenAPI document, and whether accounting has it too.

    Raises `UnsupportedVersionError`.
    """
    paths = [str(path) for path in openapi.get("paths") or ()]
    offered = _numbers(_CONTROLLER, paths)
    known = [number for number in offered if OLDEST <= number <= NEWEST]
    if not known:
        told = ", ".join(f"v0.0.{number}" for number in sorted(offered)) or "none at all"
        msg = (
            f"slurmrestd offers {told}; this driver speaks v0.0.{OLDEST} to v0.0.{NEWEST}."
            f" Start slurmrestd with a data parser or plugin of one of these (-d or -s)"
        )
        raise UnsupportedVersionError(msg)
    number = max(known)
    return dialect_of(number), number in _numbers(_ACCOUNTING, paths)


def dialect_of(number: int) -> Dialect:
    """Return the dialect of v0.0.``number``, which is known."""
    assert OLDEST <= number <= NEWEST, f"v0.0.{number} is not known"
    return V38() if number == OLDEST else V39(f"v0.0.{number}")


def _numbers(pattern: re.Pattern[str], paths: Iterable[str]) -> set[int]:
    found = (pattern.match(path) for path in paths)
    return {int(match[1]) for match in found if match}
