"""Which path is served how: mounts, slashes, doubled prefixes, methods, models, /internal."""

from pathlib import Path

import pytest

from tests.support.gateway import MODEL, GatewayThread, chat_body, make_route, make_table
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine

PREFIXES = ["/v1", "/v1/v1", "/openai/v1", "/mistral/v1", "/openai/v1/v1", "/mistral/v1/v1"]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("slash", ["", "/"])
def test_inference_is_served_below_every_mount(
    gateway: GatewayThread, control: StubControl, prefix: str, slash: str
):
    calls = [
        ("chat/completions", chat_body()),
        ("completions", {"model": MODEL, "prompt": "hello"}),
        ("embeddings", {"model": MODEL, "input": ["hello"]}),
    ]
    endpoints = set()
    with gateway.client() as client:
        for path, body in calls:
            reply = client.post(f"{prefix}/{path}{slash}", json=body)
            assert reply.status_code == 200, path
            endpoints.add(control.wait_event(reply.headers["x-request-id"])["endpoint"])
        assert client.get(f"{prefix}/models{slash}").json()["data"][0]["id"] == MODEL
        assert client.get(f"{prefix}/models/{MODEL}{slash}").json()["id"] == MODEL
    assert endpoints == {"chat.completions", "completions", "embeddings"}
    assert control.calls == []


def test_an_embedding_has_the_id_that_mistral_needs(gateway: GatewayThread):
    with gateway.client() as client:
        reply = client.post("/v1/embeddings", json={"model": MODEL, "input": "x"}).json()
        empty = client.post(
            "/v1/embeddings", json={"model": MODEL, "input": "x", "stub": {"raw": " { } "}}
        )
        named = client.post(
            "/v1/embeddings", json={"model": MODEL, "input": "x", "stub": {"raw": '{"id":"mine"}'}}
        )
    assert reply["id"].startswith("embd-")
    assert reply["data"][0]["embedding"] == [0.5, -1.0]
    assert list(empty.json()) == ["id"]
    assert named.json() == {"id": "mine"}


def test_a_model_card_has_what_both_clients_read(gateway: GatewayThread):
    with gateway.client() as client:
        listing = client.get("/v1/models").json()
    (card,) = listing["data"]
    assert listing["object"] == "list"
    assert card["object"] == "model"
    assert card["type"] == "base"
    assert card["capabilities"]["completion_chat"] is True
    assert card["max_context_length"] == 2048
    assert card["created"] == 1_700_000_000


def test_model_names_may_hold_slashes_and_colons(
    tmp_path: Path, engine: StubEngine, control: StubControl
):
    name = "org/model:7b"
    table = make_table(make_route([engine.address], model=name, upstream_model="inner"))
    with StubControl(table) as own, GatewayThread(tmp_path, own.url) as gateway:
        gateway.wait_ready()
        with gateway.client() as client:
            assert client.get("/v1/models/org/model:7b").json()["id"] == name
            assert client.get("/v1/models/org%2Fmodel%3A7b").json()["id"] == name
        assert gateway.chat(model=name).json()["model"] == name
        assert engine.requests[-1].json["model"] == "inner"
        chunks = gateway.stream(model=name)
        assert all(f'"model":"{name}"' in chunk for chunk in chunks[:-1])


def test_a_model_of_another_project_does_not_exist(gateway: GatewayThread):
    with gateway.client() as client:
        missing = client.get("/v1/models/nope")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"
    assert missing.json()["param"] == "model"
    chat = gateway.chat(model="nope")
    assert chat.status_code == 404
    assert chat.json()["error"]["code"] == "model_not_found"
    assert chat.json()["object"] == "error"


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_health_and_ready_need_no_key(gateway: GatewayThread, prefix: str):
    with gateway.client(None) as client:
        assert client.get(f"{prefix}/health").json() == {"status": "ok"}
        assert client.get(f"{prefix}/ready").json() == {"status": "ready"}
        head = client.head(f"{prefix}/health")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "15")


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/chat/completions", 405, "POST, OPTIONS"),
        ("HEAD", "/v1/chat/completions", 405, "POST, OPTIONS"),
        ("DELETE", "/v1/embeddings/", 405, "POST, OPTIONS"),
        ("OPTIONS", "/v1/chat/completions", 204, "POST, OPTIONS"),
        ("POST", "/v1/models", 405, "GET, HEAD, OPTIONS"),
        ("POST", "/health", 405, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "/v1/models/x", 204, "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_says_which_is_right(
    gateway: GatewayThread, method: str, path: str, status: int, allow: str
):
    with gateway.client() as client:
        reply = client.request(method, path)
        assert client.get("/health").status_code == 200
    assert reply.status_code == status
    assert reply.headers["allow"] == allow
    if status == 405 and method != "HEAD":
        assert reply.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    [
        "/internal/v1/route-table?revision=0&wait_s=0",
        "/internal",
        "//internal/v1/route-table",
        "/./internal/v1/route-table",
        "/internal;x/v1/route-table",
        "/%2569nternal/v1/route-table",
        "/cloud/..\\internal/v1/route-table",
        "/v1/files/..;/..;/internal/v1/route-table",
        "/x/../internal/v1/route-table",
        "/%69nternal/v1/route-table",
        "/v1/internal/v1/route-table",
        "/v1/%69nternal/v1/route-table",
        "/openai/v1/internal/v1/route-table",
        "/%2e/internal/v1/route-table",
        "/v1/v1/internal/v1/route-table",
    ],
)
def test_internal_paths_do_not_exist(gateway: GatewayThread, control: StubControl, path: str):
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer gateway-token\r\n"
    reply = gateway.raw(f"{head}Connection: close\r\n\r\n".encode())
    assert b" 404 " in reply.split(b"\r\n")[0]
    assert b"hmac" not in reply
    assert all("internal" not in call.path.lower() for call in control.calls)


@pytest.mark.parametrize("prefix", ["/v1", "/mistral/v1", "/v1/v1"])
@pytest.mark.parametrize(
    "path", ["moderations", "chat/moderations/", "classifications", "chat/classifications", "ocr"]
)
def test_what_no_model_here_does_is_said_by_name(
    gateway: GatewayThread, control: StubControl, prefix: str, path: str
):
    with gateway.client() as client:
        reply = client.post(f"{prefix}/{path}", json={"model": MODEL, "input": "x"})
    assert reply.status_code == 404
    told = reply.json()
    assert told["error"]["code"] == told["code"] == "not_found"
    assert told["message"].startswith(f"POST /v1/{path.rstrip('/')} is part of the API, but no")
    assert control.calls == []
