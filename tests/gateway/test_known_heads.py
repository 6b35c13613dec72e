"""A head that the parser took before is not parsed again, and nothing is framed differently."""

import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.gateway import (
    MEMBER_KEY,
    GatewayThread,
    chat_body,
    make_route,
    make_table,
    read_all,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tramontane.gateway.known_heads import HEADS_MAX, KnownHeads


def message(length: int, head: bytes = b"POST / HTTP/1.1\r\nHost: a\r\n") -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % length + b"x" * length


@pytest.fixture
def heads() -> KnownHeads[str]:
    return KnownHeads()


def test_the_same_head_with_another_length_is_known(heads: KnownHeads[str]) -> None:
    heads.learn(message(5), 5, "found")
    found = heads.find(message(1234))
    assert found is not None
    what, body_at = found
    assert what == "found"
    assert message(1234)[body_at:] == b"x" * 1234


@pytest.mark.parametrize(
    "data",
    [
        message(5)[:-1],  # a byte is missing
        message(5) + b"P",  # the next request has begun
        message(5).replace(b"Host: a", b"Host: b"),
        message(5).replace(b": 5", b": +5"),
        message(5).replace(b": 5", b": 5 "),
        message(5).replace(b": 5", b": 5, 5"),
        message(5).replace(b": 5", b":  5"),
        message(5).replace(b": 5", b": 0000000005"),
        message(5).replace(b"Content-Length: 5", b"Content-Length: 5\r\ncontent-length: 5"),
        message(5).replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        message(5).replace(b"\r\n\r\n", b"\n\n"),
        b"",
    ],
)
def test_anything_else_is_the_parsers(heads: KnownHeads[str], data: bytes) -> None:
    heads.learn(message(5), 5, "found")
    assert heads.find(data) is None


def test_a_head_is_learned_only_with_the_length_that_the_parser_saw(
    heads: KnownHeads[str],
) -> None:
    # The digits stand in another header's value: the parser saw another length.
    trick = b"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n content-length: 3\r\n\r\nxxx"
    heads.learn(trick, 7, "wrong")
    assert heads.find(trick) is None
    heads.learn(message(5), 4, "wrong")
    assert heads.find(message(5)) is None


def test_it_starts_anew_when_it_is_full(heads: KnownHeads[str]) -> None:
    for number in range(3 * HEADS_MAX):
        head = b"POST /%d HTTP/1.1\r\nHost: a\r\n" % number
        heads.learn(message(1, head), 1, str(number))
    assert heads.find(message(1, head)) == (str(number), len(message(1, head)) - 1)
    assert len(heads) <= HEADS_MAX


@given(st.binary(max_size=300), st.integers(0, 50))
def test_no_bytes_break_it(data: bytes, length: int) -> None:
    heads: KnownHeads[int] = KnownHeads()
    heads.learn(data, length, 1)
    found = heads.find(data)
    if found is not None:
        assert len(data) - found[1] == length


def test_requests_and_replies_stay_apart_whatever_comes_between(
    engine: StubEngine, tmp_path: Path
) -> None:
    table = make_table(make_route([engine.address]))
    with StubControl(table) as control, GatewayThread(tmp_path / "gw", control.url) as gateway:
        gateway.wait_ready()
        with gateway.client() as client:
            sizes = [1, 900, 3, 40, 900, 1]
            for size in sizes:
                reply = client.post("/v1/chat/completions", json=chat_body(user="u" * size))
                assert reply.status_code == 200, reply.text
                assert client.get("/health").status_code == 200
        assert len(control.wait_events(len(sizes))) == len(sizes)


def test_a_known_head_after_half_a_request_belongs_to_that_request(
    engine: StubEngine, tmp_path: Path
) -> None:
    table = make_table(make_route([engine.address]))
    body = b'{"model":"demo","messages":[{"role":"user","content":"hello"}]}'
    known = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer "
        + MEMBER_KEY.encode()
        + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )
    with StubControl(table) as control, GatewayThread(tmp_path / "gw", control.url) as gateway:
        gateway.wait_ready()
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
            for _ in range(2):
                sock.sendall(known)
                assert sock.recv(65_536).startswith(b"HTTP/1.1 200")
        served = len(engine.ids)
        for begun in (b"GET /health HTTP/1.1\r\nHost: a\r\nX: y", b"P", b"\r\nPOS"):
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
                sock.sendall(known)
                assert sock.recv(65_536).startswith(b"HTTP/1.1 200")
                served += 1
                sock.sendall(begun)
                time.sleep(0.1)  # so that it is read by itself
                sock.sendall(known)
                assert read_all(sock).startswith(b"HTTP/1.1 400")
        assert len(engine.ids) == served
