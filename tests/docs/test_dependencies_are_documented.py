"""docs/dependencies.md lists every direct dependency, and the locks hold each by hash."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAME = re.compile(r"^[a-z0-9][a-z0-9-]*")
DIRECT_MAX = 25  # the design's budget for run-time dependencies


def names(lines: list[str]) -> set[str]:
    return {match[0] for line in lines if (match := NAME.match(line))}


RUN = names(PROJECT["dependencies"])
LISTED = names((ROOT / "requirements" / "run.in").read_text(encoding="utf-8").splitlines())
DEVELOPMENT = names((ROOT / "requirements" / "dev.in").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("name", sorted(RUN | LISTED | DEVELOPMENT))
def test_each_dependency_is_explained(name: str) -> None:
    assert re.search(rf"(\| |, |`){re.escape(name)}\b", PAGE)


def test_the_lock_input_is_the_package_metadata() -> None:
    assert RUN | {"setuptools"} == LISTED
    assert len(RUN) <= DIRECT_MAX


def test_the_extra_is_locked_and_explained() -> None:
    extra = names(PROJECT["optional-dependencies"]["otel"])
    lines = (ROOT / "requirements" / "otel.in").read_text(encoding="utf-8").splitlines()
    assert extra == names(lines)
    assert all(name in PAGE for name in extra)


@pytest.mark.parametrize(
    "lock", sorted((ROOT / "requirements").rglob("*.txt")), ids=lambda lock: lock.name
)
def test_each_locked_release_has_hashes(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    pinned = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert pinned
    assert [line for line in pinned if "==" not in line or "--hash=sha256:" not in line] == []
    assert "mistralai==2.4.6" not in text
