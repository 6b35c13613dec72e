"""Every input that fuzzing found worth keeping, replayed; and the checks themselves, checked."""

from pathlib import Path

import pytest

from tests.fuzz import client_side, engine_side
from tests.fuzz.strict_http import Framed, read_requests

CORPUS = Path(__file__).with_name("corpus")


@pytest.mark.parametrize("kind", ["client", "engine"])
def test_the_corpus_breaks_no_rule(kind: str):
    check = {"client": client_side.check, "engine": engine_side.check}[kind]
    inputs = sorted((CORPUS / kind).iterdir())
    assert len(inputs) > 10
    for path in inputs:
        try:
            check(path.read_bytes())
        except AssertionError as error:
            message = f"{path.name}: {error}"
            raise AssertionError(message) from error


POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("data", "bodies", "fault"),
    [
        (POST + b"Content-Length: 3\r\n\r\nabc", [b"abc"], None),
        (POST + b"Content-Length: 3\r\n\r\nab", [], None),
        (POST + b"\r\n" + POST + b"\r\n", [b"", b""], None),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", [b"a"], None),
        (POST + b"Content-Length: +3\r\n\r\nabc", [], "Content-Length"),
        (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", [], "Content-Length"),
        (POST + b"Content-Length : 3\r\n\r\nabc", [], "field line"),
        (POST + b" Content-Length: 3\r\n\r\nabc", [], "field line"),
        (POST + b"Host: y\r\n\r\n", [], "Host"),
        (b"POST /a HTTP/1.1\r\n\r\n", [], "Host"),
        (b"POST /a HTTP/1.1\nHost: x\n\r\n\r\n", [], "request line"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", [], "chunk head"),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", [], "Transfer-Encoding"),
    ],
)
def test_the_strict_reading_is_strict(data: bytes, bodies: list[bytes], fault: str | None):
    found, told = read_requests(data)
    assert [request.body for request in found] == bodies
    assert (told is None) == (fault is None)
    assert fault is None or fault in str(told)


def test_a_request_is_taken_as_it_is_framed():
    seen = client_side.check(b"\x01\x01\x28" + POST + b"Content-Length: 3\r\n\r\nabc")
    assert seen.taken == [Framed(b"POST", b"/a", b"abc")]
    assert seen.statuses == [200]


def test_a_reply_is_heard_as_it_is_framed():
    heard = engine_side.check(b"\x01\x01\x18HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
    assert (heard.status, heard.body, heard.ends) == (200, b"abc", 1)


@pytest.mark.parametrize("status", ["006", "199"])
def test_an_interim_reply_has_a_known_status_and_no_body(status: str):
    data = f"HTTP/1.1 {status} OK\r\nContent-Length: 3\r\n\r\nabc".encode()
    heard = engine_side.check(b"\x01\x00" + data)
    assert (heard.heads, heard.broken) == (0, "it did not answer in HTTP")
