"""Where the server and the key come from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import CommandLine, Reply, Stub, chunks

Serve = Callable[[Any], Stub]


def write_credentials(home: Path, base_url: str) -> None:
    names = ("organization", "project", "console_url")
    keys = {"base_url": base_url, "api_key": "tmt_member", "admin_key": "tmt_admin"}
    home.mkdir(parents=True)
    text = json.dumps(keys | dict.fromkeys(names, "x"))
    (home / "credentials.json").write_text(text, encoding="utf-8")


def key_used(stub: Stub) -> str:
    return stub.requests[-1].headers["Authorization"].removeprefix("Bearer ")


@pytest.mark.parametrize("way", ["default", "option", "variable", "file"])
def test_the_home_is_found_as_up_finds_it(
    serve: Serve, command_line: CommandLine, tmp_path: Path, way: str
) -> None:
    stub = serve(Reply({}))
    home = tmp_path / (".tramontane" if way == "default" else "elsewhere")
    write_credentials(home, stub.base_url)
    if way == "file":
        (tmp_path / "tramontane.toml").write_text("home = 'elsewhere'\n")
    options = ["--home", str(home)] if way == "option" else []
    variables = {"TRAMONTANE_HOME": str(home)} if way == "variable" else {}
    run = command_line("whoami", *options, **variables)
    assert run.code == 0, run.err
    assert key_used(stub) == "tmt_admin"


def test_chat_uses_the_member_key(serve: Serve, command_line: CommandLine, tmp_path: Path) -> None:
    stub = serve(chunks("hi"))
    write_credentials(tmp_path / ".tramontane", stub.base_url)
    assert command_line("chat", "m", "--message", "hello").out == "hi\n"
    assert key_used(stub) == "tmt_member"


def test_options_come_before_variables(serve: Serve, command_line: CommandLine) -> None:
    stub = serve(Reply({}))
    variables = {"TRAMONTANE_BASE_URL": "http://127.0.0.1:9", "TRAMONTANE_API_KEY": "tmt_variable"}
    command_line("whoami", "--base-url", stub.base_url, "--api-key", "tmt_option", **variables)
    assert key_used(stub) == "tmt_option"


def test_another_key_at_the_homes_server(
    serve: Serve, command_line: CommandLine, tmp_path: Path
) -> None:
    stub = serve(Reply({}))
    write_credentials(tmp_path / ".tramontane", stub.base_url)
    assert command_line("whoami", "--api-key", "tmt_mine").code == 0
    assert key_used(stub) == "tmt_mine"
    assert command_line("whoami", "--base-url", stub.base_url + "/").code == 0
    assert key_used(stub) == "tmt_admin"


def test_the_homes_key_is_not_sent_to_another_server(
    serve: Serve, command_line: CommandLine, tmp_path: Path
) -> None:
    stub = serve(Reply({}))
    write_credentials(tmp_path / ".tramontane", "http://127.0.0.1:9/v1")
    run = command_line("whoami", "--base-url", stub.base_url)
    assert run.code == 4
    assert "holds keys of http://127.0.0.1:9/v1 only; give --api-key" in run.err
    assert stub.requests == []


@pytest.mark.parametrize("text", [None, "not JSON", "[]", '{"base_url": "x"}'])
def test_without_usable_credentials_it_says_what_to_do(
    command_line: CommandLine, tmp_path: Path, text: str | None
) -> None:
    home = tmp_path / ".tramontane"
    if text is not None:
        home.mkdir()
        (home / "credentials.json").write_text(text)
    run = command_line("deployments", "list")
    state = "is missing" if text is None else "is unusable"
    assert run.code == 4
    assert f"credentials.json {state}; run `tramontane up` first" in run.err
    assert run.err.count("\n") == 1
