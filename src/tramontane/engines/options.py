"""Engine options: text from tenants, which becomes words of a command line on a node.

So every option is in a table, and every value is a number in a range or one of a few words.
Nothing else passes: no path, no flag, no text of one's own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tramontane.domain.refusal import Code, Refusal

_DIGITS_MAX: Final = 9
_THOUSANDTHS: Final = re.compile(r"0\.[0-9]{1,3}")
_INTEGER: Final = re.compile(rf"[0-9]{{1,{_DIGITS_MAX}}}")


@dataclass(frozen=True, slots=True)
class IntegerOption:
    """A whole number from ``low`` to ``high``."""

    name: str
    low: int
    high: int

    @property
    def expected(self) -> str:
        """Say in words what is accepted."""
        return f"a whole number from {self.low} to {self.high}"

    def accepts(self, text: str) -> bool:
        """Tell whether ``text`` is such a number, in decimal digits."""
        return _INTEGER.fullmatch(text) is not None and self.low <= int(text) <= self.high


@dataclass(frozen=True, slots=True)
class ShareOption:
    """A part of one, from ``low`` to ``high`` thousandths, written like ``0.9``."""

    name: str
    low: int
    high: int

    @property
    def expected(self) -> str:
        """Say in words what is accepted."""
        low, high = (f"{bound / 1000:g}" for bound in (self.low, self.high))
        return f"a decimal number from {low} to {high}, with at most three decimals"

    def accepts(self, text: str) -> bool:
        """Tell whether ``text`` is such a number."""
        if _THOUSANDTHS.fullmatch(text) is None:
            return False
        return self.low <= int(text[2:].ljust(3, "0")) <= self.high


@dataclass(frozen=True, slots=True)
class ChoiceOption:
    """One of a few words."""

    name: str
    choices: tuple[str, ...]

    @property
    def expected(self) -> str:
        """Say in words what is accepted."""
        return "one of " + ", ".join(self.choices)

    def accepts(self, text: str) -> bool:
        """Tell whether ``text`` is one of them."""
        return text in self.choices


Option = IntegerOption | ShareOption | ChoiceOption

SWITCH: Final = ("true", "false")


def check_options(
    engine: str, table: Sequence[Option], given: Sequence[tuple[str, str]]
) -> Refusal | None:
    """Return why the options ``given`` to ``engine`` cannot be accepted, or None."""
    known = {option.name: option for option in table}
    seen: set[str] = set()
    for name, text in given:
        if name not in known:
            names = ", ".join(sorted(known))
            message = f"{engine} has no option {_quote(name)}: it has {names}"
            return Refusal(Code.UNSUPPORTED_BY_ENGINE, message, "engine_options")
        param = f"engine_options.{name}"
        if name in seen:
            return Refusal(Code.INVALID_VALUE, f"{param} is given twice: give it once", param)
        seen.add(name)
        if not known[name].accepts(text):
            message = f"{param} is {_quote(text)}: expected {known[name].expected}"
            return Refusal(Code.INVALID_VALUE, message, param)
    return None


def options_of(given: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """Return checked options by name."""
    return dict(given)


def _quote(text: str) -> str:
    shown = text if len(text) <= 60 else text[:57] + "..."
    return repr(shown)
