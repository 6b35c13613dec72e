"""``tramontane chat``: one answer from a pipe, a talk on a terminal."""

import contextlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.cli import CommandLine, Reply, Request, Stub, chunks, environment_of, error
from tests.support.terminal import Terminal

Serve = Callable[[Any], Stub]
Against = Callable[[Stub], CommandLine]
SSE = {"Content-Type": "text/event-stream"}


def test_one_message(serve: Serve, against: Against) -> None:
    stub = serve(chunks("Bon", "jour", usage=2))
    run = against(stub)(
        "chat", "demo", "--system", "Be kind.", "--message", "hello", "--max-tokens", "9"
    )
    assert (run.code, run.out, run.err) == (0, "Bonjour\n", "")
    body = stub.requests[0].body
    assert (body["model"], body["stream"], body["max_tokens"]) == ("demo", True, 9)
    assert body["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hello"},
    ]


def test_an_answer_cannot_play_with_the_terminal(serve: Serve, against: Against) -> None:
    run = against(serve(chunks("a\x1b]0;owned\x07b\n", "c")))("chat", "demo", "--message", "x")
    assert run.out == "a?]0;owned?b\nc\n"


@pytest.mark.slow
def test_a_piped_text_is_one_message(serve: Serve) -> None:
    stub = serve(chunks("hi"))
    done = piped(stub, b"what is\nthis? \xff\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi\n", b"")
    assert stub.requests[0].body["messages"][0]["content"] == "what is\nthis? \\xff"


@pytest.mark.slow
def test_an_empty_pipe_is_told(serve: Serve) -> None:
    stub = serve(chunks("hi"))
    done = piped(stub, b"\n")
    assert done.returncode == 1
    assert b"nothing to ask: give --message TEXT" in done.stderr
    assert stub.requests == []


@pytest.mark.parametrize(
    ("reply", "code", "told"),
    [
        (error(404, "model_not_found", "there is no demo"), 3, "there is no demo"),
        (error(401, "invalid_api_key", "wrong key"), 4, "the key came from --api-key"),
        (error(503, "no_ready_replica", "starting", retry_after="4"), 6, "try again in 4 s"),
        (Reply({"choices": []}), 6, "no event stream"),
        (chunks("half", done=False), 6, "broke off its answer before the end"),
        (Reply(b'data: {"choices": [{"delta": {}}]}\n\ndata: [1]\n\n', headers=SSE), 6, "not an"),
    ],
    ids=["404", "401", "503", "no-stream", "half", "odd"],
)
def test_errors_are_one_line(
    serve: Serve, against: Against, reply: Reply, code: int, told: str
) -> None:
    run = against(serve(reply))("chat", "demo", "--message", "x")
    assert run.code == code
    assert run.err.startswith("tramontane: error: ")
    assert run.err.count("\n") == 1
    assert told in run.err


def test_chunks_of_any_shape_are_read(serve: Serve, against: Against) -> None:
    odd = b'data: {"choices": 5}\n\ndata: {"choices": [3, {"delta": 4}, {"delta": {"content": 5}}]}'
    odd += b'\n\ndata: {"choices": [{"delta": {"content": "ok"}}], "usage": 7}\n\ndata: [DONE]\n\n'
    run = against(serve(Reply(odd, headers=SSE)))("chat", "demo", "--message", "x")
    assert (run.code, run.out) == (0, "ok\n")


def piped(stub: Stub, text: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "tramontane.main", "chat", "demo"],
        input=text,
        env=environment_of(stub),
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_a_talk_on_a_terminal(serve: Serve) -> None:
    calls: list[Request] = []

    def answer(request: Request) -> Reply:
        calls.append(request)
        question = request.body["messages"][-1]["content"]
        if question == "fail":
            return error(503, "no_ready_replica", "no replica is ready")
        return chunks(f"answer to {question}", usage=3)

    terminal = Terminal(["chat", "demo"], environment_of(serve(answer)))
    try:
        terminal.expect("> ")
        terminal.type("one\n")
        terminal.expect("answer to one")
        terminal.expect("> ")
        terminal.type("two\n")
        terminal.expect("answer to two")
        said = [message["content"] for message in calls[-1].body["messages"]]
        assert said == ["one", "answer to one", "two"]

        terminal.type("/what\n")
        terminal.expect("there is no /what; /help lists what there is")
        terminal.type("/help\n")
        terminal.expect("/reset  forget the talk so far")
        terminal.type("/reset\n")
        terminal.expect("forgotten")
        terminal.type("fail\n")
        terminal.expect("no replica is ready")
        terminal.type("three\n")
        terminal.expect("answer to three")
        assert [message["content"] for message in calls[-1].body["messages"]] == ["three"]

        terminal.type("/exit\n")
        assert terminal.process.wait(timeout=20) == 0
    finally:
        terminal.close()


@pytest.mark.slow
def test_ctrl_c_stops_an_answer_and_ctrl_d_leaves(serve: Serve) -> None:
    endless = Reply(chunks("never ", "ending", done=False).body, headers=SSE, stall_s=20.0)
    terminal = Terminal(["chat", "demo"], environment_of(serve(endless)))
    try:
        terminal.expect("> ")
        terminal.type("go on\n")
        terminal.expect("never ending")
        terminal.interrupt()
        terminal.expect("(stopped; Ctrl-C again leaves)")
        terminal.expect("> ")
        terminal.type("\x04")
        assert terminal.process.wait(timeout=20) == 0
    finally:
        terminal.close()


@pytest.mark.slow
def test_ctrl_c_at_the_prompt_leaves(serve: Serve) -> None:
    terminal = Terminal(["chat", "demo"], environment_of(serve(chunks("hi"))))
    try:
        terminal.expect("> ")
        for _ in range(10):  # a key may be pressed a moment before the terminal listens
            terminal.interrupt()
            with contextlib.suppress(subprocess.TimeoutExpired):
                terminal.process.wait(timeout=2)
                break
        assert terminal.process.poll() == 0
    finally:
        terminal.close()
