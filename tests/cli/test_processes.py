"""The process commands hand their options to the process, each to the parameter it is for."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import CommandLine

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("up", {"home": None, "host": None, "port": None}),
    (
        "up --home h --host ::1 --port 0",
        {"home": Path("h"), "host": "::1", "port": 0},
    ),
    (
        "control --home h --fd 3 --database-url sqlite:///x",
        {
            "home": Path("h"),
            "fd": 3,
            "parent_pid": None,
            "host": None,
            "port": None,
            "database_url": "sqlite:///x",
        },
    ),
    (
        "gateway --control http://c --home h --fd 4 --parent 7 --host a --port 1 --name gw",
        {
            "home": Path("h"),
            "fd": 4,
            "parent_pid": 7,
            "host": "a",
            "port": 1,
            "control": "http://c",
            "name": "gw",
            "route_table": None,
            "shares_port": False,
        },
    ),
    (
        "gateway --route-table t.json --port 9",
        {
            "home": None,
            "fd": None,
            "parent_pid": None,
            "host": None,
            "port": 9,
            "control": None,
            "name": None,
            "route_table": Path("t.json"),
            "shares_port": False,
        },
    ),
    (
        "plan --snapshot s.json",
        {"snapshot": Path("s.json"), "home": None, "base_url": None, "api_key": None},
    ),
    (
        "plan --home h --base-url http://c --api-key k",
        {"snapshot": None, "home": Path("h"), "base_url": "http://c", "api_key": "k"},
    ),
    (
        "control --host 0.0.0.0 --port 9",
        {
            "home": None,
            "fd": None,
            "parent_pid": None,
            "host": "0.0.0.0",
            "port": 9,
            "database_url": None,
        },
    ),
]


@pytest.mark.parametrize(("line", "expected"), CALLS, ids=lambda v: v if isinstance(v, str) else "")
def test_options_reach_the_process(
    command_line: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    expected: dict[str, Any],
) -> None:
    module = importlib.import_module(f"tramontane.processes.{line.split(maxsplit=1)[0]}")
    signature = inspect.signature(module.run)
    seen: list[dict[str, Any]] = []

    def run(*given: object) -> int:
        seen.append(dict(signature.bind(*given).arguments))
        return 78

    monkeypatch.setattr(module, "run", run)
    assert command_line(*line.split()).code == 78
    assert seen == [expected]
