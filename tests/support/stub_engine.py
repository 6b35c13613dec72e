"""A scripted engine: chat, completions and embeddings over HTTP/1.1, on real sockets.

Each request says in its own field ``stub``, or in its prompt as JSON, how it is to be answered
(`Script`), so that a test reads in one place. The engine writes down the id and the body of every
request whose head it read. It also runs as a process of its own:
``python -m tests.support.stub_engine --port N``.
"""

import argparse
import asyncio
import contextlib
import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECRET = "engine-secret"


@dataclass
class Script:
    """How one request is answered. Times in seconds."""

    status: int = 200
    chunks: int = 3  # tokens of the answer
    delay_s: float = 0.0  # before the head of the reply
    pause_s: float = 0.0  # before each chunk
    die: str = ""  # "before" a byte, "head" after it, "chunks" after `chunks`, "finish" after it
    raw: str | None = None  # the whole reply body in place of a sensible one
    message: str = "the stub was told to fail"
    kind: str = "server_error"
    text: str = "tok "
    eol: str = "\n"
    split: int = 0  # write the stream in pieces of this many bytes
    usage: bool = True
    error_after: int | None = None  # put an error event after this many chunks
    framing: str = "chunked"  # or "length", or "close"
    cached: int = 1
    progress: bool = False  # tell the prompt's tokens first, as llama.cpp does when asked
    running_usage: bool = False  # a usage on every chunk, as vLLM does when asked
    pieces: tuple[str, ...] = ()  # of the arguments of one tool call, each in a chunk


