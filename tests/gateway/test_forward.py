"""Every other path goes to the control plane, whole, both ways."""

import json
import socket
from pathlib import Path

import pytest

from tests.support.gateway import MEMBER_KEY, GatewayThread, read_all
from tests.support.stub_control import StubControl


@pytest.fixture(autouse=True)
def usual_reply(control: StubControl) -> None:
    control.reply = (200, {"content-type": "application/json"}, b'{"ok":true}')


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_method_path_query_headers_and_body_arrive(
    gateway: GatewayThread, control: StubControl, method: str
):
    control.reply = (
        201,
        {
            "content-type": "text/plain",
            "x-thing": "a",
            "connection": "x-secret, close",
            "x-secret": "1",
        },
        b"made",
    )
    with gateway.client() as client:
        reply = client.request(
            method,
            "/cloud/v1/things/a%2Fb?x=1&y=%20",
            content=b"some body" if method != "GET" else None,
            headers={
                "x-mine": "yes",
                "x-forwarded-for": "1.2.3.4",
                "te": "trailers",
                "connection": "x-hop",
                "x-hop": "1",
            },
        )
    (call,) = control.calls
    assert (call.method, call.path) == (method, "/cloud/v1/things/a%2Fb?x=1&y=%20")
    assert call.body == (b"" if method == "GET" else b"some body")
    assert call.headers["authorization"] == f"Bearer {MEMBER_KEY}"
    assert call.headers["x-mine"] == "yes"
    assert call.headers["x-forwarded-for"] == "127.0.0.1"
    assert call.headers["x-request-id"] == reply.headers["x-request-id"]
    assert "x-hop" not in call.headers
    assert "te" not in call.headers
    assert (reply.status_code, reply.content, reply.headers["x-thing"]) == (201, b"made", "a")
    assert "x-secret" not in reply.headers


def test_a_chunked_upload_arrives_whole(gateway: GatewayThread, control: StubControl):
    pieces = [b"a" * 100_000, b"b" * 300_000, b"c"]
    with gateway.client() as client:
        assert client.post("/v1/files", content=iter(pieces)).status_code == 200
    assert control.calls[0].body == b"".join(pieces)
    assert control.calls[0].headers["transfer-encoding"] == "chunked"


def test_bodies_of_other_lengths_under_the_same_head_arrive_whole(
    gateway: GatewayThread, control: StubControl
):
    # One segment each, head and body: what may be served without parsing the head again.
    bodies = [b"some body", b"some longer body", b"short"]
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as client:
        for body in bodies:
            head = b"POST /cloud/v1/things HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"
            client.sendall(head % len(body) + body)
            told = b""
            while b'"ok":true}' not in told:
                piece = client.recv(65_536)
                assert piece, "the connection ended"
                told += piece
    assert [call.body for call in control.calls] == bodies


def test_a_large_upload_and_reply_arrive_whole(gateway: GatewayThread, control: StubControl):
    control.reply = (200, {"content-type": "application/octet-stream"}, b"r" * 20_000_000)
    with gateway.client() as client:
        reply = client.post("/v1/files", content=b"u" * 20_000_000)
    assert reply.content == b"r" * 20_000_000
    assert control.calls[0].body == b"u" * 20_000_000


def test_head_and_204_have_no_body_and_keep_the_connection(
    gateway: GatewayThread, control: StubControl
):
    with gateway.client() as client:
        head = client.head("/console")
        control.reply = (204, {}, b"")
        empty = client.delete("/cloud/v1/x")
        control.reply = (304, {"etag": "x"}, b"")
        same = client.get("/cloud/v1/x")
        assert client.get("/health").status_code == 200
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "11")
    assert (empty.status_code, empty.content) == (204, b"")
    assert (same.status_code, same.content) == (304, b"")


def test_a_doubled_prefix_is_made_single(gateway: GatewayThread, control: StubControl):
    with gateway.client() as client:
        client.get("/v1/cloud/v1/projects?limit=2")
        client.get("/v1/v1/files")
    assert [call.path for call in control.calls] == ["/cloud/v1/projects?limit=2", "/v1/files"]


def test_a_body_over_the_limit_is_refused(gateway: GatewayThread, control: StubControl):
    with gateway.client() as client:
        reply = client.post("/v1/files", content=b"x" * 34_000_000)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "body_too_large"


def test_http_1_0_clients_are_served(gateway: GatewayThread):
    reply = gateway.raw(b"GET /console HTTP/1.0\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 200")
    assert reply.endswith(b'{"ok":true}')


def test_pipelined_forwards_keep_their_order(gateway: GatewayThread, control: StubControl):
    post = b"POST /cloud/v1/%d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    last = b"GET /cloud/v1/9 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    reply = gateway.raw(b"".join(post % number for number in range(5)) + last)
    assert reply.count(b"200 OK") == 6
    assert [call.path[-1] for call in control.calls] == list("012349")
    assert [call.body for call in control.calls] == [b"abc"] * 5 + [b""]


def test_without_a_control_plane_the_answer_is_503(tmp_path: Path):
    with StubControl() as control:
        url = control.url
    with GatewayThread(tmp_path, url) as gateway, gateway.client() as client:
        reply = client.post("/cloud/v1/projects", json={"name": "x"})
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "unavailable"
        assert reply.headers["retry-after"] == "1"
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/ready").status_code == 503
        assert client.post("/v1/chat/completions", json={}).status_code == 503
        assert client.get("/v1/models").status_code == 503


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", 502),
        (b"garbage\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 502),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nshort", None),
    ],
)
def test_whatever_the_control_plane_says_the_client_gets_sense(
    tmp_path: Path, answer: bytes, expected: int | None
):
    """None: the reply began and was cut, and the client must notice."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with GatewayThread(tmp_path, url) as gateway, gateway.client() as client:
            asking = socket.create_connection(("127.0.0.1", gateway.port), timeout=5)
            asking.sendall(b"GET /cloud/v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            server.settimeout(5)
            while True:
                connection, _ = server.accept()
                connection.settimeout(5)
                head = connection.recv(65_536)
                if b"/cloud/v1/x" in head:
                    connection.sendall(answer)
                    connection.close()
                    break
                connection.close()
            raw = read_all(asking)
            asking.close()
            if expected is None:
                assert raw.startswith(b"HTTP/1.1 200")
                assert not raw.endswith(b"0\r\n\r\n")
                assert b"content-length: 5\r\n" not in raw.lower()
            else:
                assert raw.startswith(b"HTTP/1.1 %d" % expected)
            if expected == 502:
                assert json.loads(raw.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "upstream_error"
            assert client.get("/health").status_code == 200
