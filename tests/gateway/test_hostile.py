"""Hostile and broken input over raw sockets: a clear 4xx, a closed or sane connection, no count."""

import contextlib
import json
import socket
import time

import pytest

from tests.support.gateway import (
    MEMBER_KEY,
    OPERATOR_KEY,
    OTHER_KEY,
    GatewayThread,
    chat_body,
    post,
    read_all,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tramontane.domain import tenancy

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
GOOD = json.dumps(chat_body()).encode()
AUTH = f"Authorization: Bearer {MEMBER_KEY}\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
UNKNOWN_KEY = tenancy.make_key(b"z" * 24)


def status_of(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1]) if reply else 0


def body_of(reply: bytes) -> dict:
    return json.loads(reply.split(b"\r\n\r\n", 1)[1])


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # a TLS hello
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\r\n folded: c\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\nHost: x\n\n", 400),
        (
            POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            400,
        ),
        (
            POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            POST + b"Transfer-Encoding: gzip\r\n\r\nhello",
            400,
        ),
        (
            POST + b"Transfer-Encoding: chunked, identity\r\n\r\nhello",
            400,
        ),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: 5x\r\n\r\nhello", 400),
        (
            POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
            400,
        ),
        (
            POST + b"Content-Length: 99999999999\r\n\r\n",
            413,
        ),
        (
            POST + b"" + AUTH.encode() + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
        (b"POST /v1/chat/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Expect: magic\r\n\r\n", 400),
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (
            b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            400,
        ),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 10_000 + b"\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 400_000, 431),
        (b"\r\n" * 40_000, 431),
    ],
)
def test_malformed_http_is_answered_and_hung_up(
    gateway: GatewayThread, engine: StubEngine, raw: bytes, status: int
):
    reply = gateway.raw(raw)
    assert status_of(reply) == status, reply[:300]
    body = body_of(reply)
    assert body["error"]["message"]
    assert body["object"] == "error"
    assert b"connection: close" in reply
    assert b"x-request-id: req_" in reply
    assert engine.ids == []
    assert gateway.chat().status_code == 200  # and the gateway is well


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b'{"model":"\xff\xfe"}', "invalid_json", None),
        (b'{"model":"demo","messages":[{"role":"user"}],"x":NaN}', "invalid_json", None),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", None),
        (
            b'{"model":"demo","messages":[{"role":"user","content":"\\ud83d"}]}',
            "invalid_json",
            None,
        ),
        (b'{"messages":[{"role":"user"}]}', "missing_required_parameter", "model"),
        (b'{"model":1,"messages":[{"role":"user"}]}', "invalid_value", "model"),
        (b'{"model":"demo","messages":{}}', "invalid_value", "messages"),
    ],
)
def test_a_bad_body_is_400_or_422_by_dialect_and_not_counted(
    gateway: GatewayThread, engine: StubEngine, raw: bytes, code: str, param: str | None
):
    with gateway.client() as client:
        openai = client.post(CHAT, content=raw)
        mistral = client.post("/mistral/v1/chat/completions", content=raw)
        agent = client.post(
            CHAT, content=raw, headers={"user-agent": "mistral-client-python/3.7.0"}
        )
        assert client.post(CHAT, json=chat_body()).status_code == 200  # same connection
    assert openai.status_code == 400
    assert openai.json()["error"]["code"] == code
    assert openai.json()["param"] == param
    assert mistral.status_code == agent.status_code == 422
    assert isinstance(mistral.json()["detail"], list)
    assert len(engine.ids) == 1


