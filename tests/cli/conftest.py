"""A command line in this process, and a stub of the API that answers as told."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cli import CommandLine, Reply, Request, Stub
from tests.support.golden import REWRITE

Answer = Callable[[Request], Reply] | Reply


@pytest.fixture
def command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    for name in list(os.environ):
        if name.startswith("TRAMONTANE_") and name != REWRITE:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return CommandLine(capsys, {"COLUMNS": "80", "LINES": "24"})


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Stub]]:
    with ExitStack() as stack:

        def start(answer: Answer) -> Stub:
            reply = answer if callable(answer) else lambda _: answer
            return stack.enter_context(Stub(reply).running())

        yield start


@pytest.fixture
def against(command_line: CommandLine) -> Callable[[Stub], CommandLine]:
    """Return a function that points the command line at a stub."""
    return command_line.against
