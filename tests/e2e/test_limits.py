"""Limits over many gateway processes and a real control plane: exact, whoever is asked."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.outside_engine import OutsideEngine, outside_engine
from tests.support.system import System
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

GATEWAYS = 8


@dataclass
class Gateway:
    """A gateway process beside the one of ``tramontane up``, with a home of its own."""

    home: Path
    control_url: str
    name: str
    listener: socket.socket
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def start(self) -> None:
        fd = self.listener.fileno()
        command = [sys.executable, "-m", "tramontane.main", "gateway", "--home", str(self.home)]
        command += [
            "--fd",
            str(fd),
            "--parent",
            str(os.getpid()),
            "--control",
            self.control_url,
            "--name",
            self.name,
        ]
        kept = {name: value for name, value in os.environ.items() if "TRAMONTANE" not in name}
        self.process = subprocess.Popen(command, pass_fds=(fd,), env=kept)

    def end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None

    def ask(self, key: str, model: str, **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **fields}
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(timeout=30, trust_env=False) as client:
            return client.post(f"{self.url}/v1/chat/completions", headers=headers, json=body)


@pytest.fixture(scope="module")
def system(own_system: System) -> System:
    """The module's own: the outside engine leaves its deployment behind."""
    return own_system


@pytest.fixture(scope="module")
def engine(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutsideEngine]:
    with outside_engine(system, tmp_path_factory.mktemp("limits"), "limited") as outside:
        yield outside


@pytest.fixture(scope="module")
def gateways(
    system: System, engine: OutsideEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Gateway]]:
    control_url = control_of(system)
    made = []
    for number in range(GATEWAYS):
        home = tmp_path_factory.mktemp(f"gateway-{number}")
        (home / "logs").mkdir()
        (home / "secrets.json").write_bytes((system.home / "secrets.json").read_bytes())
        listener = socket.create_server(("127.0.0.1", 0), backlog=1_024)
        made.append(Gateway(home, control_url, f"g{number}", listener))
    try:
        for gateway in made:
            gateway.start()
        for gateway in made:
            wait_until_it_knows(gateway, system.api_key)
        yield made
    finally:
        for gateway in made:
            gateway.end(signal.SIGKILL)
            gateway.listener.close()


def control_of(system: System) -> str:
    """Return where the control plane listens, as the gateway was told."""
    words = Path(f"/proc/{system.only('gateway').pid}/cmdline").read_bytes().split(b"\0")
    return words[words.index(b"--control") + 1].decode()


def wait_until_it_knows(gateway: Gateway, key: str) -> None:
    def look() -> bool:
        with contextlib.suppress(httpx.TransportError):
            headers = {"authorization": f"Bearer {key}"}
            with httpx.Client(timeout=5, trust_env=False, headers=headers) as client:
                return client.get(f"{gateway.url}/v1/models").status_code == 200
        return False

    until(look, f"{gateway.name} to know the key")


def wait_until_it_limits(gateway: Gateway, key: str, model: str) -> None:
    """Ask what is refused before it counts: its headers tell the limit."""

    def look() -> bool:
        reply = gateway.ask(key, model, temperature="hot")
        return "x-ratelimit-limit-requests" in reply.headers

    until(look, f"{gateway.name} to know the limit")


@contextlib.contextmanager
def limited_key(system: System, **bounds: Any) -> Iterator[str]:
    """Make a key that `bounds` bind, and take both away afterwards."""
    project = system.credentials["project"]
    made = system.cloud("POST", "/api-keys", json={"project": project, "name": "limited"})
    limit = system.cloud("PUT", "/limits", json={"api_key": made["id"], **bounds})
    try:
        yield made["key"]
    finally:
        system.cloud("DELETE", f"/limits/{limit['id']}")
        system.cloud("DELETE", f"/api-keys/{made['id']}")


def burst(gateways: list[Gateway], key: str, model: str, calls: int) -> Counter[int]:
    """Ask ``calls`` times in parallel, in turn at each gateway; count the statuses."""
    turns = itertools.cycle(gateways)
    counts: Counter[int] = Counter()
    lock = threading.Lock()
    body = json.dumps(
        {"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": "hello"}]}
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()

    def call(gateway: Gateway) -> None:
        with socket.create_connection(gateway.listener.getsockname(), timeout=30) as sock:
            sock.sendall(head + body)
            status = int(sock.makefile("rb").readline().split()[1])
        with lock:
            counts[status] += 1

    with ThreadPoolExecutor(100) as pool:
        list(pool.map(call, [next(turns) for _ in range(calls)]))
    return counts


def test_a_thousand_parallel_calls_to_eight_gateways_get_exactly_the_limit(
    system: System, gateways: list[Gateway], engine: OutsideEngine
) -> None:
    with limited_key(system, requests_per_minute_max=100) as key:
        for gateway in gateways:
            wait_until_it_limits(gateway, key, engine.model)
        before = len(engine.request_ids())
        counts = burst(gateways, key, engine.model, 1_000)
        assert counts == {200: 100, 429: 900}
        assert len(engine.request_ids()) - before == 100


def test_a_low_limit_is_spent_to_the_last_by_whoever_is_asked(
    system: System, gateways: list[Gateway], engine: OutsideEngine
) -> None:
    with limited_key(system, requests_per_minute_max=5) as key:
        for gateway in gateways[:4]:
            wait_until_it_limits(gateway, key, engine.model)
        asked = [gateways[number % 4].ask(key, engine.model, max_tokens=2) for number in range(9)]
        assert [reply.status_code for reply in asked] == [200] * 5 + [429] * 4
        assert asked[4].headers["x-ratelimit-remaining-requests"] == "0"


def test_a_budget_over_many_gateways_and_a_kill(
    system: System, gateways: list[Gateway], engine: OutsideEngine
) -> None:
    """The budget is never overspent, nothing of it is lost with a gateway that is killed."""
    prices = {"completion_micro": 3_000_000}
    most_nano = 2 * 3_000
    bound_nano = 30 * most_nano
    try:
        with limited_key(system, budget_micro=bound_nano // 1_000) as key:
            system.cloud("PUT", f"/prices/{engine.model}", json=prices)
            for gateway in gateways[:3]:
                wait_until_it_knows(gateway, key)
                priced(gateway, key, engine.model, system)
            killed = gateways[0]
            killed.ask(key, engine.model, max_tokens=2)
            killed.end(signal.SIGKILL)
            killed.start()
            wait_until_it_knows(killed, key)
            with ThreadPoolExecutor(6) as pool:
                turns = [gateways[number % 3] for number in range(36)]
                list(pool.map(lambda g: g.ask(key, engine.model, max_tokens=2), turns))

            def look() -> bool:  # others may hold the rest for a second
                reply = gateways[1].ask(key, engine.model, max_tokens=2)
                return reply.json().get("code") == "insufficient_quota"

            until(look, "the end of the budget")
            until(lambda: budget_of(system)["held_nano"] == 0, "what is held to be given back")
            spent = budget_of(system)["spent_nano"]
            assert bound_nano - most_nano < spent <= bound_nano
    finally:
        system.cloud("DELETE", f"/prices/{engine.model}")


def priced(gateway: Gateway, key: str, model: str, system: System) -> None:
    """Wait until a request at ``gateway`` costs something."""
    before = budget_of(system)["spent_nano"]

    def look() -> bool:
        gateway.ask(key, model, max_tokens=2)
        return budget_of(system)["spent_nano"] > before

    until(look, "a request that costs something")


def budget_of(system: System) -> dict[str, Any]:
    budgets = system.pages("/budgets")
    assert len(budgets) == 1
    return budgets[0]