@pytest.mark.parametrize(
    ("authorization", "status", "code"),
    [
        (None, 401, "invalid_api_key"),
        ("", 401, "invalid_api_key"),
        ("Basic dXNlcjpwdw==", 401, "invalid_api_key"),
        ("Bearer", 401, "invalid_api_key"),
        ("Bearer sk-something", 401, "invalid_api_key"),
        (f"Bearer {MEMBER_KEY[:-1]}x", 401, "invalid_api_key"),
        (f"Bearer {UNKNOWN_KEY}", 401, "invalid_api_key"),
        (f"bearer   {MEMBER_KEY}", 200, None),
        (f"Bearer {OPERATOR_KEY}", 403, "permission_denied"),
        (f"Bearer {OTHER_KEY}", 404, "model_not_found"),
    ],
)
def test_who_may_call(
    gateway: GatewayThread,
    engine: StubEngine,
    authorization: str | None,
    status: int,
    code: str | None,
):
    headers = {} if authorization is None else {"authorization": authorization}
    with gateway.client(None) as client:
        reply = client.post(CHAT, json=chat_body(), headers=headers)
        models = client.get("/v1/models", headers=headers)
    assert reply.status_code == status
    assert ("www-authenticate" in reply.headers) == (status == 401)
    if code is not None:
        assert reply.json()["error"]["code"] == code
        assert engine.ids == []
    assert models.status_code == (200 if status == 404 else status)
    if status == 404:
        assert reply.json()["param"] == "model"
        assert models.json()["data"] == []


def test_a_header_that_is_not_ascii_is_no_key(gateway: GatewayThread):
    raw = POST + b"Connection: close\r\nAuthorization: Bearer tmt_\xff\xe9\r\n"
    assert status_of(gateway.raw(raw + b"Content-Length: 2\r\n\r\n{}")) == 401


def test_pipelined_requests_are_answered_in_order(gateway: GatewayThread, engine: StubEngine):
    bodies = [
        json.dumps(chat_body(stub={"text": f"t{n}-", "chunks": 1})).encode() for n in range(4)
    ]
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    reply = gateway.raw(b"".join(post(CHAT, body) for body in bodies) + last)
    found = [reply.index(f"t{n}-0".encode()) for n in range(4)]
    assert found == sorted(found)
    assert reply.count(b"HTTP/1.1 200 OK") == 5
    assert reply.endswith(b'{"status":"ok"}')
    assert len(engine.ids) == 4


def test_garbage_behind_a_good_request_does_not_spoil_its_answer(gateway: GatewayThread):
    slow = json.dumps(chat_body(stub={"delay_s": 0.1})).encode()
    reply = gateway.raw(post(CHAT, slow) + b"garbage garbage\r\n\r\n")
    assert status_of(reply) == 200
    assert reply.count(b"HTTP/1.1") == 1
    assert b"tok 2" in reply


def test_a_smuggled_second_request_is_not_served(gateway: GatewayThread, control: StubControl):
    raw = (
        b"POST /cloud/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding : chunked\r\n\r\n"
        b"0\r\n\r\nGET /cloud/v1/secret HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert status_of(gateway.raw(raw)) == 400
    assert all("secret" not in call.path for call in control.calls)


@pytest.mark.slow
def test_too_many_bytes_ahead_are_not_read(gateway: GatewayThread, engine: StubEngine):
    slow = json.dumps(chat_body(stub={"delay_s": 0.6})).encode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        sock.sendall(post(CHAT, slow))
        time.sleep(0.1)
        sock.settimeout(0.3)
        flood = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 40_000_000:
                sent += sock.send(flood)
        assert sent < 20_000_000
    assert gateway.chat().status_code == 200


def test_a_body_over_the_limit_is_413_before_it_is_read(gateway: GatewayThread):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        sock.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{AUTH}Content-Length: 50000000\r\n\r\n".encode()
        )
        assert status_of(read_all(sock)) == 413


def test_a_chunked_body_over_the_limit_is_413(gateway: GatewayThread, engine: StubEngine):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{AUTH}Transfer-Encoding: chunked\r\n\r\n"
    piece = b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20))
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        sock.sendall(head.encode())
        try:
            for _ in range(40):
                sock.sendall(piece)
        except OSError:
            pass
        reply = read_all(sock)
    assert status_of(reply) == 413
    assert body_of(reply)["error"]["code"] == "body_too_large"
    assert engine.ids == []


def test_a_stranger_cannot_send_a_long_body(gateway: GatewayThread):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        sock.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n".encode()
        )
        assert status_of(read_all(sock)) == 401


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        b"GET /health HT",
        b"GET /health HTTP/1.1\r\nHost: x\r\nA",
        b"PO",
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{AUTH}Content-Length: 100\r\n\r\nabc".encode(),
        POST + AUTH.encode() + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_a_slow_request_is_given_up(gateway: GatewayThread, start: bytes):
    began = time.monotonic()
    reply = gateway.raw(start)
    assert time.monotonic() - began < 3
    assert status_of(reply) in {408, 0}
    if start != b"PO":
        assert status_of(reply) == 408


