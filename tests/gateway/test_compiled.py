"""The gateway with its hot path compiled: it is machine code, and does what the source says."""

import asyncio
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.test_admission_limits import limit, limited
from tests.gateway.test_killed_streams import all_until_killed
from tests.gateway.test_tool_calls import TOOLS
from tests.support.gateway import (
    MEMBER_KEY,
    OPERATOR_KEY,
    OTHER_KEY,
    OTHER_PROJECT,
    GatewayProcess,
    chat_body,
    data_of,
    key_hash,
    make_route,
    make_table,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until
from tramontane import __version__

# The build takes a minute of a free core, and is kept as long as no source changes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

ROOT = Path(__file__).parents[2]
COMPILED = ROOT / "build" / "compiled"
LIMIT = 4
LOOK = """
import importlib, sys, types
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    assert module.__file__.endswith(".so"), module
    own = [each for each in vars(module).values() if getattr(each, "__module__", "") == name]
    assert not [each for each in own if isinstance(each, types.FunctionType)], module
"""


def build() -> str:
    command = ["nice", "bash", str(ROOT / ".ci" / "compiled"), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def hot_path() -> list[Path]:
    """Return the modules that the build compiles, as the build itself names them."""
    return [Path(path) for path in runpy.run_path(str(ROOT / "setup.py"))["modules"]()]


@pytest.fixture(scope="module")
def built() -> Path:
    build()
    return COMPILED


@pytest.fixture(scope="module")
def engine() -> Iterator[StubEngine]:
    with StubEngine() as stub:
        yield stub


@pytest.fixture(scope="module")
def control(engine: StubEngine) -> Iterator[StubControl]:
    """One whose limit binds the member's key; the other key, of a project of its own, is free."""
    table = limited(engine, limit(requests_per_minute_max=LIMIT))
    hashed = key_hash(OTHER_KEY)
    keys = table.keys | {hashed: replace(table.keys[hashed], may_store=True)}
    free = make_route([engine.address], project_id=OTHER_PROJECT)
    with StubControl(replace(table, keys=keys, routes=(*table.routes, free))) as stub:
        yield stub


@pytest.fixture(scope="module")
def gateway(
    built: Path, control: StubControl, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("compiled")
    with GatewayProcess(home, control.url, PYTHONPATH=str(built)) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with gateway.client(OTHER_KEY) as client:
        yield client


def event_of(control: StubControl, reply: httpx.Response) -> dict[str, Any]:
    return control.wait_event(reply.headers["x-request-id"])


def test_its_hot_path_is_machine_code(gateway: GatewayProcess, built: Path) -> None:
    """Each of its modules is, the process has the library mapped, and it says so itself."""
    assert gateway.process is not None
    maps = Path(f"/proc/{gateway.process.pid}/maps").read_text()
    assert f"{built}/tramontane_gateway__mypyc.cpython-" in maps
    with gateway.client(OPERATOR_KEY) as client:
        assert 'build="compiled"' in client.get("/metrics").text
    assert not list((ROOT / "src").rglob("*.so"))
    environment = {**os.environ, "PYTHONPATH": str(built)}
    names = [".".join(path.relative_to("src").with_suffix("").parts) for path in hot_path()]
    assert "tramontane.gateway.exchange" in names
    look = [sys.executable, "-c", LOOK, *names]
    subprocess.run(look, env=environment, check=True)
    version = [sys.executable, "-m", "tramontane.main", "--version"]
    told = subprocess.run(version, capture_output=True, text=True, env=environment, check=True)
    assert told.stdout == f"tramontane {__version__}, the gateway compiled\n"


def test_a_second_build_does_nothing(built: Path) -> None:
    before = (built / "digest").stat().st_mtime_ns
    assert "up to date" in build()
    assert (built / "digest").stat().st_mtime_ns == before


def test_a_chat(client: httpx.Client, control: StubControl) -> None:
    reply = client.post("/v1/chat/completions", json=chat_body())
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] == "tok 0tok 1tok 2"
    event = event_of(control, reply)
    assert event["outcome"] == "completed"
    assert (event["prompt_tokens"], event["completion_tokens"]) == (7, 3)


@pytest.mark.parametrize("split", [0, 7])
def test_a_stream(client: httpx.Client, control: StubControl, split: int) -> None:
    body = chat_body(stream=True, stub={"chunks": 5, "split": split})
    reply = client.post("/v1/chat/completions", json=body)
    *data, done = data_of(reply.text)
    assert done == "[DONE]"
    parts = [json.loads(item)["choices"][0]["delta"].get("content") or "" for item in data]
    assert "".join(parts) == "tok 0tok 1tok 2tok 3tok 4"
    event = event_of(control, reply)
    assert (event["outcome"], event["completion_tokens"]) == ("completed", 5)


def test_a_streamed_tool_call(client: httpx.Client) -> None:
    stub = {"chunks": 2, "pieces": ['{"ci', 'ty": "Par', 'is"}']}
    body = chat_body(stream=True, tools=TOOLS, stub=stub)
    *data, _ = data_of(client.post("/v1/chat/completions", json=body).text)
    choices = [json.loads(item)["choices"][0] for item in data]
    (calls,) = [c["delta"]["tool_calls"] for c in choices if c["delta"].get("tool_calls")]
    assert calls[0]["function"] == {"name": "look", "arguments": '{"city": "Paris"}'}
    assert choices[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_two_answers_to_one_request(
    client: httpx.Client, control: StubControl, *, stream: bool
) -> None:
    reply = client.post("/v1/chat/completions", json=chat_body(n=2, stream=stream))
    assert reply.status_code == 200, reply.text
    pieces = [json.loads(item) for item in data_of(reply.text)[:-1]] if stream else [reply.json()]
    assert {c["index"] for piece in pieces for c in piece["choices"]} == {0, 1}
    assert event_of(control, reply)["completion_tokens"] == 6


def test_embeddings(client: httpx.Client, control: StubControl) -> None:
    reply = client.post("/v1/embeddings", json={"model": "demo", "input": "a"})
    assert reply.status_code == 200, reply.text
    assert reply.json()["data"][0]["embedding"] == [0.5, -1.0]
    assert event_of(control, reply)["endpoint"] == "embeddings"


def test_a_gap_is_filled(client: httpx.Client) -> None:
    body = {"model": "demo", "prompt": "def f(", "suffix": "return 1"}
    reply = client.post("/v1/fim/completions", json=body)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_response(client: httpx.Client, *, stream: bool) -> None:
    reply = client.post("/v1/responses", json={"model": "demo", "input": "hello", "stream": stream})
    assert reply.status_code == 200, reply.text
    last = json.loads(data_of(reply.text)[-1])["response"] if stream else reply.json()
    assert last["status"] == "completed"
    assert last["output"][0]["content"][0]["text"] == "tok 0tok 1tok 2"


def test_a_response_in_the_background(client: httpx.Client, control: StubControl) -> None:
    body = {"model": "demo", "input": "hello", "background": True}
    queued = client.post("/v1/responses", json=body)
    assert queued.json()["status"] == "queued", queued.text
    kept = control.stored.kept
    until(lambda: kept[queued.json()["id"]]["response"]["status"] == "completed", "its end")


def test_refusals(client: httpx.Client, gateway: GatewayProcess) -> None:
    hot = client.post("/v1/chat/completions", json=chat_body(temperature="hot"))
    assert (hot.status_code, hot.json()["error"]["param"]) == (400, "temperature")
    unknown = client.post("/v1/chat/completions", json=chat_body() | {"model": "no"})
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert gateway.chat(key="sk-nobody").status_code == 401
    assert gateway.raw(b"NONSENSE\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_target_in_the_absolute_form(gateway: GatewayProcess) -> None:
    """What the parser leaves out of a URL is None, whatever its types say."""
    head = f"Host: x\r\nConnection: close\r\nAuthorization: Bearer {OTHER_KEY}\r\n\r\n"
    for target, status in {"http://a.b/v1/models": 200, "http://a.b": 400, "a.b:443": 400}.items():
        said = gateway.raw(f"GET {target} HTTP/1.1\r\n{head}".encode())
        assert said.startswith(f"HTTP/1.1 {status} ".encode()), target


def test_a_limit_is_exact(gateway: GatewayProcess) -> None:
    replies = [gateway.chat(key=MEMBER_KEY) for _ in range(LIMIT + 2)]
    assert [reply.status_code for reply in replies] == [200] * LIMIT + [429] * 2
    assert replies[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert int(replies[-1].headers["retry-after"]) <= 60


def test_streams_cut_by_a_kill_are_counted(built: Path, engine: StubEngine, tmp_path: Path) -> None:
    with (
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayProcess(tmp_path, control.url, PYTHONPATH=str(built)) as gateway,
    ):
        gateway.wait_ready()
        streams = asyncio.run(all_until_killed(gateway, 20))
        gateway.start()
        events = {event["request_id"]: event for event in control.wait_events(20)}
    assert {event["outcome"] for event in events.values()} == {"cut"}
    for stream in streams:
        assert 2 <= stream.tokens <= events[stream.request_id]["completion_tokens"]
