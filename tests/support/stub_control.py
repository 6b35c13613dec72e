"""A control plane for gateway tests: serves a route table, counts usage events, echoes the rest."""

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import orjson

from tests.support.stored import StoredOnes
from tests.support.waiting import until
from tramontane.domain.routing import RouteTable
from tramontane.domain.spending import slices

TOKEN = "gateway-token"


@dataclass
class Call:
    """One call that was not internal."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class StubControl:
    """The control plane, one thread per connection. Use it as a context manager."""

    table: RouteTable | None = None
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    demand: list[dict[str, Any]] = field(default_factory=list)  # every report of it
    duplicates: int = 0
    batches: int = 0
    calls: list[Call] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)  # statuses for the next posts of events
    reject: set[str] = field(default_factory=set)  # event ids to call malformed
    lose_answers: int = 0  # accept this many batches but hang up before answering
    reply: tuple[int, dict[str, str], bytes] = (200, {"content-type": "application/json"}, b"{}")
    stored: StoredOnes = field(default_factory=StoredOnes)
    books: slices.Books = field(default_factory=slices.Books)
    reports: list[slices.Report] = field(default_factory=list)
    # Statuses, or whole bodies, for the next reports about slices.
    slice_faults: list[int | bytes] = field(default_factory=list)
    lose_grants: int = 0  # answer this many reports, but hang up before it is sent
    clock_ahead_ms: int = 0
    _port: int = 0

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self._stopping = False

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> "StubControl":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the same port as before when it was stopped."""
        self._stopping = False
        stub = self

        class Answering(_Answering):
            control = stub

        ThreadingHTTPServer.daemon_threads = True
        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Answering)
        self._server.block_on_close = False
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Go away: refuse connections, drop those that are open."""
        self._stopping = True
        with self._changed:
            self._changed.notify_all()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def publish(self, table: RouteTable) -> None:
        """Make ``table`` the current one."""
        with self._changed:
            self.table = table
            self._changed.notify_all()

    def wait_table(self, revision: int, wait_s: float) -> RouteTable | None:
        """Return a table newer than ``revision``, waiting up to ``wait_s``."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or (self.table and self.table.revision > revision), wait_s
            )
            table = self.table
        return table if table and table.revision > revision and not self._stopping else None

    def grant(self, report: slices.Report) -> slices.Reply | slices.Outdated:
        """Answer a report about slices by the rules of the control plane."""
        with self._changed:
            self.reports.append(report)
            limits = self.table.limits if self.table else {}
            now_ms = time.time_ns() // 1_000_000 + self.clock_ahead_ms
            reply, self.books = slices.exchange(self.books, limits, report, now_ms)
        return reply

    def _spend(self, event: dict[str, Any]) -> None:
        """Count a usage event's cost, as the control plane does in the same transaction."""
        with self._changed:
            table = self.table
            keys = {key.id: key for key in table.keys.values()} if table else {}
            key = keys.get(event["api_key_id"])
            if table is None or key is None:
                return
            charges = [
                slices.Charge(
                    limit_id,
                    event.get("holder", ""),
                    slices.period_of(event["started_at_ms"] + self.clock_ahead_ms),
                    event.get("cost_nano", 0),
                )
                for limit_id in key.limit_ids
                if table.limits[limit_id].model in {None, event["model"]}
            ]
            self.books = slices.settle(self.books, charges)

    def wait_event(self, request_id: str) -> dict[str, Any]:
        """Return the event of one request once it has come."""
        return until(lambda: self.events.get("evt_" + request_id[4:]), f"the event of {request_id}")

    def wait_events(self, count: int) -> list[dict[str, Any]]:
        """Return the events once there are ``count`` of them."""
        until(lambda: len(self.events) >= count, f"{count} events")
        return list(self.events.values())


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes
    control: StubControl

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _any(self) -> None:
        control = self.control
        if control._stopping:
            self.close_connection = True
            return
        length = int(self.headers.get("content-length", "0"))
        body = self.rfile.read(length) if length else self._chunked()
        parts = urlsplit(self.path)
        if parts.path.startswith("/internal/"):
            if self.headers.get("authorization") != f"Bearer {TOKEN}":
                self._send(401, {}, b"{}")
            elif parts.path.endswith("/route-table"):
                self._table(parse_qs(parts.query))
            elif parts.path.endswith("/demand"):
                control.demand.append(json.loads(body))
                self._send(200, {}, b"{}")
            elif parts.path.startswith("/internal/v1/responses"):
                status, answer = control.stored.answer(
                    self.command, parts.path, json.loads(body) if body else {}
                )
                self._send(status, {}, orjson.dumps(answer))
            elif parts.path.endswith("/slices"):
                self._slices(body)
            else:
                self._events(json.loads(body)["events"])
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        control.calls.append(Call(self.command, self.path, headers, body))
        self._send(*control.reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _any  # noqa: N815 - its names

    def _chunked(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return b""
        parts: list[bytes] = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _table(self, query: dict[str, list[str]]) -> None:
        table = self.control.wait_table(int(query["revision"][0]), float(query["wait_s"][0]))
        if self.control._stopping:
            self.close_connection = True
        elif table is None:
            self._send(304, {}, b"")
        else:
            self._send(200, {"content-type": "application/json"}, orjson.dumps(table))

    def _slices(self, body: bytes) -> None:
        control = self.control
        asked = json.loads(body)
        if control.slice_faults:
            fault = control.slice_faults.pop(0)
            if isinstance(fault, int):
                self._send(fault, {}, b"{}")
            else:
                self._send(200, {"content-type": "application/json"}, fault)
            return
        fields = {**asked, "asks": tuple(asked["asks"])}
        fields.pop("gateway")
        reply = control.grant(msgspec.convert(fields, slices.Report))
        if control.lose_grants:
            control.lose_grants -= 1
            self.close_connection = True
        elif isinstance(reply, slices.Outdated):
            self._send(409, {}, b"{}")
        else:
            self._send(200, {"content-type": "application/json"}, orjson.dumps(reply))

    def _events(self, events: list[dict[str, Any]]) -> None:
        control = self.control
        if control.faults:
            self._send(control.faults.pop(0), {}, b"{}")
            return
        control.batches += 1
        accepted, rejected = 0, []
        for index, event in enumerate(events):
            if event["id"] in control.reject:
                rejected.append({"index": index, "reason": "told to"})
            elif event["id"] in control.events:
                control.duplicates += 1
            else:
                control.events[event["id"]] = event
                control._spend(event)
                accepted += 1
        if control.lose_answers:
            control.lose_answers -= 1
            self.close_connection = True
            return
        answer = {"accepted": accepted, "duplicates": len(events) - accepted, "rejected": rejected}
        self._send(200, {"content-type": "application/json"}, orjson.dumps(answer))

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in {204, 304}:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status not in {204, 304}:
            self.wfile.write(body)
