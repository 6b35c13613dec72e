"""Stands for the control plane where runners report: it answers as it is told."""

import http.server
import json
import ssl
import threading
from collections.abc import Callable
from typing import Any, Self

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def say(status: int, body: bytes = b"{}", **headers: str) -> Answer:
    """Return an answer with ``status``; underscores in the names of headers become hyphens."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


WANTED = say(200, b'{"wanted": true}')
UNWANTED = say(200, b'{"wanted": false}')


class ControlPlane:
    """Keeps what it is told: ``said`` are the bodies, ``heads`` the paths and headers."""

    def __init__(self, answer: Answer = WANTED, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.said: list[dict[str, Any]] = []
        self.heads: list[tuple[str, dict[str, str]]] = []
        self._tls = tls
        self._server: http.server.ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the port of before if there was one."""
        plane = self

        class Request(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                plane.heads.append((self.path, dict(self.headers.items())))
                plane.said.append(json.loads(body))
                plane.answer(self)

            def do_GET(self) -> None:
                plane.heads.append((f"GET {self.path}", dict(self.headers.items())))
                plane.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # runners hang up as they like

        self._server = Server(("127.0.0.1", self._port), Request)
        if self._tls:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def states(self) -> list[str]:
        """Return the states that were told, each as long as it lasted once."""
        told = [body["run_state"] for body in self.said]
        return [state for index, state in enumerate(told) if index == 0 or told[index - 1] != state]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
