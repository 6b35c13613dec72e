"""A reading of HTTP/1.1 requests by the letter of RFC 9112, slow and with nothing let through.

It is what the gateway's own reading is held against: whatever that accepts, this must frame in
the same way. Written from the grammar alone and sharing no code with the gateway.
"""

import re
from dataclasses import dataclass

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# Several spaces before the version are let through, as RFC 9112, 3 allows: framing is the same.
REQUEST_LINE = re.compile(rb"(%b) +([!-~\x80-\xff]+) +HTTP/1\.([01])" % TOKEN)
FIELD = re.compile(
    rb"(%b):[ \t]*(|[!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?)[ \t]*" % TOKEN
)
CHUNK_HEAD = re.compile(rb"([0-9A-Fa-f]+)((?:[ \t]*;[ \t!-~\x80-\xff]*)?)")


@dataclass(frozen=True)
class Framed:
    """One request: what a server and whoever stands before it must agree on."""

    method: bytes
    target: bytes
    body: bytes


class StrictError(Exception):
    """The bytes are not what the grammar allows."""


class _MoreError(Exception):
    """The bytes end before the request does."""


def read_requests(data: bytes) -> tuple[list[Framed], str | None]:
    """Return the whole requests at the start of ``data``, and what is wrong with what follows."""
    found: list[Framed] = []
    at = 0
    try:
        while at < len(data):
            # RFC 9112, 2.2: empty lines before a request. llhttp passes over each CR and LF there;
            # nothing can be hidden in them.
            while data[at : at + 1] in {b"\r", b"\n"}:
                at += 1
            if at >= len(data):
                break
            request, at = _request(data, at)
            found.append(request)
    except _MoreError:
        return found, None
    except StrictError as error:
        return found, str(error)
    return found, None


def _request(data: bytes, at: int) -> tuple[Framed, int]:
    line, at = _line(data, at)
    start = REQUEST_LINE.fullmatch(line)
    if start is None:
        msg = f"request line {line[:60]!r}"
        raise StrictError(msg)
    fields: list[tuple[bytes, bytes]] = []
    while True:
        line, at = _line(data, at)
        if not line:
            break
        field = FIELD.fullmatch(line)
        if field is None:
            msg = f"field line {line[:60]!r}"
            raise StrictError(msg)
        fields.append((field[1].lower(), field[2]))
    body, at = _body(data, at, fields, is_11=start[3] == b"1")
    return Framed(start[1], start[2], body), at


def _body(
    data: bytes, at: int, fields: list[tuple[bytes, bytes]], *, is_11: bool
) -> tuple[bytes, int]:
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) > 1 or (is_11 and not hosts):
        msg = "Host"
        raise StrictError(msg)
    if codings:
        if lengths or len(codings) > 1 or codings[0].lower() != b"chunked" or not is_11:
            msg = "Transfer-Encoding"
            raise StrictError(msg)
        return _chunked(data, at)
    if not lengths:
        return b"", at
    if len(lengths) > 1 or not lengths[0].isdigit():
        msg = "Content-Length"
        raise StrictError(msg)
    return _take(data, at, int(lengths[0]))


def _chunked(data: bytes, at: int) -> tuple[bytes, int]:
    parts: list[bytes] = []
    while True:
        line, at = _line(data, at)
        head = CHUNK_HEAD.fullmatch(line)
        if head is None:
            msg = f"chunk head {line[:60]!r}"
            raise StrictError(msg)
        size = int(head[1], 16)
        if size == 0:
            break
        part, at = _take(data, at, size)
        parts.append(part)
        end, at = _take(data, at, 2)
        if end != b"\r\n":
            msg = f"chunk end {end!r}"
            raise StrictError(msg)
    while True:
        line, at = _line(data, at)
        if not line:
            return b"".join(parts), at
        if FIELD.fullmatch(line) is None:
            msg = f"trailer {line[:60]!r}"
            raise StrictError(msg)


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\r\n", at)
    if end < 0:
        raise _MoreError
    return data[at:end], end + 2


def _take(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    if len(data) - at < length:
        raise _MoreError
    return data[at : at + length], at + length
