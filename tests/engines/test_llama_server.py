"""The embedded engine server with real, meaningless weights."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.random_gguf import write_random_encoder, write_random_gguf
from tests.support.waiting import until
from tramontane import llama_server
from tramontane.runner.linux import stat_fields

pytestmark = pytest.mark.slow
SECRET = "only-the-gateway"
CONTEXT = 256


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_gguf(tmp_path_factory.mktemp("weights") / "random.gguf")


class Server:
    """A running server; `call` returns the status, the body and the headers of a reply."""

    def __init__(self, child: subprocess.Popen[str], port: int) -> None:
        self.child = child
        self.port = port

    def call(
        self, path: str, body: object = None, *, key: str = SECRET, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        named = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, named)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                text, status, told = reply.read().decode(), reply.status, dict(reply.headers)
        except urllib.error.HTTPError as error:
            with error:
                text, status, told = error.read().decode(), error.code, dict(error.headers)
        return status, json.loads(text) if text.startswith("{") else text, told


@contextmanager
def serving(weights: Path, *words: str, parallel: int = 2) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    child = _start(weights, "--port", str(port), "--parallel", str(parallel), *words)
    try:
        server = Server(child, port)

        def is_healthy() -> bool:
            assert child.poll() is None
            try:
                return server.call("/health")[0] == 200
            except OSError:
                return False

        until(is_healthy)
        yield server
    finally:
        child.kill()
        child.communicate()


def test_it_serves_chat_and_embeddings_at_once(weights: Path) -> None:
    with serving(weights) as server:
        _, models, _ = server.call("/v1/models")
        assert [model["id"] for model in models["data"]] == ["small-talk"]
        chat = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0}
        answers: list[str] = []
        for _ in range(2):
            status, answer, _ = server.call("/v1/chat/completions", {**chat, "max_tokens": 5})
            assert status == 200
            assert answer["usage"]["completion_tokens"] <= 5
            answers.append(answer["choices"][0]["message"]["content"])
            status, vectors, _ = server.call("/v1/embeddings", {"input": ["a", "b"]})
            assert status == 200
            assert [len(item["embedding"]) for item in vectors["data"]] == [64, 64]
        assert answers[0] == answers[1]  # embedding in between changes nothing
        too_long = {"messages": [{"role": "user", "content": "x" * 2 * CONTEXT}]}
        status, refused, _ = server.call("/v1/chat/completions", too_long)
        assert (status, refused["error"]["type"]) == (400, "exceed_context_size_error")
        status, refused, _ = server.call("/v1/embeddings", {"input": "x" * 2 * CONTEXT})
        assert (status, refused["error"]["type"]) == (400, "exceed_context_size_error")


def test_traps_are_closed(weights: Path) -> None:
    with serving(weights) as server:
        chat = {"messages": [{"role": "user", "content": "a private matter"}], "max_tokens": 2}
        assert server.call("/v1/chat/completions", chat, key="wrong")[0] == 401
        assert server.call("/metrics", key="wrong")[0] == 401
        assert server.call("/v1/chat/completions", chat)[0] == 200
        assert "llamacpp:requests_processing 0" in server.call("/metrics")[1]
        assert server.call("/slots")[0] == 501  # it would show prompts
        assert server.call("/")[0] == 404  # no user interface
        _, _, headers = server.call("/health", Origin="http://elsewhere.example")
        assert not headers.get("Access-Control-Allow-Origin")
        status, _, _ = server.call("/v1/chat/completions", {"messages": "a private matter"})
        assert status == 400
        server.child.send_signal(signal.SIGTERM)
        printed, _ = server.child.communicate(timeout=5)
    assert "private" not in printed
    assert SECRET not in printed
    assert printed.startswith("serving small-talk at http://127.0.0.1:")


def test_encoders_embed_and_survive_a_chat(tmp_path: Path) -> None:
    weights = write_random_encoder(tmp_path / "encoder.gguf")
    assert llama_server.declares_pooling(weights)
    with serving(weights, "--mode", "embeddings") as server:
        status, vectors, _ = server.call("/v1/embeddings", {"input": "a b c"})
        assert status == 200
        assert len(vectors["data"][0]["embedding"]) == 64
        chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
        assert server.call("/v1/chat/completions", chat)[0] >= 400
        assert server.call("/v1/embeddings", {"input": "a b c"})[1] == vectors


def test_without_embeddings_it_says_so(weights: Path) -> None:
    with serving(weights, "--mode", "chat") as server:
        assert server.call("/v1/embeddings", {"input": "a"})[0] == 501


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_with_connections_open(weights: Path, signum: int) -> None:
    with serving(weights) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as half_asked:
            half_asked.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"
            )
            began = time.monotonic()
            server.child.send_signal(signum)
            assert server.child.wait(5) == 0
        assert time.monotonic() - began < 3


def test_a_sigterm_that_came_blocked_is_not_for_it(weights: Path) -> None:
    """The runner blocks it for engines on Slurm, which sends it to all processes of a job."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with serving(weights) as server:
            server.child.send_signal(signal.SIGTERM)
            status = Path(f"/proc/{server.child.pid}/status").read_text()
            pending = next(line for line in status.splitlines() if line.startswith("ShdPnd"))
            assert int(pending.split()[1], 16) & 1 << (signal.SIGTERM - 1)
            assert server.call("/health")[0] == 200
            server.child.send_signal(signal.SIGINT)
            assert server.child.wait(5) == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_many_callers_do_not_silence_the_health_check(weights: Path) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 240, "ignore_eos": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nAuthorization: Bearer {SECRET}\r\n"
    ask = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with serving(weights, parallel=1) as server, ExitStack() as callers:
        for _ in range(200):
            caller = socket.create_connection(("127.0.0.1", server.port))
            callers.enter_context(caller)
            caller.sendall(ask)
        began = time.monotonic()
        assert server.call("/health")[0] == 200
        assert time.monotonic() - began < 2
        assert server.call("/metrics")[0] == 200
        # A smaller pool of threads grows too slowly for a burst, whether one sees it or not.
        status = Path(f"/proc/{server.child.pid}/status").read_text()
        assert int(status.partition("Threads:")[2].split()[0]) > llama_server.HTTP_THREADS


