"""An engine that writes down every request that reaches it, run as a process of its own.

It answers chats as llama.cpp does, in one piece or as a stream with usage. Before it answers, the
request's ``x-request-id`` is in its log: that file is the truth that usage is compared with.
Standard library only: ``python recording_engine.py --log FILE --port-file FILE``.
"""

import argparse
import asyncio
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

PIECE_S = 0.004  # between two pieces of a stream
WHOLE_S = 0.012  # before an answer in one piece
PROMPT_TOKENS = 5


class Recorder:
    """Serves connections and appends to the log."""

    def __init__(self, log: Path) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                await writer.drain()
        except (OSError, EOFError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        pairs = (line.split(":", 1) for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if not first.startswith("POST"):
            writer.write(_whole(b'{"status":"ok"}'))
            return True
        asked = json.loads(body)
        count = int(asked["max_tokens"])
        os.write(self._log, f"{headers['x-request-id']} {count}\n".encode())
        if not asked.get("stream"):
            await asyncio.sleep(WHOLE_S)
            writer.write(_whole(json.dumps(_reply(asked["model"], count)).encode()))
            return True
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        for chunk in _chunks(asked, count):
            await asyncio.sleep(PIECE_S)
            writer.write(_piece(b"data: " + chunk + b"\n\n"))
            await writer.drain()
        writer.write(_piece(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return True


def _usage(count: int) -> dict[str, int]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": count,
        "total_tokens": PROMPT_TOKENS + count,
    }


def _reply(model: str, count: int) -> dict[str, object]:
    message = {"role": "assistant", "content": "word " * count}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    reply = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}
    return {**reply, "choices": [choice], "usage": _usage(count)}


def _chunks(asked: dict[str, object], count: int) -> Iterator[bytes]:
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
    frame["model"] = asked["model"]
    choices = [_choice({"role": "assistant", "content": ""}, None)]
    yield json.dumps({**frame, "choices": choices}).encode()
    word = json.dumps({**frame, "choices": [_choice({"content": "word "}, None)]}).encode()
    yield from itertools.repeat(word, count)
    yield json.dumps({**frame, "choices": [_choice({}, "stop")]}).encode()
    options = asked.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        yield json.dumps({**frame, "choices": [], "usage": _usage(count)}).encode()


def _choice(delta: dict[str, str], finish: str | None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _whole(body: bytes) -> bytes:
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _piece(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--port-file", type=Path, required=True)
    options = parser.parse_args()
    recorder = Recorder(options.log)
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0, backlog=1024)
    draft = options.port_file.with_suffix(".new")
    draft.write_text(str(server.sockets[0].getsockname()[1]))
    draft.rename(options.port_file)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
