"""Runs the command line in this process, against a small HTTP server that answers as told."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tramontane.main import main

KEY = "tmt_stub"


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Request:
    """What the stub was asked."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Reply:
    """What the stub answers; a dict or a list becomes JSON, bytes are sent as they are."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False  # promise more bytes than are sent
    stall_s: float = 0.0  # keep the connection open so long, or until the stub stops


def error(status: int, code: str, message: str, param: str | None = None, **headers: str) -> Reply:
    """Return the union error body that the API answers with."""
    inner = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"object": "error", **inner, "error": inner}, status, named)


def listing(*items: dict[str, Any], has_more: bool = False) -> Reply:
    """Return a page of a list."""
    first, last = (items[0].get("id"), items[-1].get("id")) if items else (None, None)
    body = {"object": "list", "data": list(items), "first_id": first, "last_id": last}
    return Reply({**body, "has_more": has_more})


class Stub:
    """Answers each request with what ``answer`` returns, and remembers the requests."""

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self.requests: list[Request] = []
        self._answer = answer
        self._stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler_class())
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    @contextmanager
    def running(self) -> Iterator["Stub"]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def _handler_class(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handling(BaseHTTPRequestHandler):
            def serve(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                length = int(self.headers.get("Content-Length") or 0)
                raw = self.rfile.read(length)
                sent = json.loads(raw) if raw else None
                request = Request(self.command, parts.path, query, dict(self.headers), sent)
                stub.requests.append(request)
                self.send(stub._answer(request))

            do_GET = do_POST = do_PATCH = serve  # noqa: N815 - the library's names
            do_PUT = do_DELETE = serve  # noqa: N815

            def send(self, reply: Reply) -> None:
                raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body)
                data = raw if isinstance(raw, bytes) else raw.encode()
                self.send_response(reply.status)
                headers = {"Content-Type": "application/json"} | reply.headers
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header(
                    "Content-Length", str(len(data) + (100 if reply.cut or reply.stall_s else 0))
                )
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()
                stub._stopping.wait(reply.stall_s)

            def log_message(self, *args: object) -> None:
                del args

        return Handling


def chunks(*pieces: str, usage: int = 0, done: bool = True) -> Reply:
    """Return a streamed chat completion that says ``pieces``."""
    frames = [{"id": "c", "choices": [{"index": 0, "delta": {"content": p}}]} for p in pieces]
    tail: list[dict[str, Any]] = [{"id": "c", "choices": [], "usage": {"completion_tokens": usage}}]
    lines = [f"data: {json.dumps(frame)}\n\n" for frame in frames + tail]
    lines.insert(0, ": keep-alive\n\n")
    if done:
        lines.append("data: [DONE]\n\n")
    return Reply("".join(lines).encode(), headers={"Content-Type": "text/event-stream"})


class CommandLine:
    """Runs commands in this process and takes down what they print."""

    def __init__(self, capture: Any, variables: dict[str, str]) -> None:
        self._capture = capture
        self._variables = variables

    def against(self, stub: Stub) -> "CommandLine":
        """Return one that finds ``stub`` and a key in its environment."""
        known = {"TRAMONTANE_BASE_URL": stub.base_url, "TRAMONTANE_API_KEY": KEY}
        return CommandLine(self._capture, self._variables | known)

    def __call__(self, *arguments: str, **variables: str) -> Run:
        before = dict(os.environ)
        os.environ.update(self._variables | variables)
        self._capture.readouterr()
        code: object = None
        try:
            main(arguments)
        except SystemExit as leaving:
            code = leaving.code
        finally:
            os.environ.clear()
            os.environ.update(before)
        printed = self._capture.readouterr()
        assert isinstance(code, int)
        return Run(int(code), printed.out, printed.err)


def python_environment() -> dict[str, str]:
    """Return an environment for a process of its own: ours, without our TRAMONTANE_ variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TRAMONTANE_")}
    return kept | {"COLUMNS": "80", "PYTHONPATH": os.pathsep.join(sys.path)}


def environment_of(stub: Stub) -> dict[str, str]:
    """Return an environment for a process of its own that finds ``stub``."""
    known = {"TRAMONTANE_BASE_URL": stub.base_url, "TRAMONTANE_API_KEY": KEY, "TERM": "dumb"}
    return python_environment() | known
