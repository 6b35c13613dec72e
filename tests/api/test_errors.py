"""Errors that are nobody's input: unknown paths, wrong methods, outages and bugs."""

import logging
import re
from typing import Any

import pytest

from tests.support.cloud import Cloud, check_error
from tramontane.store.db import StaleError, StoreUnavailableError


def test_every_reply_has_a_request_id(shared_cloud: Cloud) -> None:
    first = shared_cloud.call("GET", "/cloud/v1/whoami").headers["x-request-id"]
    second = shared_cloud.call("GET", "/cloud/v1/no-such").headers["x-request-id"]
    assert re.fullmatch(r"req_[a-z2-7]{20}", first)
    assert first != second


@pytest.mark.parametrize("given", ["req_abc", "0a-b.c_D", "x" * 128])
def test_the_gateways_request_id_is_kept(shared_cloud: Cloud, given: str) -> None:
    reply = shared_cloud.call("GET", "/cloud/v1/whoami", headers={"x-request-id": given})
    assert reply.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "\u00fc", "a\tb", "<script>"])
def test_a_strange_request_id_is_replaced(shared_cloud: Cloud, given: str) -> None:
    headers = {"x-request-id": given.encode()}
    reply = shared_cloud.call("GET", "/cloud/v1/whoami", headers=headers)
    assert reply.headers["x-request-id"].startswith("req_")


def test_nothing_is_cached(shared_cloud: Cloud) -> None:
    assert shared_cloud.call("GET", "/cloud/v1/whoami").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    ["/", "/cloud", "/cloud/v1", "/cloud/v1/nothing", "/docs", "/redoc", "/internal/v1", "//"],
)
def test_unknown_paths(shared_cloud: Cloud, path: str) -> None:
    message = check_error(shared_cloud.call("GET", path), 404, "not_found")
    assert "/cloud/v1/openapi.json" in message


def test_an_unknown_path_in_strange_letters(shared_cloud: Cloud) -> None:
    message = check_error(shared_cloud.call("GET", "/\u00e9%00%0a" + "x" * 5_000), 404, "not_found")
    assert "\\xe9\\x00\\nxxx" in message


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/deployments", "GET, POST"),
        ("POST", "/deployments/x", "DELETE, GET, PATCH"),
        ("GET", "/deployments/x/scale", "POST"),
        ("PATCH", "/models/x", "DELETE, GET"),
        ("TRACE", "/whoami", "GET"),
        ("OPTIONS", "/usage/events", "GET"),
    ],
)
def test_wrong_methods(shared_cloud: Cloud, method: str, path: str, allowed: str) -> None:
    reply = shared_cloud.call(method, f"/cloud/v1{path}")
    message = check_error(reply, 405, "method_not_allowed")
    assert f"use {allowed}" in message
    assert reply.headers["allow"] == allowed


def test_a_slash_at_the_end_is_the_same_path(shared_cloud: Cloud) -> None:
    assert shared_cloud.cloud("GET", "/deployments/")["data"]
    reply = shared_cloud.call("POST", "/cloud/v1/deployments/", json={"name": "tramontane-demo"})
    check_error(reply, 400, "missing_required_parameter", "model")


def failing(cloud: Cloud, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(cloud.services.fleet, "clusters", fail)


def test_an_outage_of_the_store(shared_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(shared_cloud, StoreUnavailableError("host db.internal is down"), monkeypatch)
    reply = shared_cloud.call("GET", "/cloud/v1/clusters")
    message = check_error(reply, 503, "unavailable")
    assert "try again" in message
    assert "db.internal" not in reply.text
    assert reply.headers["retry-after"] == "2"


def test_a_store_that_is_really_gone(cloud: Cloud) -> None:
    cloud.db.close()
    for path in cloud.folder.glob("tramontane.sqlite*"):
        path.unlink()
    (cloud.folder / "tramontane.sqlite").mkdir()
    reply = cloud.call("GET", "/cloud/v1/clusters")
    check_error(reply, 503, "unavailable")


def test_a_write_that_crossed_another(shared_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(shared_cloud, StaleError("deployment", "dep_x"), monkeypatch)
    reply = shared_cloud.call("GET", "/cloud/v1/clusters")
    assert "read it again" in check_error(reply, 409, "conflict")
    assert reply.headers["x-should-retry"] == "false"


def test_a_bug(
    shared_cloud: Cloud, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing(shared_cloud, RuntimeError("the secret is 4711"), monkeypatch)
    with caplog.at_level(logging.ERROR):
        reply = shared_cloud.call("GET", "/cloud/v1/clusters", content=b"body with a secret")
    message = check_error(reply, 500, "internal_error")
    request_id = reply.headers["x-request-id"]
    assert request_id in message
    assert "4711" not in reply.text
    assert "Traceback" not in reply.text
    assert request_id in caplog.text
    assert "Traceback" in caplog.text
    assert "body with a secret" not in caplog.text
    assert shared_cloud.keys.admin_key not in caplog.text


def test_a_bug_in_a_reply(shared_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_cloud.services.fleet, "clusters", lambda **_: None)
    check_error(shared_cloud.call("GET", "/cloud/v1/clusters"), 500, "internal_error")
