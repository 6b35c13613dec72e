"""What a request costs whose client leaves, or of whose answers one fails: what it took so far."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import GatewayThread, chat_body, make_route, make_table, post
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine() -> Iterator[StubEngine]:
    with StubEngine() as stub:
        yield stub


@pytest.fixture(scope="module")
def control(engine: StubEngine) -> Iterator[StubControl]:
    with StubControl(make_table(make_route([engine.address]))) as stub:
        yield stub


@pytest.fixture(scope="module")
def shared(
    control: StubControl, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayThread]:
    with GatewayThread(tmp_path_factory.mktemp("gateway"), control.url) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def gateway(shared: GatewayThread, engine: StubEngine) -> GatewayThread:
    engine.requests.clear()
    return shared


CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def texts(*stubs: dict[str, object], **fields: object) -> dict[str, object]:
    """A request with an answer for each prompt; the stub reads its orders in the prompt."""
    return {"model": "demo", "prompt": [json.dumps({"stub": stub}) for stub in stubs], **fields}


def cost_of(event: dict) -> tuple[str, int, int, int]:
    return event["outcome"], event["status"], event["prompt_tokens"], event["completion_tokens"]


def wait_one_event(control: StubControl, engine: StubEngine) -> dict:
    until(lambda: engine.ids, "the engine to be asked")
    return control.wait_event(engine.ids[0])


@pytest.mark.parametrize(
    ("last", "status"),
    [({"status": 400, "delay_s": 0.2}, 400), ({"die": "before", "delay_s": 0.2}, 502)],
)
def test_answers_that_were_made_are_settled_when_one_fails(
    gateway: GatewayThread, engine: StubEngine, control: StubControl, last: dict, status: int
) -> None:
    with gateway.client() as client:
        reply = client.post("/v1/completions", json=texts({"chunks": 5}, {"chunks": 4}, last))
    assert reply.status_code == status, reply.text
    event = control.wait_event(reply.headers["x-request-id"])
    assert cost_of(event) == ("cut", status, 14, 9)
    assert event["token_source"] == "counted"


def test_a_request_of_which_no_answer_was_made_costs_nothing(
    gateway: GatewayThread, control: StubControl
) -> None:
    bad: dict[str, object] = {"status": 400}
    with gateway.client() as client:
        reply = client.post("/v1/completions", json=texts(bad, bad))
    assert cost_of(control.wait_event(reply.headers["x-request-id"])) == ("failed", 400, 0, 0)


def test_a_client_that_leaves_pays_the_answers_that_were_made(
    gateway: GatewayThread, engine: StubEngine, control: StubControl
) -> None:
    body = texts({"chunks": 5}, {"chunks": 4}, {"delay_s": 9})
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        sock.sendall(post("/v1/completions", json.dumps(body).encode()))
        until(lambda: [seen.ended for seen in engine.requests].count("answered") == 2)
    assert cost_of(wait_one_event(control, engine)) == ("cut", 499, 14, 9)


def test_streams_of_answers_pay_prompts_and_pieces_when_one_fails(
    gateway: GatewayThread, engine: StubEngine, control: StubControl
) -> None:
    last = {"chunks": 2, "die": "chunks", "progress": True, "pause_s": 0.05}
    with gateway.client() as client:
        body = texts({"chunks": 5}, last, stream=True)
        told: list[bytes] = []
        with (
            client.stream("POST", "/v1/completions", json=body) as reply,
            pytest.raises(httpx.RemoteProtocolError),
        ):
            told.extend(reply.iter_bytes())
        assert b'"finish_reason":"error"' in b"".join(told)
        assert b"[DONE]" not in b"".join(told)
    event = wait_one_event(control, engine)
    assert cost_of(event)[:3] == ("cut", 200, 14)
    assert event["completion_tokens"] >= 7


@pytest.mark.parametrize(
    ("engine_name", "stub"),
    [
        ("llamacpp", {"progress": True, "pause_s": 0.2, "chunks": 50}),
        ("vllm", {"running_usage": True, "pause_s": 0.2, "chunks": 50}),
    ],
)
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_a_prompt_that_was_read_is_paid_though_the_client_leaves(
    tmp_path: Path, engine: StubEngine, engine_name: str, stub: dict, path: str
) -> None:
    """Each stream tells how long its prompt was before its first token, whatever the dialect."""
    engine.requests.clear()
    table = make_table(make_route([engine.address], engine=engine_name))
    with StubControl(table) as control, GatewayThread(tmp_path, control.url) as own:
        own.wait_ready()
        engine.script = stub
        try:
            body = chat_body(stream=True)
            if path == RESPONSES:
                body["input"] = body.pop("messages")
            with socket.create_connection(("127.0.0.1", own.port), timeout=5) as sock:
                sock.sendall(post(path, json.dumps(body).encode()))
                told = b""
                while b"tok 0" not in told:
                    told += sock.recv(65_536)
        finally:
            engine.script = {}
        event = wait_one_event(control, engine)
        assert cost_of(event)[:3] == ("cut", 200, 7)
        assert 1 <= event["completion_tokens"] < 50


def test_an_engine_that_counts_below_zero_is_not_believed(
    gateway: GatewayThread, engine: StubEngine, control: StubControl
) -> None:
    usage = {"prompt_tokens": -5, "completion_tokens": 2}
    whole = {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}]}
    engine.script = {"raw": json.dumps({**whole, "usage": usage})}
    try:
        with gateway.client() as client:
            for path, name in ((CHAT, "messages"), (RESPONSES, "input")):
                body = {"model": "demo", name: [{"role": "user", "content": "x"}]}
                reply = client.post(path, json=body)
                assert reply.status_code == 200, reply.text
                event = control.wait_event(reply.headers["x-request-id"])
                assert cost_of(event) == ("completed", 200, 0, 0)
    finally:
        engine.script = {}
