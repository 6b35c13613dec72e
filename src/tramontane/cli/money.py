"""Euros on the command line: exact decimals in, whole micro-euros to the API, and back."""

import re
from typing import Final

from tramontane.cli.exits import CommandError, ExitCode
from tramontane.cli.output import text

MICRO_DIGITS: Final = 6
NANO_DIGITS: Final = 9
_EUROS: Final = re.compile(r"(?P<whole>[0-9]{0,12})(\.(?P<part>[0-9]{1,6}))?")


def micro_euros(option: str, given: str | None) -> int | None:
    """Return the amount that was ``given`` in euros as micro-euros; None stays None.

    Raises `CommandError` for anything but digits with at most six after a point.
    """
    if given is None:
        return None
    found = _EUROS.fullmatch(given)
    if found is None or not given:
        msg = f"{option} must be an amount in euros such as 10 or 0.15, with at most "
        msg += f"{MICRO_DIGITS} digits after the point, not {given!r}"
        raise CommandError(msg, ExitCode.USAGE)
    part = (found["part"] or "").ljust(MICRO_DIGITS, "0")
    return int(found["whole"] + part)


def from_micro(value: object) -> str:
    """Return micro-euros as euros, such as 10.00 or 0.00015."""
    return _euros(value, MICRO_DIGITS)


def from_nano(value: object) -> str:
    """Return nano-euros as euros, such as 10.00 or 0.000000015."""
    return _euros(value, NANO_DIGITS)


def _euros(value: object, digits: int) -> str:
    if not isinstance(value, int) or isinstance(value, bool):
        return text(value)
    whole, part = divmod(abs(value), 10**digits)
    shown = f"{part:0{digits}}".rstrip("0").ljust(2, "0")
    return f"{'-' if value < 0 else ''}{whole}.{shown}"
