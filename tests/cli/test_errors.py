"""Whatever goes wrong: one line on standard error, the right exit code, never a traceback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import CommandLine, Reply, Stub, error
from tests.support.command_tree import Found, commands

Serve = Callable[[Any], Stub]
Against = Callable[[Stub], CommandLine]

PROCESSES = {"up", "control", "gateway", "plan", "runner"}
VALUES = {"N": "2", "PATH": "model.gguf", "CLASS": "spot"}
# Neither asks a server.
OFFLINE = {"jobs-example", "dev-slurm"}
CALLS = [
    found
    for found in commands()
    if not found.is_group and found.words[0] not in PROCESSES and found.label not in OFFLINE
]
OBJECT_CALLS = [found for found in CALLS if found.label not in {"chat", "jobs-logs"}]  # streams


def arguments_of(found: Found) -> list[str]:
    """Return a command line for ``found`` with its arguments and what it cannot do without."""
    extra = {
        "deployments-create": ["--model", "m"],
        "deployments-update": ["--replicas", "2"],
        "deployments-autoscale": ["--max", "2", "--requests", "8"],
        "deployments-canary": ["--percent", "10"],
        "nodes-drain": ["--reason", "new disks"],
        "prices-set-class": ["--device-hour", "1.20"],
        "quotas-set": ["--devices", "4"],
        "reservations-create": ["--organization", "o", "--cluster", "c", "--rack", "r"],
    }
    if found.label == "jobs-submit":
        Path("thing").write_text("name: train\nscript: echo\n", encoding="utf-8")
    ask = ["--message", "hello"] if found.label == "chat" else []
    given = [VALUES.get(argument, "thing") for argument in found.arguments]
    return [*found.words, *given, *extra.get(found.label, []), *ask]


def assert_one_line(err: str) -> None:
    assert err.startswith("tramontane: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 1), (401, 4), (403, 4), (404, 3), (409, 5), (413, 1), (429, 6), (500, 1), (503, 6)],
)
def test_exit_codes(serve: Serve, against: Against, status: int, code: int) -> None:
    stub = serve(error(status, "some_code", "it cannot be", retry_after="60"))
    run = against(stub)("deployments", "scale", "chat", "3")
    assert (run.code, run.out) == (code, "")
    assert_one_line(run.err)
    assert "it cannot be" in run.err


def test_the_line_names_field_next_step_and_request(serve: Serve, against: Against) -> None:
    message = "must be between 0 and 256; choose fewer"
    run = against(serve(error(400, "invalid_value", message, "replicas")))(
        "deployments", "scale", "chat", "300"
    )
    assert run.err == f"tramontane: error: replicas: {message}\n"

    stub = serve(error(503, "unavailable", "no.", retry_after="9", x_request_id="req_7"))
    run = against(stub)("deployments", "scale", "chat", "3")
    assert run.err == "tramontane: error: no; try again in 9 s\n"

    stub = serve(error(500, "internal_error", "a bug", x_request_id="req_7"))
    assert against(stub)("whoami").err == "tramontane: error: a bug; the logs know it as req_7\n"

    run = against(serve(error(401, "invalid_api_key", "no such key")))("whoami")
    assert run.err.endswith("no such key; the key came from --api-key or TRAMONTANE_API_KEY\n")


def test_an_answer_cannot_play_with_the_terminal(serve: Serve, against: Against) -> None:
    stub = serve(error(400, "x", "red \x1b[31m and\nlong \ud800" + "!" * 9_999))
    run = against(stub)("whoami")
    assert_one_line(run.err)
    assert "\x1b" not in run.err
    assert len(run.err) < 5_000


HOSTILE = [
    Reply(b"<html>Bad Gateway</html>", 502, {"Content-Type": "text/html"}),
    Reply(b"hello"),
    Reply({"message": {"a": 1}, "error": {"message": 5}}, 400),
]  # the client's own tests send it many more


@pytest.mark.parametrize("found", CALLS, ids=lambda found: found.label)
def test_hostile_answers_end_in_one_line(serve: Serve, against: Against, found: Found) -> None:
    answers = list(HOSTILE)
    run_command = against(serve(lambda _: answers.pop(0)))
    while answers:
        run = run_command(*arguments_of(found))
        assert_one_line(run.err)
        assert (run.out, run.code in {1, 6}) == ("", True)


def test_a_deeply_nested_answer_ends_in_one_line(serve: Serve, against: Against) -> None:
    run = against(serve(Reply(b'{"a":' * 450 + b"1" + b"}" * 450)))("whoami")
    assert run.code in {0, 6}
    assert "Traceback" not in run.err


ODD: list[dict[str, Any]] = [
    {},
    {"id": 5, "name": [], "data": [{}, {"capacity": 3, "devices": [1], "lines": 4}]},
    {"data": []},
]


@pytest.mark.parametrize("found", OBJECT_CALLS, ids=lambda found: found.label)
def test_odd_objects_are_printed_without_a_traceback(
    serve: Serve, against: Against, found: Found
) -> None:
    for odd, flags in zip(ODD, ([], [], ["--json"]), strict=True):
        run = against(serve(Reply(odd)))(*arguments_of(found), *flags)
        # A job without a status would be waited for in vain.
        assert run.code == 0 or odd == {} or found.label == "jobs-wait", run.err
        assert "Traceback" not in run.err


def test_nobody_there(command_line: CommandLine) -> None:
    run = command_line(
        "deployments", "delete", "x", "--base-url", "http://127.0.0.1:9", "--api-key", "k"
    )
    assert run.code == 6
    assert run.err == "tramontane: error: cannot reach http://127.0.0.1:9: connection refused\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["xyzzy"], "No such command 'xyzzy'; see tramontane --help"),
        (["deployment"], "Did you mean 'deployments'?"),
        (["deployments", "lst"], "Did you mean 'list'?"),
        (["deployments", "scale"], "Missing argument 'DEPLOYMENT'"),
        (["deployments", "scale", "d", "many"], "Invalid value for 'N'"),
        (["deployments", "list", "--limit", "0"], "Invalid value for '--limit'"),
        (["deployments", "create", "d"], "Missing option '--model'"),
        (["deployments", "update", "d"], "nothing to change"),
        (["deployments", "create", "d", "--model", "m", "--engine-option", "x"], "NAME=VALUE"),
        (["deployments", "get", ""], "a name or an id is expected"),
        (["api-keys", "create", "k", "--role", "king"], "Invalid value for '--role'"),
        (["usage", "totals", "--from", "yesterday"], "--from must be a date or time such as"),
        (["whoami", "--nonsense"], "No such option: --nonsense"),
        (["whoami", "more"], "unexpected extra argument"),
        (["up", "--port", "99999"], "Invalid value for '--port'"),
        (["gateway"], "--control URL or --route-table FILE"),
        (["gateway", "--control", "http://c", "--route-table", "f"], "--control URL or"),
        (["whoami", "--base-url", "nonsense"], "the base URL must look like http://HOST:PORT/v1"),
        (["whoami", "--api-key", "a b"], "the API key must be printable ASCII"),
    ],
)
def test_wrong_usage_is_one_line_and_asks_nobody(
    serve: Serve, against: Against, arguments: list[str], told: str
) -> None:
    stub = serve(Reply({}))
    run = against(stub)(*arguments)
    assert (run.code, run.out) == (2, "")
    assert_one_line(run.err)
    assert told in run.err
    assert stub.requests == []


def test_a_settings_file_that_is_wrong_is_named(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "tramontane.toml").write_text("colour = 'red'\n")
    run = command_line("whoami")
    assert run.code == 2
    assert_one_line(run.err)
    assert "there is no setting 'colour'" in run.err
