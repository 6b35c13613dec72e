"""Load from many connections: asks, streams, leaves midway, and writes down how each ask ended.

It speaks HTTP/1.1 over plain asyncio streams, so that it costs little beside what it measures
and so that a connection ends exactly when and how the test wants.
"""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

ANSWER_TIMEOUT_S: Final = 60.0
_QUESTIONS: Final = ("What is Tramontane?", "Who are you?", "Hello!", "What is a deployment?")


@dataclass(frozen=True)
class Ask:
    """One request to make. ``leave`` closes the connection midway, kindly or by a reset."""

    model: str
    is_stream: bool
    max_tokens: int = 8
    leave: bool = False
    reset: bool = False
    leave_after_s: float = 0.01  # for a reply in one piece
    leave_after_chunks: int = 1  # for a stream


@dataclass
class Ending:
    """How one request ended: answered, refused (a whole reply, not 200), left by us, or cut."""

    ask: Ask
    how: str = "cut"
    status: int | None = None
    request_id: str | None = None
    detail: str = ""
    began_s: float = field(default_factory=time.time)
    ended_s: float = 0.0


class Connection:
    """One client connection, opened when needed and kept while the server keeps it."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def make(self, ask: Ask) -> Ending:
        """Make one request and follow it to its end, whatever that is."""
        ending = Ending(ask)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._make(ask, ending)
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError) as error:
            ending.detail = f"{type(error).__name__}: {error}"
            await self.close()
        ending.ended_s = time.time()
        return ending

    async def close(self, *, reset: bool = False) -> None:
        """Close the connection; ``reset`` sends RST in place of FIN."""
        if self._writer is None:
            return
        writer, self._writer, self._reader = self._writer, None, None
        if reset:
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _make(self, ask: Ask, ending: Ending) -> None:
        reader, writer = await self._open()
        writer.write(_request(ask, self._key))
        if ask.leave and not ask.is_stream:
            await asyncio.sleep(ask.leave_after_s)
            await self._leave(ask, ending)
            return
        head = await reader.readuntil(b"\r\n\r\n")
        ending.status, headers = _parse_head(head)
        ending.request_id = headers.get("x-request-id")
        if headers.get("transfer-encoding") == "chunked":
            await self._follow(reader, ask, ending)
        else:
            body = await reader.readexactly(int(headers["content-length"]))
            ending.how = "answered" if ending.status == 200 else "refused"
            if ending.status != 200:
                ending.detail = body[:500].decode(errors="replace")
        if headers.get("connection") == "close":
            await self.close()

    async def _follow(self, reader: asyncio.StreamReader, ask: Ask, ending: Ending) -> None:
        tail = b""
        for passed in itertools.count():
            if ask.leave and passed >= ask.leave_after_chunks:
                await self._leave(ask, ending)
                return
            size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
            piece = await reader.readexactly(size + 2)
            if size == 0:
                break
            tail = (tail + piece[:-2])[-400:]
        is_whole = not ask.is_stream or tail.endswith(b"data: [DONE]\n\n")
        ending.how = "refused" if ending.status != 200 else "answered" if is_whole else "cut"
        if ending.how != "answered":
            ending.detail = tail.decode(errors="replace")

    async def _leave(self, ask: Ask, ending: Ending) -> None:
        ending.how = "left"
        await self.close(reset=ask.reset)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None or self._reader.at_eof():
            await self.close()
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self._reader, self._writer


class Load:
    """Requests from ``connections`` connections until the asks run out or `stop` is called."""

    def __init__(self, port: int, key: str, asks: Iterable[Ask], connections: int) -> None:
        self.endings: list[Ending] = []
        self.in_flight = 0
        self._asks = iter(asks)
        self._connections = [Connection(port, key) for _ in range(connections)]
        self._stopped = False

    def stop(self) -> None:
        """Let every connection finish its request and make no other."""
        self._stopped = True

    async def run(self) -> list[Ending]:
        """Make the requests; returns how each ended."""
        await asyncio.gather(*(self._work(connection) for connection in self._connections))
        return self.endings

    def counts(self) -> Counter[str]:
        """Count the endings by how they ended."""
        return Counter(ending.how for ending in self.endings)

    async def _work(self, connection: Connection) -> None:
        for ask in self._asks:
            self.in_flight += 1
            self.endings.append(await connection.make(ask))
            self.in_flight -= 1
            if self._stopped:
                break
        await connection.close()


def mixed_asks(model: str, count: int, seed: int, *, leave_share: float = 0.0) -> Iterable[Ask]:
    """Yield ``count`` asks, half of them streams, ``leave_share`` of them left midway."""
    chance = random.Random(seed)
    for _ in range(count):
        yield Ask(
            model,
            is_stream=chance.random() < 0.5,
            max_tokens=chance.randint(4, 12),
            leave=chance.random() < leave_share,
            reset=chance.random() < 0.5,
            leave_after_s=chance.uniform(0, 0.05),
            leave_after_chunks=chance.randint(0, 3),
        )


def endless_asks(model: str, seed: int) -> Iterable[Ask]:
    """Yield asks for ever, half of them streams, all followed to their end."""
    chance = random.Random(seed)
    while True:
        yield Ask(model, is_stream=chance.random() < 0.5, max_tokens=chance.randint(4, 24))


def _request(ask: Ask, key: str) -> bytes:
    question = _QUESTIONS[ask.max_tokens % len(_QUESTIONS)]
    body: dict[str, Any] = {
        "model": ask.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": ask.max_tokens,
        "stream": ask.is_stream,
    }
    text = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in lines if line)
    return int(first.split()[1]), {name.strip().lower(): value.strip() for name, value in pairs}
