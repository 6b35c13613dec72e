"""What models can do: in their cards, and in refusals before an engine is asked."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import GatewayThread, chat_body, make_route, make_table
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until
from tramontane.domain.catalog import Capabilities

ENCODER = Capabilities(
    generates=False, chats=False, fills_in=False, calls_functions=False, embeds=True
)
CODER = Capabilities(generates=True, chats=False, fills_in=True, calls_functions=False)
CHATTER = Capabilities(generates=True, chats=True, fills_in=False, embeds=False)
NAMED = {"encoder": ENCODER, "coder": CODER, "chatter": CHATTER, "unknown": Capabilities()}

CHAT = {"messages": [{"role": "user", "content": "x"}]}
GAP = {"prompt": "a", "suffix": "b"}
REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("encoder", "chat/completions", CHAT, "model"),
    ("encoder", "completions", {"prompt": "x"}, "model"),
    ("encoder", "fim/completions", GAP, "model"),
    ("encoder", "responses", {"input": "x"}, "model"),
    ("chatter", "fim/completions", GAP, "suffix"),
    ("chatter", "completions", GAP, "suffix"),
    ("chatter", "embeddings", {"input": "x"}, "model"),
]


@pytest.fixture
def engine() -> Any:
    with StubEngine() as engine:
        yield engine


@pytest.fixture
def client(tmp_path: Path, engine: StubEngine) -> Any:
    routes = [
        make_route([engine.address], model=name, upstream_model=name, capabilities=able)
        for name, able in NAMED.items()
    ]
    control = StubControl(make_table(*routes))
    with control, GatewayThread(tmp_path, control.url) as gateway, gateway.client() as client:
        until(lambda: client.get("/v1/models").status_code == 200, "the route table")
        yield client


def test_cards_tell_what_is_known(client: Any):
    told = {
        name: {
            word: able
            for word, able in client.get(f"/v1/models/{name}").json()["capabilities"].items()
            if word in {"completion_chat", "completion_fim", "function_calling"}
        }
        for name in NAMED
    }
    order = ("completion_chat", "completion_fim", "function_calling")
    assert {name: tuple(held[word] for word in order) for name, held in told.items()} == {
        "encoder": (False, False, False),
        "coder": (False, True, False),
        "chatter": (True, False, True),
        "unknown": (True, False, True),
    }


@pytest.mark.parametrize(("model", "path", "body", "param"), REFUSED)
def test_what_is_certain_is_refused_by_name(
    client: Any, engine: StubEngine, *, model: str, path: str, body: dict[str, Any], param: str
):
    reply = client.post(f"/v1/{path}", json={"model": model, **body})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_by_engine", param)
    assert repr(model) in error["message"]
    assert not engine.requests


@pytest.mark.parametrize("model", ["coder", "chatter", "unknown"])
def test_what_is_not_certain_goes_to_the_engine(client: Any, engine: StubEngine, model: str):
    assert client.post("/v1/chat/completions", json=chat_body() | {"model": model}).is_success
    assert [item.json["model"] for item in engine.requests] == [model]
