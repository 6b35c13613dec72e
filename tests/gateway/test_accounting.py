"""Exactly one usage event for each request that reached an engine, whatever dies when."""

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import (
    MEMBER_KEY,
    NO_TLS,
    GatewayProcess,
    GatewayThread,
    chat_body,
    make_route,
    make_table,
    post,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


def open_stream(port: int, **stub: object) -> socket.socket:
    body = json.dumps(chat_body(stream=True, stub=stub)).encode()
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.sendall(post(CHAT, body))
    return sock


def exactly_once(control: StubControl, engine: StubEngine) -> None:
    """Every id that the engine saw has its event, and no other id has one."""
    until(lambda: {event["request_id"] for event in control.events.values()} >= set(engine.ids))
    found = {event["request_id"] for event in control.events.values()}
    assert found == set(engine.ids)
    assert len(set(engine.ids)) == len(engine.ids)


def test_requests_in_flight_at_a_kill_are_counted_as_cut(tmp_path: Path):
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayProcess(tmp_path, control.url) as gateway,
    ):
        gateway.wait_ready()
        socks = [open_stream(gateway.port, pause_s=0.05, chunks=200) for _ in range(12)]
        silent = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
        silent.sendall(post(CHAT, json.dumps(chat_body(stub={"delay_s": 30})).encode()))
        for sock in socks:
            data = b""
            while data.count(b"data: ") < 5:
                data += sock.recv(65_536)
        assert gateway.chat().status_code == 200
        until(lambda: len(engine.ids) == 14)
        gateway.end(signal.SIGKILL)
        gateway.start()
        gateway.wait_ready()
        exactly_once(control, engine)
        events = list(control.events.values())
        cut = [event for event in events if event["outcome"] == "cut"]
        assert len(cut) == 13
        streams = [event for event in cut if event["is_stream"]]
        assert all(event["completion_tokens"] >= 4 for event in streams)
        assert all(event["status"] == 200 for event in streams)
        assert all(0 <= event["duration_ms"] < 60_000 for event in events)
        for sock in [*socks, silent]:
            sock.close()


def test_mixed_load_with_kills_and_an_absent_control_plane(tmp_path: Path):
    """Thousands of requests, a third left midway, three kills, the control plane away twice."""
    engine_log = tmp_path / "engine.log"
    with (
        StubEngine(log=engine_log) as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayProcess(tmp_path / "home", control.url) as gateway,
    ):
        gateway.wait_ready()
        stop = threading.Event()

        def work(seed: int) -> int:
            chance, count = random.Random(seed), 0
            with httpx.Client(base_url=gateway.url, timeout=10, verify=NO_TLS) as client:
                headers = {"authorization": f"Bearer {MEMBER_KEY}"}
                while not stop.is_set():
                    stream = chance.random() < 0.5
                    body = chat_body(stream=stream, stub={"chunks": 4, "pause_s": 0.002})
                    leaves = chance.random() < 0.33
                    try:
                        with client.stream("POST", CHAT, json=body, headers=headers) as reply:
                            if not leaves:
                                reply.read()
                                count += reply.status_code == 200
                    except httpx.TransportError:
                        time.sleep(0.01)
            return count

        with ThreadPoolExecutor(16) as pool:
            working = [pool.submit(work, seed) for seed in range(16)]
            for step in range(6):
                time.sleep(0.7)
                if step % 2 == 0:
                    gateway.end(signal.SIGKILL)
                    gateway.start()
                else:
                    control.stop()
                    time.sleep(0.4)
                    control.start()
            time.sleep(0.5)
            stop.set()
            answered = sum(item.result() for item in working)
        assert answered > 50
        exactly_once(control, engine)
        assert gateway.end(signal.SIGTERM) == 0
        assert list((tmp_path / "home" / "gateway").glob("inflight-*")) == []
        assert list((tmp_path / "home" / "gateway" / "spool").iterdir()) == []


def test_events_wait_for_a_control_plane_that_is_away(tmp_path: Path):
    with StubEngine() as engine:
        control = StubControl(make_table(make_route([engine.address])))
        with control, GatewayProcess(tmp_path, control.url) as gateway:
            gateway.wait_ready()
            control.stop()
            assert [gateway.chat().status_code for _ in range(20)] == [200] * 20
            gateway.end(signal.SIGKILL)
            gateway.start()  # from the table on disk
            gateway.wait_ready()
            assert [gateway.chat().status_code for _ in range(20)] == [200] * 20
            mode = (tmp_path / "gateway" / "route-table.json").stat().st_mode & 0o777
            assert mode == 0o600
            control.start()
            exactly_once(control, engine)
            assert len(control.events) == 40


