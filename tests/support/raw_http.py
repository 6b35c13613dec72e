"""An HTTP server that answers with the bytes it is told to, and a proxy that mistreats replies."""

import contextlib
import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


class Last(bytes):
    """What is sent before the connection is closed."""


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class RawServer:
    """Answers each request with the bytes of ``answer``; None closes the connection instead."""

    def __init__(self, answer: Callable[[Request], bytes | None]) -> None:
        self._answer = answer
        self.requests: list[Request] = []
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Close every connection."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as stream:
                while request := _read(stream):
                    self.requests.append(request)
                    reply = self._answer(request)
                    if reply is None:
                        return
                    connection.sendall(reply)
                    if isinstance(reply, Last):
                        return
        except OSError:
            return


def _read(stream) -> Request | None:
    first = stream.readline().split()
    if len(first) != 3:
        return None
    headers: dict[str, str] = {}
    while (line := stream.readline()) not in {b"\r\n", b""}:
        name, _, value = line.decode().partition(":")
        headers[name.strip().lower()] = value.strip()
    body = stream.read(int(headers.get("content-length", 0)))
    return Request(first[0].decode(), first[1].decode(), headers, body)


def reply(body: bytes, status: int = 200) -> bytes:
    """Return a whole reply that keeps the connection."""
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class HostileProxy(RawServer):
    """In front of ``target``: drops, delays, cuts and doubles what comes back, by chance.

    ``harm`` is how much of all that is mistreated, 0 to 1. ``done`` counts the ways.
    """

    def __init__(self, target: str, *, seed: int, harm: float = 0.0) -> None:
        super().__init__(self._forward)
        self._place = urlsplit(target).netloc
        self._random = random.Random(seed)
        self.harm = harm
        self.done: Counter[str] = Counter()

    def _forward(self, request: Request) -> bytes | None:
        way = "nothing"
        if self._random.random() < self.harm:
            way = self._random.choice(["lose", "drop", "delay", "cut", "double"])
        self.done[way] += 1
        if way == "lose":  # the question never arrives
            return None
        upstream = http.client.HTTPConnection(self._place, timeout=60)
        kept = {"content-type", "accept", "x-slurm-user-name", "x-slurm-user-token"}
        headers = {name: value for name, value in request.headers.items() if name in kept}
        upstream.request(request.method, request.target, request.body or None, headers)
        answer = upstream.getresponse()
        whole = reply(answer.read(), answer.status)
        upstream.close()
        if way == "drop":  # it was carried out, and nobody says so
            return None
        if way == "delay":
            time.sleep(self._random.uniform(0.05, 0.4))
        if way == "cut":
            return Last(whole[: len(whole) // 2])
        return whole * 2 if way == "double" else whole