def test_idle_it_takes_no_processor_and_little_memory(weights: Path) -> None:
    with serving(weights, parallel=4) as server:
        server.call("/v1/completions", {"prompt": "a", "max_tokens": 2})
        before = _cpu_ticks(server.child.pid)
        time.sleep(2)
        assert _cpu_ticks(server.child.pid) - before <= 2
        status = Path(f"/proc/{server.child.pid}/status").read_text()
        resident_kb = int(status.partition("VmRSS:")[2].split()[0])
        assert resident_kb < 100_000


def test_weights_that_cannot_be_loaded_are_the_reason(weights: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(weights.read_bytes()[:300_000])
    assert _fail(cut) == (1, "not within the file bounds, model is corrupted or incomplete")
    other = tmp_path / "other.gguf"
    other.write_text("hello, I am not a model")
    assert _fail(other) == (1, "invalid magic characters: 'hell', expected 'GGUF'")
    absent = tmp_path / "absent.gguf"
    assert _fail(absent) == (os.EX_NOINPUT, "absent.gguf is not a file: expected GGUF weights")


def test_a_port_in_use_is_told_so_that_the_runner_tries_another(weights: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert _fail(weights, "--port", port) == (1, "couldn't bind HTTP server socket")


def test_devices_need_a_build_that_drives_them(weights: Path) -> None:
    status, said = _fail(weights, "--gpu-layers", "9")
    assert (status, said) == (
        os.EX_UNAVAILABLE,
        "this build of xllamacpp drives no accelerator; install its CUDA wheel",
    )


def test_missing_processor_features_are_named(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : old\nflags\t\t: fpu pni ssse3 avx f16c\n")
    if os.uname().machine == "x86_64":
        assert llama_server.missing_x86_features(cpuinfo) == ["avx2", "bmi2", "fma"]
    assert llama_server.missing_x86_features() == []
    assert llama_server.missing_x86_features(tmp_path / "absent") == []


REASONS = (
    "not within the file bounds, model is corrupted or incomplete",
    "invalid magic characters: 'hell', expected 'GGUF'",
    "absent.gguf is not a file: expected GGUF weights",
    "couldn't bind HTTP server socket",
    "this build of xllamacpp drives no accelerator; install its CUDA wheel",
)


def _fail(weights: Path, *words: str) -> tuple[int, str]:
    """Return the exit status and which of the known reasons stands on standard error."""
    child = _start(weights, "--port", "0", *words)
    printed, _ = child.communicate(timeout=20)
    told = [reason for reason in REASONS if reason in printed]
    assert told, printed
    return child.returncode, told[0]


def _start(weights: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tramontane.llama_server", "--model", str(weights)]
    return subprocess.Popen(
        [*command, "--alias", "small-talk", "--context-length", str(CONTEXT), *words],
        env={"PATH": os.environ["PATH"], "TRAMONTANE_REPLICA_SECRET": SECRET},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _cpu_ticks(pid: int) -> int:
    fields = stat_fields(pid)
    assert fields is not None
    return int(fields[11]) + int(fields[12])
