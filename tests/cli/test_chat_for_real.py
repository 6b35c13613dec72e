"""A first talk with the demo model, as `tramontane up` suggests it."""

from pathlib import Path

import pytest

from tests.support.cli import CommandLine
from tests.support.system import DEMO, System, running
from tests.support.waiting import until

pytestmark = pytest.mark.slow


def test_the_first_talk_is_answered_and_counted(command_line: CommandLine, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running(home):
        variables = {"TRAMONTANE_HOME": str(home)}
        run = command_line("chat", DEMO, "--message", "What is Tramontane?", **variables)
        assert run.code == 0, run.err
        assert "Tramontane" in run.out  # sampled: what it says of it differs from time to time

        unknown = command_line("chat", "nobody", "--message", "hello", **variables)
        assert (unknown.code, unknown.err.count("\n")) == (3, 1)
        wrong = command_line("chat", DEMO, "--message", "x", "--api-key", "tmt_wrong", **variables)
        assert wrong.code == 4
        admin_key = System(home).credentials["admin_key"]
        operator = command_line("chat", DEMO, "--message", "x", "--api-key", admin_key, **variables)
        assert operator.code == 4

        def counted() -> bool:
            return "chat.completions" in command_line("usage", "events", **variables).out

        until(counted, "the usage event")
        totals = command_line("usage", "totals", **variables).out.splitlines()
        assert totals[1].split()[:2] == [DEMO, "1"]
