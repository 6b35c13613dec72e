"""Starting without a control plane, /ready, wrong tokens, two gateways on one folder."""

import json
import os
import signal
import socket
import stat
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.gateway import (
    GatewayProcess,
    GatewayThread,
    make_route,
    make_table,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until
from tramontane.gateway import routes
from tramontane.processes import gateway as process

pytestmark = pytest.mark.slow


def reason_of(gateway: GatewayThread) -> str:
    with gateway.client(None) as client:
        reply = client.get("/ready")
    return "" if reply.status_code == 200 else reply.json()["reason"]


def wait_reason(gateway: GatewayThread, words: str) -> None:
    until(lambda: words in reason_of(gateway), f"/ready to say {words!r}")


def test_ready_says_what_is_missing(tmp_path: Path):
    with (
        StubEngine() as engine,
        StubControl() as control,
        GatewayThread(tmp_path, control.url) as gateway,
    ):
        wait_reason(gateway, "no route table")
        control.publish(make_table(revision=1))
        wait_reason(gateway, "no route yet")
        control.publish(make_table(make_route([]), revision=2))
        wait_reason(gateway, "no replica")
        control.publish(make_table(make_route(["127.0.0.1:1"]), revision=3))
        wait_reason(gateway, "does not answer")
        control.publish(make_table(make_route([engine.address]), revision=4))
        gateway.wait_ready()
        engine.healthy = False
        wait_reason(gateway, "503")
        engine.healthy = True
        gateway.wait_ready()
        control.publish(make_table(revision=5, probe_deployment_id=None))
        gateway.wait_ready()


def test_an_engine_that_hangs_is_not_ready(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with (
            StubControl(make_table(make_route([address]))) as control,
            GatewayThread(tmp_path, control.url) as gateway,
        ):
            wait_reason(gateway, "health check")


@pytest.mark.slow
def test_the_last_table_is_kept_private_and_used_without_a_control_plane(tmp_path: Path):
    with StubEngine() as engine:
        with StubControl(make_table(make_route([engine.address]))) as control:
            with GatewayThread(tmp_path, control.url) as gateway:
                gateway.wait_ready()
            url = control.url
        path = tmp_path / routes.FILE
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with GatewayThread(tmp_path, url) as gateway:
            gateway.wait_ready()
            assert gateway.chat().status_code == 200
        path.write_bytes(path.read_bytes()[:-20])
        with GatewayThread(tmp_path, url) as gateway:
            assert "no route table" in reason_of(gateway)


def test_an_older_table_of_a_restored_control_plane_is_taken_at_the_start(tmp_path: Path):
    with StubEngine() as engine:
        routes.save(tmp_path, make_table(revision=900))
        with (
            StubControl(make_table(make_route([engine.address]), revision=3)) as control,
            GatewayThread(tmp_path, control.url) as gateway,
        ):
            gateway.wait_ready()
            assert gateway.chat().status_code == 200


def test_a_table_that_makes_no_sense_is_not_applied(tmp_path: Path):
    with StubEngine() as engine:
        table = make_table(make_route([engine.address]))
        with StubControl(table) as control, GatewayThread(tmp_path, control.url) as gateway:
            gateway.wait_ready()
            control.publish(replace(table, revision=2, hmac_key="not hex"))
            time.sleep(0.2)
            assert gateway.chat().status_code == 200
            control.publish(make_table(revision=3, probe_deployment_id=None))
            until(lambda: gateway.chat().status_code == 404, "the empty table")


@pytest.mark.slow
def test_two_gateways_share_a_folder(tmp_path: Path):
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayProcess(tmp_path, control.url, name="one") as one,
        GatewayProcess(tmp_path, control.url, name="two") as two,
    ):
        one.wait_ready()
        two.wait_ready()
        ids = [gateway.chat().headers["x-request-id"] for gateway in (one, two) for _ in range(5)]
        names = [control.wait_event(request_id)["gateway"] for request_id in ids]
        assert names == ["one"] * 5 + ["two"] * 5
        one.end(signal.SIGKILL)
        assert two.chat().status_code == 200
        one.start()
        one.wait_ready()
        assert one.chat().status_code == two.chat().status_code == 200
        assert len(list((tmp_path / "gateway").glob("inflight-*.map"))) == 2
        control.wait_events(13)
        assert len(control.events) == 13


@pytest.mark.slow
def test_a_wrong_start_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert (
        process.run(tmp_path / "no", None, None, "127.0.0.1", 0, "http://127.0.0.1:1", None) == 78
    )
    home = tmp_path / "home"
    home.mkdir()
    secrets = {"installation_id": "ins_a", "hmac_key": "ab", "gateway_token": "t"}
    (home / "secrets.json").write_text(json.dumps(secrets))
    assert process.run(home, None, None, "127.0.0.1", 0, "https://x", None) == 78
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert process.run(home, None, None, "127.0.0.1", port, "http://127.0.0.1:1", None) == 78
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    assert "http://host:port" in told[1]
    assert "in use" in told[2]


def test_many_clients_may_wait_to_be_let_in(tmp_path: Path):
    """The library would set the queue of the listening socket back to a hundred."""
    with StubControl() as control, GatewayThread(tmp_path, control.url) as gateway:
        wait_reason(gateway, "no route table")
        told = gateway._listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
    queue_max = struct.unpack_from("I", told, 28)[0]  # of a listening socket (tcpi_sacked)
    assert queue_max >= min(4_096, int(Path("/proc/sys/net/core/somaxconn").read_text()))


def test_clients_that_come_together_are_let_in_by_the_dozen(tmp_path: Path):
    """The library takes in one for each pass of the loop; there are several such takers."""
    with StubControl() as control, GatewayThread(tmp_path, control.url) as gateway:
        wait_reason(gateway, "no route table")
        inode = os.fstat(gateway._listener.fileno()).st_ino
        takers = sum(_inode(int(entry.name)) == inode for entry in Path("/proc/self/fd").iterdir())
    assert takers > 12


def _inode(fd: int) -> int | None:
    try:
        return os.fstat(fd).st_ino
    except OSError:  # the folder's own, closed by now
        return None
