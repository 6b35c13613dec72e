"""A gateway for tests: in a thread with short limits, or as a real process to be killed."""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import uvloop

from tests.support.stub_control import TOKEN
from tests.support.stub_engine import SECRET
from tramontane.domain import tenancy
from tramontane.domain.routing import Route, RouteKey, RouteReplica, RouteTable
from tramontane.domain.tenancy import Role
from tramontane.gateway.control_plane.link import ControlLink
from tramontane.gateway.limits import Limits
from tramontane.processes import gateway as process

HMAC_KEY = "ab" * 32
MEMBER_KEY = tenancy.make_key(bytes(range(24)))
OTHER_KEY = tenancy.make_key(bytes(range(1, 25)))
OPERATOR_KEY = tenancy.make_key(bytes(range(2, 26)))
MODEL = "demo"
PROJECT, OTHER_PROJECT = "prj_" + "a" * 20, "prj_" + "b" * 20
ORGANIZATION = "org_" + "a" * 20
DEPLOYMENT = "dep_" + "a" * 20

# Making one takes tens of milliseconds, and nothing here speaks TLS.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

# Everything that a test has to wait for, shortened; sizes are as in production.
QUICK = Limits(
    sweep_s=0.05,
    head_s=0.5,
    body_grace_s=0.5,
    keep_alive_s=5.0,
    stall_s=1.0,
    linger_s=0.5,
    connect_s=0.5,
    first_byte_s=1.0,
    idle_s=1.0,
    aside_s=0.3,
    eject_s=0.3,
    queue_s_min=2.0,
    ready_cache_s=0.1,
    probe_s=0.5,
    poll_wait_s=1,
    retry_s_max=0.2,
    ship_pause_s=0.01,
    drain_s=5.0,
    drain_idle_s=0.05,
)


def replica_id(number: int) -> str:
    return f"rep_{'a' * 19}{'abcdefghij'[number]}"


def key_hash(key: str) -> str:
    return tenancy.hash_key(bytes.fromhex(HMAC_KEY), key)


def make_keys() -> dict[str, RouteKey]:
    return {
        key_hash(MEMBER_KEY): RouteKey("key_" + "a" * 20, PROJECT, ORGANIZATION, Role.MEMBER),
        key_hash(OTHER_KEY): RouteKey("key_" + "b" * 20, OTHER_PROJECT, ORGANIZATION, Role.MEMBER),
        key_hash(OPERATOR_KEY): RouteKey("key_" + "c" * 20, PROJECT, ORGANIZATION, Role.OPERATOR),
    }


def make_route(addresses: Sequence[str], **changes: Any) -> Route:
    replicas = tuple(
        RouteReplica(replica_id(number), address, SECRET)
        for number, address in enumerate(addresses)
    )
    route = Route(PROJECT, MODEL, DEPLOYMENT, MODEL, "llamacpp", 2048, 1_700_000_000_000, replicas)
    return replace(route, **changes)


def make_table(*routes: Route, revision: int = 1, **changes: Any) -> RouteTable:
    table = RouteTable(revision, HMAC_KEY, make_keys(), routes, DEPLOYMENT)
    return replace(table, **changes)


class GatewayUnderTest:
    """What both forms have in common: a port, and ways to call it."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str | None = MEMBER_KEY, **options: Any) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(
            base_url=self.url, headers=headers, timeout=10, verify=NO_TLS, **options
        )

    def chat(self, *, key: str | None = MEMBER_KEY, **fields: Any) -> httpx.Response:
        with self.client(key) as client:
            return client.post("/v1/chat/completions", json=chat_body(**fields))

    def stream(self, *, key: str = MEMBER_KEY, **fields: Any) -> list[str]:
        """Return the data of each event of a streamed chat."""
        body = chat_body(stream=True, **fields)
        with (
            self.client(key) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as reply,
        ):
            assert reply.status_code == 200, reply.read()
            return data_of(reply.read().decode())

    def raw(self, data: bytes, *, end: bool = False, timeout_s: float = 5.0) -> bytes:
        """Send bytes as they are and return all that comes until the gateway hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as sock:
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        with self.client(None) as client:
            while time.monotonic() < deadline:
                try:
                    if client.get("/ready").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.02)
        msg = "the gateway did not become ready"
        raise AssertionError(msg)


class GatewayThread(GatewayUnderTest):
    """A gateway in a thread of the test's process, with limits of the test's choice."""

    def __init__(self, folder: Path, control: str | process.Alone, limits: Limits = QUICK) -> None:
        """``control`` is the control plane's URL, or what a gateway that runs alone has."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._links: process.Links | process.Alone
        if isinstance(control, str):
            self._links = (ControlLink(control, TOKEN), ControlLink(control, TOKEN))
        else:
            self._links = control
        self._limits = limits
        self._loop = uvloop.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "GatewayThread":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop as on SIGTERM."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(15)
            assert not self._thread.is_alive(), "the gateway did not stop"

    def _run(self) -> None:
        serving = process.serve(
            self._listener, self.folder, "gw", self._links, self._limits, self._stop
        )
        try:
            self._loop.run_until_complete(serving)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


class GatewayProcess(GatewayUnderTest):
    """A gateway as the supervisor starts it: on a socket that outlives it."""

    def __init__(self, home: Path, control_url: str, *, name: str = "gw", **variables: str) -> None:
        """``variables`` are environment variables: settings."""
        self.home = home
        self._variables = variables
        self._control_url = control_url
        self._name = name
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._listener.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        write_home(home)

    def __enter__(self) -> "GatewayProcess":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill it and give its port back."""
        self.end(signal.SIGKILL)
        self._listener.close()

    @property
    def fd(self) -> int:
        """The listening socket, which the process inherits."""
        return self._listener.fileno()

    @property
    def argv(self) -> list[str]:
        """The command line of the process."""
        argv = [sys.executable, "-m", "tramontane.main", "gateway", "--home", str(self.home)]
        argv += ["--fd", str(self.fd), "--parent", str(os.getpid())]
        return [*argv, "--control", self._control_url, "--name", self._name]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the process."""
        return {**os.environ, "TRAMONTANE_HOME": str(self.home), **self._variables}

    def start(self) -> None:
        self.process = subprocess.Popen(self.argv, pass_fds=(self.fd,), env=self.environment)

    def end(self, number: signal.Signals) -> int | None:
        """Send a signal and wait for the end; returns the exit status."""
        process, self.process = self.process, None
        if process is None:
            return None
        process.send_signal(number)
        return process.wait(20)


def write_home(home: Path) -> None:
    """Make the least home that a gateway runs in."""
    (home / "gateway").mkdir(parents=True, exist_ok=True)
    (home / "logs").mkdir(exist_ok=True)
    secrets = {"installation_id": "ins_" + "a" * 20, "hmac_key": HMAC_KEY, "gateway_token": TOKEN}
    (home / "secrets.json").write_text(json.dumps(secrets))


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **fields}


def post(path: str, body: bytes, *, key: str = MEMBER_KEY, extra: str = "") -> bytes:
    """Return the bytes of a POST."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{extra}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def data_of(text: str) -> list[str]:
    return [line[6:] for line in text.splitlines() if line.startswith("data: ")]


def read_all(sock: socket.socket) -> bytes:
    parts: list[bytes] = []
    while True:
        try:
            data = sock.recv(65_536)
        except ConnectionResetError:
            break
        if not data:
            break
        parts.append(data)
    return b"".join(parts)
