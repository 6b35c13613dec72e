"""Bad input through the public port: a 4xx that names the field, and nothing has changed."""

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.system import DEMO, System
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

REVOKED_MAX_S = 5.0
BODY_MAX_BYTES = 1024 * 1024
TERABYTE = 10**12

# What is sent to POST /deployments over {"name": "bad", "model": <demo>} -> status, code, field,
# and a pattern that the message must hold: what was expected.
BAD_DEPLOYMENTS: dict[str, tuple[dict[str, Any], int, str, str, str]] = {
    "unknown model": ({"model": "no-such"}, 404, "model_not_found", "model", "no-such"),
    "no model": ({"model": None}, 400, "", "model", ""),
    "name taken": ({"name": DEMO}, 409, "name_taken", "name", DEMO),
    "upper case name": ({"name": "Bad_Name"}, 400, "invalid_value", "name", "a-z"),
    "empty name": ({"name": ""}, 400, "invalid_value", "name", ""),
    "name too long": ({"name": "a" * 64}, 400, "invalid_value", "name", "63"),
    "name with a dash first": ({"name": "-a"}, 400, "invalid_value", "name", ""),
    "negative replicas": ({"replicas": -1}, 400, "invalid_value", "replicas", "0"),
    "absurd replicas": ({"replicas": 10**6}, 400, "invalid_value", "replicas", "256"),
    "replicas not a number": ({"replicas": "many"}, 400, "invalid_value", "replicas", "integer"),
    "too much memory": (
        {"memory_bytes": 500 * TERABYTE},
        400,
        "does_not_fit",
        "memory_bytes",
        r"\d",
    ),
    "too many devices": ({"devices": 64}, 400, "", "devices", r"\d"),
    "unknown field": ({"replica_count": 3}, 400, "", "replica_count", ""),
    "unknown engine": ({"engine": "abacus"}, 400, "", "engine", "llamacpp"),
    "context too long": ({"context_length": 10**9}, 400, "", "context_length", r"\d"),
}


@pytest.fixture(autouse=True)
def nothing_changes(system: System) -> Iterator[None]:
    """Compare all that the management API shows before and after each test."""
    before = shown(system)
    yield
    assert shown(system) == before


def shown(system: System) -> dict[str, Any]:
    """Return everything that the management API lists, less what a running system changes."""
    seen: dict[str, Any] = {}
    for noun in ("organizations", "projects", "models", "deployments", "api-keys"):
        seen[noun] = [
            {name: value for name, value in item.items() if not name.endswith("_at_ms")}
            for item in system.pages(f"/{noun}")
            if "bad-input-key" not in json.dumps(item)
        ]
    seen["replicas"] = [item["id"] for item in system.pages("/replicas")]
    return seen


def send(system: System, method: str, path: str, **sent: Any) -> httpx.Response:
    key = sent.pop("key", None) or system.credentials["admin_key"]
    headers = {"authorization": f"Bearer {key}"} | sent.pop("headers", {})
    url = f"{system.root}{path}"
    return httpx.request(method, url, headers=headers, timeout=30, trust_env=False, **sent)


def check_refusal(
    reply: httpx.Response, status: int, code: str, field: str | None, pattern: str = ""
) -> None:
    """Check the union error body: both dialects' places, the field, and what was expected."""
    assert reply.status_code == status, reply.text
    body = reply.json()
    error = body["error"]
    assert body["object"] == "error"
    for name in ("message", "type", "param", "code"):
        assert body[name] == error[name]
    if code:
        assert error["code"] == code, body
    if field is not None:
        assert error["param"] == field, body
        assert field.split("_")[0] in error["message"], body
    assert re.search(pattern, error["message"]), body
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize("case", BAD_DEPLOYMENTS)
def test_bad_deployment(system: System, case: str) -> None:
    changes, status, code, field, pattern = BAD_DEPLOYMENTS[case]
    body = {"name": "bad", "model": system.deployment()["model"]} | changes
    reply = send(system, "POST", "/cloud/v1/deployments", json=body)
    check_refusal(reply, status, code, field, pattern)


@pytest.mark.parametrize("replicas", [-1, 10**6, 1.5, "two", None])
def test_bad_scale(system: System, replicas: object) -> None:
    path = f"/cloud/v1/deployments/{DEMO}/scale"
    reply = send(system, "POST", path, json={"replicas": replicas})
    check_refusal(reply, 400, "", "replicas")


def test_a_model_that_does_not_fit_says_by_how_much(system: System) -> None:
    body = {"name": "bad", "model": system.deployment()["model"], "memory_bytes": 5 * TERABYTE}
    reply = send(system, "POST", "/cloud/v1/deployments", json=body)
    check_refusal(reply, 400, "does_not_fit", None)
    message = reply.json()["message"]
    assert len(re.findall(r"\d[\d.,]*", message)) >= 2, message


