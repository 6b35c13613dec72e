"""Every command of ``tramontane``, with its options: what help and documentation must cover."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

from tramontane.main import app


@dataclass(frozen=True)
class Found:
    """One command: its words, the options it takes (``--help`` apart) and its arguments."""

    words: tuple[str, ...]
    options: tuple[str, ...]
    arguments: tuple[str, ...]
    is_group: bool

    @property
    def label(self) -> str:
        """Return a name for files and test ids."""
        return "-".join(self.words) or "root"


def commands() -> list[Found]:
    """Return every command, groups first."""
    root = typer.main.get_command(app)
    return list(_walk(root, typer.Context(root, info_name="tramontane"), ()))


def _walk(command: Any, context: Any, words: tuple[str, ...]) -> Iterator[Found]:
    is_group = isinstance(command, TyperGroup)
    params = command.params
    options = [max(p.opts, key=len) for p in params if p.param_type_name == "option"]
    arguments = [p.metavar for p in params if p.param_type_name == "argument"]
    yield Found(words, tuple(options), tuple(arguments), is_group)
    if is_group:
        for name in command.list_commands(context):
            _, inner, _ = command.resolve_command(context, [name])
            assert inner is not None
            yield from _walk(
                inner, typer.Context(inner, info_name=name, parent=context), (*words, name)
            )
