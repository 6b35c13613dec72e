"""Prints what the API answered: as its JSON, as a table that fits, or field by field.

Whatever a server sends is printed without control characters: a name or a reason must not be
able to move the cursor or recolour the terminal.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

_GAP: Final = 2  # spaces between two columns
_COLUMN_MIN: Final = 8  # a column is not cut below this
_LINE_MAX: Final = 4_000  # of an error: one line, however long the server's text


def moment(value: object) -> str:
    """Return milliseconds since 1970 as UTC in seconds."""
    try:
        at = datetime.fromtimestamp(int(str(value)) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return text(value)
    return at.strftime("%Y-%m-%d %H:%M:%SZ")


def size(value: object) -> str:
    """Return a number of bytes in binary units."""
    if not isinstance(value, int) or isinstance(value, bool):
        return text(value)
    for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if value >= 1 << bits:
            return f"{value / (1 << bits):.1f} {unit}"
    return f"{value} B"


def text(value: object) -> str:
    """Return one line for any JSON value; ``-`` for nothing."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={text(item)}" for key, item in value.items())
    return one_line(str(value))


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title, the field it shows (``a.b`` for b inside a), how it becomes text."""

    title: str
    field: str
    show: Callable[[object], str] = text


def print_list(
    listing: dict[str, Any],
    columns: Sequence[Column],
    *,
    empty: str,
    as_json: bool,
) -> None:
    """Print a list object as a table; ``empty`` says what to do when there is nothing."""
    if as_json:
        print_json(listing)
        return
    items: list[dict[str, Any]] = listing["data"]
    if not items:
        print(empty)
        return
    rows = [[column.title for column in columns]]
    rows += [[column.show(_pick(item, column.field)) for column in columns] for item in items]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in table(rows, width):
        print(line)
    if listing.get("has_more"):
        print(f"the first {len(items)}; there are more: raise --limit", file=sys.stderr)


def print_row(item: dict[str, Any], columns: Sequence[Column], *, as_json: bool) -> None:
    """Print one object as the list shows it."""
    if as_json:
        print_json(item)
    else:
        print_list(listed([item]), columns, empty="", as_json=False)


def listed(value: object, *, has_more: bool = False) -> dict[str, Any]:
    """Return a list inside an object in the form that `print_list` takes."""
    items = value if isinstance(value, list) else []
    return {"data": [item for item in items if isinstance(item, dict)], "has_more": has_more}


def print_item(item: dict[str, Any], *, as_json: bool) -> None:
    """Print one object, a field per line, in the API's order."""
    if as_json:
        print_json(item)
        return
    shown = {name: show(value) for name, show, value in _fields(item) if name != "object"}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        print(f"{one_line(name):{width}}  {value}")


def print_json(value: object) -> None:
    """Print ``value`` as indented JSON, in ASCII so that no terminal is fooled."""
    print(json.dumps(value, indent=2))


def table(rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """Yield aligned lines; the widest columns are cut with ``...`` until they fit in ``width``."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    room = None if width is None else width - _GAP * (len(widths) - 1)
    while room is not None and sum(widths) > room and max(widths) > _COLUMN_MIN:
        widest = widths.index(max(widths))
        widths[widest] = max(_COLUMN_MIN, widths[widest] - (sum(widths) - room), _next(widths))
    for row in rows:
        cells = [_cut(cell, at).ljust(at) for cell, at in zip(row, widths, strict=True)]
        yield (" " * _GAP).join(cells).rstrip()


def one_line(value: str) -> str:
    """Return ``value`` as one printable line of bounded length."""
    line = " ".join(value.split())
    return printable(line if len(line) <= _LINE_MAX else line[:_LINE_MAX] + "...")


def printable(value: str) -> str:
    """Return ``value`` with every control character but newline and tab made visible as ``?``."""
    if value.isprintable():
        return value
    return "".join(c if _is_harmless(c) else "?" for c in value)


def _is_harmless(character: str) -> bool:
    wide_space = ord(character) >= 0xA0 and character.isspace()
    return character.isprintable() or character in "\n\t\u200d" or wide_space


def _pick(item: object, path: str) -> object:
    for name in path.split("."):
        item = item.get(name) if isinstance(item, dict) else None
    return item


def _fields(item: dict[str, Any]) -> Iterator[tuple[str, Callable[[object], str], object]]:
    """Yield each field, those of objects inside as ``outer.inner``, and how it becomes text."""
    for name, value in item.items():
        if isinstance(value, dict) and value:
            yield from ((f"{name}.{inner}", show, found) for inner, show, found in _fields(value))
        elif name.endswith(("_at_ms", "_until_ms")):
            yield name, moment, value
        else:
            yield name, size if name.endswith("_bytes") else text, value


def _next(widths: Sequence[int]) -> int:
    """Return what the widest column may shrink to before another one is the widest."""
    ordered = sorted(widths, reverse=True)
    second = ordered[1] if len(ordered) > 1 else 0
    return second if second < ordered[0] else ordered[0] - 1


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else cell[: width - 3] + "..."
