"""docs/cli.md has every command with its arguments and options; the glossary has every noun.

Command lines that a page shows can be typed as they stand.
"""

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from tests.support.command_tree import Found, commands
from tramontane.cli.exits import ExitCode
from tramontane.main import COMMANDS, app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "cli.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `(tramontane[^`]*)`\n(.*?)(?=^##|\Z)", PAGE, re.S | re.M))
BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```", re.S | re.M)
SHARED = {"--json", "--base-url", "--api-key", "--home"}


def shown() -> list[str]:
    """Return the command lines in code blocks of the documentation."""
    pages = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    blocks = [block for page in pages for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    typed = [line.removeprefix("$ ").removeprefix(".venv/bin/") for line in lines]
    return sorted({line for line in typed if line.startswith("tramontane ")})


def words_of(line: str) -> list[str]:
    """Return the words of a command up to a redirection or a pipe; a variable is some number."""
    lexer = shlex.shlex(re.sub(r"\$[A-Za-z_]+", "1", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    end = next((at for at, word in enumerate(words) if set(word) <= set("();<>|&")), len(words))
    return words[:end]


@pytest.mark.parametrize("line", shown())
def test_a_command_line_that_is_shown_can_be_typed(line: str) -> None:
    _, *words = words_of(line)
    command = typer.main.get_command(app)
    context = command.make_context("tramontane", words)
    while isinstance(command, TyperGroup):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        assert command is not None
        context = command.make_context(name, rest, parent=context)  # refuses what does not fit


def heading_of(found: Found) -> str:
    return " ".join(("tramontane", *found.words, *found.arguments))


@pytest.mark.parametrize("found", commands(), ids=lambda found: found.label)
def test_each_command_has_a_section_that_names_its_options(found: Found) -> None:
    section = SECTIONS.get(heading_of(found))
    assert section is not None, f"docs/cli.md lacks the heading {heading_of(found)!r}"
    own = set(found.options) - (SHARED if found.words and found.words[0] in COMMANDS else set())
    assert {option for option in own if f"`{option}" not in section} == set()


def test_no_section_is_left_of_a_command_that_is_gone() -> None:
    assert set(SECTIONS) == {heading_of(found) for found in commands()}


def test_the_shared_options_are_explained_once() -> None:
    table = PAGE.split("## Options of every noun", 1)[1].split("##", 1)[0]
    assert set(re.findall(r"^\| `(--[a-z-]+)", table, re.M)) == SHARED


def test_each_exit_code_is_explained() -> None:
    table = PAGE.split("## Exit codes", 1)[1].split("##", 1)[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)] == list(ExitCode)


def test_each_noun_is_a_term_of_the_glossary() -> None:
    glossary = (DOCS / "glossary.md").read_text(encoding="utf-8")
    terms = dict(re.findall(r"^\| ([^|]+) \| [^|]+ \| `tramontane ([a-z-]+)` \|$", glossary, re.M))
    assert set(terms.values()) == set(COMMANDS) - {"chat"}
    for term, noun in terms.items():
        plural = noun.removesuffix("s").replace("-", " ")
        assert noun in {"whoami", "usage"} or plural == term.lower(), (term, noun)


def test_the_glossary_has_each_term_once() -> None:
    glossary = (DOCS / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^\| ([^|]+) \|", glossary, re.M)
    assert len(terms) == len(set(terms))
