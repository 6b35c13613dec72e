"""The clients of a soak: forty of them, each with one call at a time, of all kinds."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.gateway import MEMBER_KEY, MODEL, OTHER_KEY

CALL_LIMIT_S = 45.0  # no call of ours takes longer than five seconds when all goes well
PAUSE_S = 0.25  # of a client between two calls
KINDS = {
    "whole": 40,
    "stream": 35,
    "left": 8,
    "slow": 5,
    "long": 4,
    "embeddings": 4,
    "failing": 4,
}


@dataclass
class Call:
    """One call as its client saw it. ``tokens`` were asked for; ``is_whole``: the end was read."""

    kind: str
    tokens: int
    began_s: float
    status: int = 0
    request_id: str = ""
    is_whole: bool = False
    told: str = ""
    took_s: float = 0.0


@dataclass
class Load:
    """What all clients did."""

    ports: list[int]
    random: random.Random
    calls: list[Call] = field(default_factory=list)
    stuck: list[Call] = field(default_factory=list)
    is_over: bool = False

    async def run(self, clients: int) -> None:
        """Call until told to stop."""
        await asyncio.gather(*(self._client() for _ in range(clients)))

    async def _client(self) -> None:
        kept: dict[int, Connection] = {}
        while not self.is_over:
            port = self.random.choice(self.ports)
            call, body, path, key = self._next()
            try:
                async with asyncio.timeout(CALL_LIMIT_S):
                    connection = kept.get(port) or await Connection.open(port)
                    kept[port] = connection
                    await connection.call(call, path, key, body)
                if not connection.is_open:
                    del kept[port]
            except TimeoutError:
                self.stuck.append(call)
                _drop(kept, port)
            except (OSError, asyncio.IncompleteReadError, EOFError) as error:
                call.told = call.told or type(error).__name__
                _drop(kept, port)
            call.took_s = time.monotonic() - call.began_s
            self.calls.append(call)
            await asyncio.sleep(self.random.uniform(0, 2 * PAUSE_S))
        for port in list(kept):
            _drop(kept, port)

    def _next(self) -> tuple[Call, bytes, str, str]:
        dice = self.random
        kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
        tokens = dice.randint(1, 30)
        script: dict[str, Any] = {"chunks": tokens}
        asked: dict[str, Any] = {"model": MODEL}
        path = "/v1/chat/completions"
        if kind in {"stream", "left"} or (kind == "failing" and dice.random() < 0.5):
            asked["stream"] = True
            script["pause_s"] = dice.uniform(0.005, 0.05)
            if dice.random() < 0.5:
                asked["stream_options"] = {"include_usage": True}
        if kind == "slow":
            script["delay_s"] = dice.uniform(0.5, 2.5)
        if kind == "failing":
            script |= dice.choice(
                [{"die": "before"}, {"die": "chunks"}, {"status": 500}, {"error_after": 1}]
            )
        if kind == "embeddings":
            path, asked["input"] = "/v1/embeddings", ["a", "b"]
        else:
            size = 100_000 if kind == "long" else dice.randint(1, 400)
            asked["messages"] = [{"role": "user", "content": "x" * size}]
        body = json.dumps({**asked, "stub": script}).encode()
        return (
            Call(kind, tokens, time.monotonic()),
            body,
            path,
            dice.choice([MEMBER_KEY, OTHER_KEY]),
        )


class Connection:
    """One kept connection to a gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.is_open = True

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def call(self, call: Call, path: str, key: str, body: bytes) -> None:
        """Send one request and read what comes. Raises when the connection breaks."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await self._writer.drain()
        text = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = text.split("\r\n")
        headers = {
            k.lower(): v.strip() for k, _, v in (item.partition(":") for item in rest if item)
        }
        call.status = int(line.split(" ")[1])
        call.request_id = headers.get("x-request-id", "")
        self.is_open = headers.get("connection") != "close"
        if headers.get("transfer-encoding") == "chunked":
            await self._events(call)
        else:
            data = await self._reader.readexactly(int(headers["content-length"]))
            call.is_whole = call.status == 200
            if call.status != 200:
                call.told = data.decode(errors="replace")[:200]
        if not self.is_open:
            self.close()

    async def _events(self, call: Call) -> None:
        seen = b""
        leaves_after = call.tokens // 2 if call.kind == "left" else -1
        while size := int(await self._line(), 16):
            data = await self._reader.readexactly(size + 2)
            seen += data[:-2]
            if leaves_after >= 0 and seen.count(b"data:") > leaves_after:
                self.close()
                call.told = "left"
                return
        await self._line()
        call.is_whole = b"data: [DONE]" in seen

    async def _line(self) -> bytes:
        line = await self._reader.readline()
        if not line:
            raise EOFError
        return line

    def close(self) -> None:
        """Hang up."""
        self.is_open = False
        self._writer.transport.abort()


def _drop(kept: dict[int, Connection], port: int) -> None:
    connection = kept.pop(port, None)
    if connection is not None:
        connection.close()


async def every(pause_s: float, doing: Callable[[], None]) -> None:
    """Do something again and again until cancelled."""
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            doing()
            await asyncio.sleep(pause_s)