def test_a_digest_that_does_not_match(system: System, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(demo_weights(system))
    wrong = "sha256:" + "0" * 64
    body = {"name": "bad", "path": str(model), "digest": wrong}
    reply = send(system, "POST", "/cloud/v1/models", json=body)
    check_refusal(reply, 400, "digest_mismatch", "digest", "0000")


@pytest.mark.parametrize("kind", ["text", "pickle", "pickle folder", "truncated", "nothing"])
def test_a_file_that_is_no_model(system: System, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.gguf"
    if kind == "text":
        path.write_text("not a model")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"weights": [1.0]}))
    elif kind == "pickle folder":
        path = tmp_path / "folder"
        path.mkdir()
        (path / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": [1.0]}))
        (path / "config.json").write_text('{"architectures": ["MistralForCausalLM"]}')
    elif kind == "truncated":
        path.write_bytes(demo_weights(system)[:1000])
    reply = send(system, "POST", "/cloud/v1/models", json={"name": "bad", "path": str(path)})
    assert 400 <= reply.status_code < 500
    check_refusal(reply, reply.status_code, "", "path")


@pytest.mark.parametrize("path", ["/cloud/v1/deployments", "/v1/chat/completions"])
@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"\xff\xfe", b'"text"'])
def test_a_body_that_is_not_json(system: System, path: str, body: bytes) -> None:
    key = system.api_key
    headers = {"content-type": "application/json"}
    reply = send(system, "POST", path, content=body, headers=headers, key=key)
    check_refusal(reply, 400, "", None, "JSON")


@pytest.mark.parametrize("size_bytes", [BODY_MAX_BYTES + 64, 20 * BODY_MAX_BYTES])
def test_a_body_over_the_limit_of_the_management_api(system: System, size_bytes: int) -> None:
    body = json.dumps({"name": "x" * size_bytes}).encode()
    for _ in range(5):  # the reply must not be lost in the reset of what nobody read
        reply = send(system, "POST", "/cloud/v1/deployments", content=body)
        check_refusal(reply, 413, "body_too_large", None, r"\d")


def test_a_large_body_to_nowhere(system: System) -> None:
    for _ in range(5):
        reply = send(system, "POST", "/v1/files", content=b"x" * BODY_MAX_BYTES)
        check_refusal(reply, 404, "not_found", None, "/v1/files")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/cloud/v1/deployments"])
@pytest.mark.parametrize("shown", ["Bearer tmt_wrong", "Bearer", "", "Basic tmt_wrong"])
def test_a_wrong_key(system: System, path: str, shown: str) -> None:
    method = "POST" if path.endswith("completions") else "GET"
    headers = {"authorization": shown}
    reply = send(system, method, path, headers=headers, json={"model": DEMO, "messages": []})
    check_refusal(reply, 401, "invalid_api_key", None, "key")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "tmt_wrong" not in reply.text


def test_no_key_at_all(system: System) -> None:
    for path in ("/v1/models", "/cloud/v1/deployments"):
        reply = httpx.get(f"{system.root}{path}", trust_env=False)
        check_refusal(reply, 401, "invalid_api_key", None, "key")


def test_a_revoked_key_is_refused_within_five_seconds(system: System) -> None:
    made = system.cloud("POST", "/api-keys", json={"name": "bad-input-key"})
    key = made["secret"] if "secret" in made else made["key"]
    until(lambda: system.chat(key=key).status_code == 200, "the new key to be known", 5)
    system.cloud("DELETE", f"/api-keys/{made['id']}")
    until(lambda: system.chat(key=key).status_code == 401, "the key's end", REVOKED_MAX_S)
    check_refusal(system.chat(key=key), 401, "invalid_api_key", None, "key")
    reply = send(system, "GET", "/cloud/v1/deployments", key=key)
    check_refusal(reply, 401, "invalid_api_key", None, "key")


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_unknown_model_is_not_found(system: System, is_stream: bool) -> None:
    reply = system.chat(model="no-such-model", stream=is_stream)
    check_refusal(reply, 404, "model_not_found", "model", "no-such-model")


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize("noun", ["deployments", "models", "api-keys", "replicas", "projects"])
def test_what_is_not_there_is_not_found(system: System, noun: str, method: str) -> None:
    reply = send(system, method, f"/cloud/v1/{noun}/no-such-thing", json={})
    assert reply.status_code in (404, 405), reply.text
    assert reply.json()["error"]["message"]


def test_nothing_internal_is_reachable_from_outside(system: System) -> None:
    token = json.loads((system.home / "secrets.json").read_text())["gateway_token"]
    for path in ("/internal/v1/route-table", "/internal/v1/usage-events", "/internal/"):
        for key in (token, system.credentials["admin_key"]):
            assert send(system, "GET", path, key=key).status_code == 404


def demo_weights(system: System) -> bytes:
    """Return the bytes of the demo model that this repository ships."""
    (path,) = (Path(__file__).parents[2] / "models" / "demo").glob("*.gguf")
    return path.read_bytes()