@pytest.mark.parametrize("fault", ["status", "lost"])
def test_a_batch_is_sent_until_it_is_accepted(tmp_path: Path, fault: str):
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayThread(tmp_path, control.url) as gateway,
    ):
        gateway.wait_ready()
        if fault == "status":
            control.faults = [500, 503, 401]
        elif fault == "lost":
            control.lose_answers = 2
        assert [gateway.chat().status_code for _ in range(5)] == [200] * 5
        exactly_once(control, engine)
        if fault == "lost":
            until(lambda: control.duplicates > 0)
        else:
            assert control.duplicates == 0


def test_a_rejected_event_is_set_aside_and_holds_up_no_other(tmp_path: Path):
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayThread(tmp_path, control.url) as gateway,
    ):
        gateway.wait_ready()
        control.stop()
        ids = [gateway.chat().headers["x-request-id"] for _ in range(3)]
        control.reject = {"evt_" + ids[1][4:]}
        control.start()
        control.wait_event(ids[2])
        until((tmp_path / "rejected.jsonl").exists)
        assert len(control.events) == 2
        kept = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
        assert [event["request_id"] for event in kept] == [ids[1]]


def limit_file_size(pid: int, size: int) -> None:
    """Let no file of the process grow beyond ``size``: writes fail as on a full disk."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_refuses_requests_and_loses_none(tmp_path: Path):
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayProcess(tmp_path, control.url) as gateway,
    ):
        gateway.wait_ready()
        assert gateway.process is not None
        limit_file_size(gateway.process.pid, 1_000)
        refused = gateway.chat()
        assert refused.status_code == 503
        assert "metered" in refused.json()["message"]
        assert refused.headers["retry-after"] == "10"
        assert engine.ids == []
        with gateway.client(None) as client:
            assert client.get("/health").status_code == 200
        limit_file_size(gateway.process.pid, resource.RLIM_INFINITY)
        assert gateway.chat().status_code == 200
        exactly_once(control, engine)


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_disk_that_fills_up_while_requests_run_loses_none(tmp_path: Path, is_killed: bool):
    """The room was reserved; here even that fails. The answer goes out, the event waits."""
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayProcess(tmp_path, control.url) as gateway,
    ):
        gateway.wait_ready()
        assert gateway.process is not None
        assert gateway.chat().status_code == 200
        with ThreadPoolExecutor(3) as pool:
            slow = [pool.submit(gateway.chat, stub={"delay_s": 0.5}) for _ in range(3)]
            until(lambda: len(engine.ids) == 4)
            limit_file_size(gateway.process.pid, 1_000)
            assert [item.result().status_code for item in slow] == [200] * 3
        assert gateway.chat().status_code == 503
        assert len(engine.ids) == 4
        if is_killed:
            gateway.end(signal.SIGKILL)
            gateway.start()
            gateway.wait_ready()
        else:
            limit_file_size(gateway.process.pid, resource.RLIM_INFINITY)
        exactly_once(control, engine)
        assert gateway.chat().status_code == 200


def test_sigterm_finishes_streams_and_leaves_nothing(tmp_path: Path):
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayProcess(tmp_path, control.url) as gateway,
    ):
        gateway.wait_ready()
        with ThreadPoolExecutor(6) as pool:
            streams = [
                pool.submit(gateway.stream, stub={"pause_s": 0.1, "chunks": 8}) for _ in range(6)
            ]
            until(lambda: len(engine.ids) == 6)
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as idle:
                began = time.monotonic()
                assert gateway.end(signal.SIGTERM) == 0
                assert time.monotonic() - began < 10
                assert idle.recv(10) == b""
            assert all(item.result()[-1] == "[DONE]" for item in streams)
        exactly_once(control, engine)
        assert {event["outcome"] for event in control.events.values()} == {"completed"}
        assert sorted(path.name for path in (tmp_path / "gateway").iterdir()) == [
            "route-table.json",
            "spool",
        ]


def test_it_does_not_outlive_a_supervisor_that_is_gone_already(tmp_path: Path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    gateway = GatewayProcess(tmp_path, "http://127.0.0.1:9")
    argv = [str(gone.pid) if it == str(os.getpid()) else it for it in gateway.argv]
    child = subprocess.Popen(argv, env=gateway.environment, pass_fds=[gateway.fd])
    assert child.wait(60) == 1
    gateway.close()


def test_it_dies_with_its_supervisor(tmp_path: Path):
    code = (
        "import os,sys,time\n"
        "from pathlib import Path\n"
        "from tests.support.gateway import GatewayProcess\n"
        "g = GatewayProcess(Path(sys.argv[1]), 'http://127.0.0.1:9')\n"
        "g.start(); print(g.process.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(
        lambda: (
            not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text()
        )
    )
