"""Shell completion: the words, in each shell's form, without loading what is not asked about."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import python_environment
from tramontane.main import COMMANDS

pytestmark = pytest.mark.slow  # each question is a process, as it is for a shell

SHELLS = ("bash", "zsh", "fish")


def complete(shell: str, line: str) -> list[str]:
    """Return what ``shell`` is told when TAB is pressed at the end of ``line``."""
    words = line.split(" ")
    asked = {"_TRAMONTANE_COMPLETE": f"complete_{shell}"}
    asked |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    asked |= {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return run_main([], asked).splitlines()


def run_main(arguments: list[str], variables: dict[str, str]) -> str:
    code = "import sys; sys.argv[0] = 'tramontane'; from tramontane.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=python_environment() | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tramontane dep", ["deployments"]),
        ("tramontane deployments sc", ["scale"]),
        ("tramontane deployments create --rep", ["--replicas"]),
        ("tramontane api-keys create --role ", ["member", "operator"]),
    ],
)
def test_bash_gets_the_right_words(line: str, words: list[str]) -> None:
    assert [word for word in complete("bash", line) if word] == words


def test_the_first_word_can_be_any_command() -> None:
    words = complete("bash", "tramontane ")
    assert set(COMMANDS) < set(words)
    assert {"up", "control", "gateway", "plan", "runner"} < set(words)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_words_with_their_meaning(shell: str) -> None:
    for line, word in (("tramontane dep", "deployments"), ("tramontane deployments sc", "scale")):
        text = "\n".join(complete(shell, line))
        assert word in text
        assert "served" in text or "number of replicas" in text
        assert "delete" not in text


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell_can_be_shown_and_installed(shell: str, tmp_path: Path) -> None:
    variables = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    script = run_main(["--show-completion", shell], variables)
    assert "_TRAMONTANE_COMPLETE=complete_" + shell in script
    told = run_main(["--install-completion", shell], variables)
    assert "completion installed in" in told
    installed = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(script.strip() in path.read_text() for path in installed)


def test_a_real_bash_completes(tmp_path: Path) -> None:
    """Source the script in bash and press TAB by calling the function that it registers."""
    variables = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    script = run_main(["--show-completion", "bash"], variables)
    lines = [
        script,
        "COMP_WORDS=(tramontane deployments sc); COMP_CWORD=2",
        "_tramontane_completion tramontane; echo ${COMPREPLY[@]}",
    ]
    wrapper = tmp_path / "tramontane"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tramontane.main "$@"\n')
    wrapper.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)],
        env=python_environment() | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["scale"]