@pytest.mark.slow
def test_bytes_that_drip_do_not_keep_a_request_alive(gateway: GatewayThread):
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        try:
            while time.monotonic() - began < 4:
                sock.sendall(b"A: b\r\n")
                time.sleep(0.05)
        except OSError:
            pass
    assert time.monotonic() - began < 3


def test_expect_100_continue(gateway: GatewayThread):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{AUTH}Expect: 100-continue\r\n"
    head += f"Connection: close\r\nContent-Length: {len(GOOD)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        sock.sendall(head.encode())
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(GOOD)
        assert status_of(read_all(sock)) == 200


def test_expect_is_refused_without_reading(gateway: GatewayThread):
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n"
    )
    assert status_of(gateway.raw(head.encode())) == 401


def test_http_1_0_gets_whole_replies_and_a_closed_connection(gateway: GatewayThread):
    def ask(body: dict) -> bytes:
        data = json.dumps(body).encode()
        return gateway.raw(
            f"POST {CHAT} HTTP/1.0\r\n{AUTH}Content-Length: {len(data)}\r\n\r\n".encode() + data
        )

    whole, stream = ask(chat_body()), ask(chat_body(stream=True))
    assert status_of(whole) == status_of(stream) == 200
    assert b"transfer-encoding" not in stream
    assert stream.endswith(b"data: [DONE]\n\n")


def test_the_absolute_form_and_a_trailer_are_understood(gateway: GatewayThread):
    raw = b"GET http://gateway.example/health?x=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert status_of(gateway.raw(raw)) == 200
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{AUTH}Connection: close\r\n"
    head += "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n"
    body = b"%x\r\n%b\r\n0\r\nAuthorization: Bearer no\r\nX: y\r\n\r\n" % (len(GOOD), GOOD)
    assert status_of(gateway.raw(head.encode() + body)) == 200


def test_a_body_byte_by_byte_is_one_body(gateway: GatewayThread):
    data = post(CHAT, GOOD, extra="Connection: close\r\n")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            sock.sendall(data[at : at + 1])
        assert status_of(read_all(sock)) == 200


def test_a_get_with_a_body_leaves_the_connection_in_a_known_state(gateway: GatewayThread):
    raw = b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    reply = gateway.raw(raw)
    assert status_of(reply) == 200
    assert reply.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "crumb",
    [
        b"1\r\n \r\n",
        b"1;" + b"x" * 5000 + b"\r\n \r\n",
        b"1;a=" + b'"' + b"y" * 300 + b'"\r\n \r\n',
    ],
)
def test_a_body_in_crumbs_is_refused(gateway: GatewayThread, engine: StubEngine, crumb: bytes):
    """A list of a million pieces of one byte takes fifty times the memory of the body."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{AUTH}Transfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        sock.sendall(head.encode())
        with contextlib.suppress(OSError):
            for _ in range(20):
                sock.sendall(crumb * (400_000 // len(crumb)))
        assert status_of(read_all(sock)) == 400
    assert engine.ids == []


def test_trailers_without_end_are_refused(gateway: GatewayThread):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{AUTH}Transfer-Encoding: chunked\r\n\r\n0\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        sock.sendall(head.encode())
        with contextlib.suppress(OSError):
            for _ in range(100):
                sock.sendall(b"A: b\r\n" * 10_000)
        assert status_of(read_all(sock)) in {400, 0}  # 0: the reset overtook it
    assert gateway.chat().status_code == 200


def test_small_chunks_are_no_crumbs(gateway: GatewayThread):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{AUTH}Connection: close\r\n"
    body = json.dumps(chat_body(user="u" * 200_000)).encode()
    pieces = [body[at : at + 16] for at in range(0, len(body), 16)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        sock.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        sock.sendall(chunks + b"0\r\n\r\n")
        assert status_of(read_all(sock)) == 200
