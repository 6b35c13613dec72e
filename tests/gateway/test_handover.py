"""A gateway is replaced on its port under load: not one request fails."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import (
    MEMBER_KEY,
    NO_TLS,
    OPERATOR_KEY,
    GatewayProcess,
    chat_body,
    data_of,
    make_route,
    make_table,
    write_home,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until
from tramontane.processes import gateway as command

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


class SharedPort:
    """Gateways on one port, each a process that an operator starts."""

    def __init__(self, home: Path, control: StubControl) -> None:
        self.home = home
        self.control = control
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.running: list[subprocess.Popen[str]] = []
        write_home(home)

    def __enter__(self) -> "SharedPort":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def start(self, name: str = "gw") -> tuple[subprocess.Popen[str], str]:
        """Start a gateway and return it with the line that says that it serves."""
        argv = [sys.executable, "-m", "tramontane.main", "gateway", "--home", str(self.home)]
        argv += ["--port", str(self.port), "--control", self.control.url, "--name", name]
        process = subprocess.Popen(
            [*argv, "--reuse-port"], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        self.running.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline()


class Load:
    """Requests without a pause, of several kinds, until told to stop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.failures: list[str] = []
        self.counts: Counter[str] = Counter()
        kinds: dict[str, Callable[[], None]] = {
            "new connections": self._ask_anew,
            "a kept connection": self._ask_on,
            "streams": self._stream,
        }
        self._threads = [
            threading.Thread(target=self._repeat, args=(kind, ask), daemon=True)
            for kind, ask in kinds.items()
            for _ in range(2)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for_more(self, each: int) -> None:
        """Wait until each kind was answered ``each`` times more."""
        before = dict(self.counts)
        kinds = ("new connections", "a kept connection", "streams")
        until(
            lambda: (
                self.failures
                or all(self.counts[kind] >= before.get(kind, 0) + each for kind in kinds)
            ),
            "the load to go on",
        )

    def _repeat(self, kind: str, ask: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                ask()
            except (httpx.HTTPError, AssertionError) as error:
                self.failures.append(f"{kind}: {error!r}")
            else:
                self.counts[kind] += 1

    def _client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {MEMBER_KEY}"}
        return httpx.Client(base_url=self._url, headers=headers, timeout=20, verify=NO_TLS)

    def _ask_anew(self) -> None:
        with self._client() as client:
            reply = client.post(CHAT, json=chat_body(), headers={"connection": "close"})
        assert reply.status_code == 200, reply.text

    def _ask_on(self) -> None:
        with self._client() as client:
            for _ in range(50):
                reply = client.post(CHAT, json=chat_body())
                assert reply.status_code == 200, reply.text

    def _stream(self) -> None:
        body = chat_body(stream=True, stub={"chunks": 10, "pause_s": 0.02})
        with self._client() as client, client.stream("POST", CHAT, json=body) as reply:
            assert reply.status_code == 200
            assert data_of(reply.read().decode())[-1] == "[DONE]"


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedPort]:
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        SharedPort(tmp_path / "home", control) as found,
    ):
        yield found


def test_a_successor_takes_the_port_over_and_no_request_fails(shared: SharedPort):
    old, told = shared.start()
    assert told == f"tramontane: gateway gw serves on 127.0.0.1:{shared.port}\n"
    with Load(shared.url) as load:
        load.wait_for_more(3)
        new, told = shared.start()
        assert told.endswith(f"; the socket came from process {old.pid}\n")
        load.wait_for_more(3)
        old.send_signal(signal.SIGTERM)
        assert old.wait(30) == 0
        load.wait_for_more(3)
    assert load.failures == []
    new.send_signal(signal.SIGTERM)
    assert new.wait(30) == 0


def test_what_the_old_one_could_not_hand_in_is_handed_in_by_the_new_one(shared: SharedPort):
    old, _ = shared.start()

    def ask() -> None:
        with httpx.Client(verify=NO_TLS) as client:
            headers = {"authorization": f"Bearer {MEMBER_KEY}"}
            reply = client.post(shared.url + CHAT, json=chat_body(), headers=headers)
        assert reply.status_code == 200

    ask()
    shared.control.wait_events(1)
    shared.control.stop()
    for _ in range(5):
        ask()
    new, _ = shared.start()  # by the copy of the route table
    old.send_signal(signal.SIGTERM)
    assert old.wait(30) == 0
    assert list((shared.home / "gateway" / "spool").glob(f"gw-{old.pid}-*"))
    for _ in range(5):
        ask()
    shared.control.start()
    assert len(shared.control.wait_events(11)) == 11
    ask()  # adopted while the new one is at work: nothing gets lost between
    assert len(shared.control.wait_events(12)) == 12
    assert new.poll() is None


def test_gateways_of_different_names_share_a_port(shared: SharedPort):
    one, _ = shared.start("one")
    two, told = shared.start("two")
    assert "came from" not in told

    def who() -> str:
        with httpx.Client(verify=NO_TLS) as client:
            headers = {"authorization": f"Bearer {OPERATOR_KEY}"}
            page = client.get(f"{shared.url}/metrics", headers=headers).text
        return "one" if 'gateway="one"' in page else "two"

    seen: set[str] = set()
    until(lambda: seen.add(who()) or seen == {"one", "two"}, "both to answer")
    for process in (one, two):
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_another_program_on_the_port_and_a_socket_of_the_dead_are_told_apart(shared: SharedPort):
    one, _ = shared.start()
    one.kill()
    one.wait()
    two, told = shared.start()  # the name is still in the folder, nobody answers there
    assert "came from" not in told
    two.send_signal(signal.SIGTERM)
    assert two.wait(30) == 0
    url = "http://127.0.0.1:1"
    assert command.run(shared.home, 0, None, None, None, url, None, shares_port=True) == 78
    with socket.create_server(("127.0.0.1", shared.port)):
        argv = [sys.executable, "-m", "tramontane.main", "gateway", "--home", str(shared.home)]
        argv += ["--port", str(shared.port), "--control", "http://127.0.0.1:1", "--reuse-port"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 78
    assert "in use" in done.stderr


def test_a_drain_finishes_streams_within_its_limit_and_closes_what_is_idle(tmp_path: Path):
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayProcess(tmp_path, control.url, TRAMONTANE_DRAIN_TIMEOUT_S="3") as gateway,
        gateway.client() as client,
        gateway.client() as other,
        socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as idle,
    ):
        gateway.wait_ready()
        short = chat_body(stream=True, stub={"chunks": 20, "pause_s": 0.05})
        long = chat_body(stream=True, stub={"chunks": 500, "pause_s": 0.05})
        with (
            client.stream("POST", CHAT, json=short) as first,
            other.stream("POST", CHAT, json=long) as second,
        ):
            process = gateway.process
            assert process is not None
            began_s = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert idle.recv(1) == b""
            assert time.monotonic() - began_s < 2.5
            assert data_of(first.read().decode())[-1] == "[DONE]"
            with pytest.raises(httpx.RemoteProtocolError):
                second.read()
        assert process.wait(20) == 0
        events = control.wait_events(2)
        assert sorted(event["outcome"] for event in events) == ["completed", "cut"]
