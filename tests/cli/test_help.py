"""Help pages: as they were last agreed on, and quick."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import CommandLine, python_environment
from tests.support.command_tree import Found, commands
from tests.support.golden import assert_golden
from tramontane import __version__
from tramontane.main import COMMANDS

GOLDEN = Path(__file__).parents[1] / "golden" / "cli"
OWN_HELP = ("runner",)  # prints the runner's own help

SLOW = ("httpx", "pydantic", "fastapi", "sqlalchemy", "rich", "uvicorn", "asyncio")


@pytest.mark.parametrize(
    "found", [c for c in commands() if c.words != OWN_HELP], ids=lambda c: c.label
)
def test_each_help_page_is_as_agreed(command_line: CommandLine, found: Found) -> None:
    run = command_line(*found.words, "--help")
    assert (run.code, run.err) == (0, "")
    assert "Exit codes: 0 done" in run.out
    assert_golden(GOLDEN / f"{found.label}.txt", run.out)


def test_an_example_is_of_its_own_command_and_of_options_that_it_has() -> None:
    shown = 0
    for found in commands():
        page = (GOLDEN / f"{found.label}.txt").read_text() if found.words != OWN_HELP else ""
        for line in page.splitlines():
            _, is_example, example = line.partition("  Example: tramontane ")
            if is_example:
                words = tuple(shlex.split(example))
                assert words[: len(found.words)] == tuple(found.words), line
                options = [word for word in words if word.startswith("--")]
                assert all(f"{option} " in page for option in options), line
                shown += 1
    assert shown >= 14


def test_no_golden_is_left_of_a_command_that_is_gone() -> None:
    labels = {found.label for found in commands() if found.words != OWN_HELP}
    assert {path.stem for path in GOLDEN.glob("*.txt")} == labels


@pytest.mark.parametrize("words", [(), ("deployments",), ("usage",)], ids=str)
def test_a_bare_group_prints_its_help_and_counts_as_wrong_usage(
    command_line: CommandLine, words: tuple[str, ...]
) -> None:
    helped = command_line(*words, "--help")
    run = command_line(*words)
    assert (run.code, run.out) == (2, "")
    assert run.err == helped.out


def test_version(command_line: CommandLine) -> None:
    run = command_line("--version")
    assert (run.code, run.out.strip()) == (0, f"tramontane {__version__}")


def test_help_of_the_runner_is_its_own(command_line: CommandLine) -> None:
    run = command_line("runner", "--help")
    assert run.code == 0
    assert "--run-dir" in run.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], set()),
        (["up", "--help"], set()),
        (["--version"], set()),
        (["deployments", "--help"], {"deployments"}),
        (["deployments", "create", "--help"], {"deployments"}),
        (["chat", "--help"], {"chat"}),
    ],
    ids=" ".join,
)
def test_help_imports_only_what_it_shows(arguments: list[str], expected: set[str]) -> None:
    """The start-up budget, without a stopwatch: nothing slow and no other command is imported."""
    code = "import sys; from tramontane.main import main\n"
    code += "try: main(sys.argv[1:])\nfinally: print(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(done.stderr.split())
    assert loaded.isdisjoint(SLOW)
    package = "tramontane.cli.commands."
    ours = {name.removeprefix(package) for name in loaded if name.startswith(package)}
    assert ours == expected
    if not expected:
        assert "tramontane.wire.client" not in loaded


def test_each_row_of_the_table_is_a_command_with_a_module() -> None:
    names = {found.words[0] for found in commands() if found.words}
    assert set(COMMANDS) < names