@dataclass
class Seen:
    """One request that reached the engine."""

    request_id: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    ended: str = "open"  # "answered", "left" when the client hung up
    chunks: int = 0
    at_s: float = field(default_factory=time.monotonic)
    ended_s: float = 0.0

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class StubEngine:
    """The engine, in a thread with a loop of its own. Use it as a context manager."""

    def __init__(
        self, port: int = 0, log: Path | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._tls = tls
        self.requests: list[Seen] = []
        self.connections = 0
        self.healthy = True
        self.script: dict[str, Any] = {}  # for requests that bring none of their own
        self.loading = False  # answers 503 to everything, as engines do while they load
        self.log = log
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        return self._port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def ids(self) -> list[str]:
        return [seen.request_id for seen in self.requests]

    def __enter__(self) -> "StubEngine":
        self._thread.start()
        assert self._started.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Drop everything, as a killed engine does."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    def drop_connections(self) -> None:
        """Close every open connection but go on listening."""
        self._loop.call_soon_threadsafe(self._drop_connections)

    def _drop_connections(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._close())
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, ssl=self._tls
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._drop_connections()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            with contextlib.suppress(Exception):
                writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.split("\r\n")
        method, path, _ = line.split(" ")
        headers = {
            k.lower(): v.strip() for k, _, v in (item.partition(":") for item in rest if item)
        }
        if path == "/health":
            await _write(writer, 200 if self.healthy else 503, b'{"status":"ok"}')
            return False
        if self.loading:
            body = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
            await _write(writer, 503, body)
            return False
        seen = Seen(headers.get("x-request-id", ""), method, path, headers)
        self.requests.append(seen)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(seen.request_id + "\n")
        seen.body = await reader.readexactly(int(headers.get("content-length", "0")))
        watch = asyncio.create_task(_left(reader))
        answer = asyncio.create_task(self._answer(seen, writer))
        try:
            await asyncio.wait({watch, answer}, return_when=asyncio.FIRST_COMPLETED)
            seen.ended_s = time.monotonic()
            if not answer.done():
                seen.ended = "left"
                answer.cancel()
                return False
            seen.ended = "answered" if answer.exception() is None else "left"
            return answer.result() and headers.get("connection") != "close"
        finally:
            watch.cancel()
            answer.cancel()
            await asyncio.gather(watch, answer, return_exceptions=True)

    async def _answer(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        if seen.headers.get("authorization") != f"Bearer {SECRET}":
            await _write(writer, 401, b'{"error":{"message":"Invalid API Key"}}')
            return False
        asked = seen.json
        script = Script(**_orders_in(asked) or self.script)
        if script.delay_s:
            await asyncio.sleep(script.delay_s)
        if script.die == "before":
            writer.transport.abort()
            return False
        if script.status != 200:
            error = {"message": script.message, "type": script.kind, "code": script.status}
            body = (
                json.dumps({"error": error}).encode() if script.raw is None else script.raw.encode()
            )
            await _write(writer, script.status, body)
            return False
        if asked.get("stream"):
            return await self._stream(seen, asked, script, writer)
        body = (
            script.raw.encode()
            if script.raw is not None
            else json.dumps(_whole(seen, script)).encode()
        )
        await _write(writer, 200, body, keep=True)
        return True

    async def _stream(
        self, seen: Seen, asked: dict[str, Any], script: Script, writer: asyncio.StreamWriter
    ) -> bool:
        framing = "transfer-encoding: chunked\r\n" if script.framing == "chunked" else ""
        closing = "" if framing else "connection: close\r\n"
        head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{framing}{closing}\r\n"
        writer.write(head.encode())
        await writer.drain()
        for event in _events(seen.path, asked, script):
            if event == "die":
                await asyncio.sleep(0.02)
                writer.transport.abort()
                return False
            if script.pause_s:
                await asyncio.sleep(script.pause_s)
            data = event.replace("\n", script.eol).encode()
            step = script.split or len(data)
            for at in range(0, len(data), step):
                piece = data[at : at + step]
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if framing else piece)
                await writer.drain()
                if script.split:
                    await asyncio.sleep(0)
            seen.chunks += 1
        if framing:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return bool(framing)


def _orders_in(asked: dict[str, Any]) -> dict[str, Any] | None:
    """Return how the request wants to be answered: of several prompts each may say it itself."""
    prompt = asked.get("prompt")
    if isinstance(prompt, str) and prompt.startswith('{"stub": '):
        return json.loads(prompt)["stub"]
    return asked.get("stub")


def _events(path: str, asked: dict[str, Any], script: Script) -> list[str]:
    is_chat = path.endswith("chat/completions")
    base = {
        "id": "chatcmpl-stub",
        "object": "chat.completion.chunk" if is_chat else "text_completion",
        "created": 1_700_000_000,
        "model": asked.get("model", "demo"),
    }

    def event(delta: dict[str, Any], reason: str | None) -> str:
        part = (
            {"delta": delta} if is_chat else {"text": delta.get("content") or "", "logprobs": None}
        )
        choice = {"index": 0, **part, "finish_reason": reason}
        value = {"choices": [choice], **base}
        if script.running_usage and wants.get("continuous_usage_stats"):
            value["usage"] = {"prompt_tokens": 7, "total_tokens": 8, "completion_tokens": 1}
        return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"

    wants = asked.get("stream_options") or {}
    events = ["die"] if script.die == "head" else []
    if script.progress and asked.get("return_progress"):
        told = {"choices": [], **base, "prompt_progress": {"total": 7, "cache": script.cached}}
        events.append(f"data: {json.dumps(told)}\n\n")
    if is_chat:
        events.append(event({"role": "assistant", "content": None}, None))
    for number in range(script.chunks):
        if script.error_after == number:
            events.append(
                f"data: {json.dumps({'error': {'message': script.message, 'code': 500}})}\n\n"
            )
        events.append(event({"content": f"{script.text}{number}"}, None))
    for place, piece in enumerate(script.pieces):
        function = {"name": "look", "arguments": piece} if place == 0 else {"arguments": piece}
        call: dict[str, Any] = {"index": 0, "function": function}
        if place == 0:
            call |= {"id": "abcdefghi", "type": "function"}
        events.append(event({"tool_calls": [call]}, None))
    if script.die == "chunks":
        return [*events, "die"]
    events.append(event({}, "stop"))
    if script.die == "finish":
        return [*events, "die"]
    if (asked.get("stream_options") or {}).get("include_usage") and script.usage:
        usage = {"choices": [], **base, "usage": _usage(script)}
        events.append(f"data: {json.dumps(usage, separators=(',', ':'))}\n\n")
    return [*events, "data: [DONE]\n\n"]


def _usage(script: Script) -> dict[str, Any]:
    return {
        "prompt_tokens": 7,
        "completion_tokens": script.chunks,
        "total_tokens": 7 + script.chunks,
        "prompt_tokens_details": {"cached_tokens": script.cached},
    }


def _whole(seen: Seen, script: Script) -> dict[str, Any]:
    asked = seen.json
    text = "".join(f"{script.text}{number}" for number in range(script.chunks))
    if seen.path.endswith("input_tokens"):
        return {"object": "response.input_tokens", "input_tokens": 17}
    if seen.path == "/tokenize":
        return {"count": 18, "tokens": [1] * 18}
    base: dict[str, Any] = {"model": asked.get("model", "demo"), "created": 1_700_000_000}
    if script.usage:
        base["usage"] = _usage(script)
    if seen.path.endswith("embeddings"):
        return {
            **base,
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}],
        }
    if seen.path.endswith("chat/completions"):
        message = {"role": "assistant", "content": text}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
        return {**base, "id": "chatcmpl-stub", "object": "chat.completion", "choices": [choice]}
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
    return {**base, "id": "cmpl-stub", "object": "text_completion", "choices": [choice]}


async def _left(reader: asyncio.StreamReader) -> None:
    """Return when the client has hung up. It sends nothing while it waits for its answer."""
    with contextlib.suppress(OSError):
        while not reader.at_eof():
            await asyncio.sleep(0.005)


async def _write(
    writer: asyncio.StreamWriter, status: int, body: bytes, *, keep: bool = False
) -> None:
    closing = "" if keep else "connection: close\r\n"
    head = f"HTTP/1.1 {status} Told\r\ncontent-type: application/json\r\n{closing}"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


def main() -> None:
    """Run as a process until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    with StubEngine(options.port, options.log) as engine:
        print(engine.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
