"""Stands for the control plane where runners report: keeps what they say, wants them all."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tramontane.domain.jobs.attempt import AttemptState
from tramontane.domain.observation import RunState
from tramontane.domain.report import RunnerReport


class ReportReceiver:
    """Listens on this machine; ``secrets`` holds each id's last Authorization header."""

    def __init__(self) -> None:
        self.reports: dict[str, RunnerReport] = {}
        self.secrets: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        receiver = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said = json.loads(self.rfile.read(int(self.headers["content-length"])))
                id_ = self.path.split("/")[-2]
                receiver.secrets[id_] = self.headers["authorization"]
                receiver.reports[id_] = _report(id_, said)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'{"wanted": true}')

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _report(id_: str, said: dict[str, Any]) -> RunnerReport:
    return RunnerReport(
        id=id_,
        run_state=RunState(said["run_state"]),
        at_ms=said["at_ms"],
        address=said.get("address"),
        reason=said.get("reason"),
        requests_running=said.get("requests_running"),
        requests_waiting=said.get("requests_waiting"),
        exit_code=said.get("exit_code"),
        outcome=AttemptState(said["outcome"]) if said.get("outcome") else None,
    )
