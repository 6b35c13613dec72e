"""A gateway without a control plane: by a file, which may change under it."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.support.gateway import (
    HMAC_KEY,
    MEMBER_KEY,
    OTHER_KEY,
    GatewayThread,
    chat_body,
    key_hash,
    make_route,
    make_table,
)
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until
from tramontane.domain.routing import Route, RouteAdapter, RouteKey, RouteReplica, RouteTable
from tramontane.domain.spending.limits import Limit
from tramontane.domain.spending.pricing import Prices
from tramontane.domain.tenancy import hash_key
from tramontane.gateway.alone import books
from tramontane.gateway.alone.route_file import RouteFile
from tramontane.gateway.limits import Limits
from tramontane.gateway.metering.meter import Meter
from tramontane.gateway.metering.spool import Segment
from tramontane.gateway.routes import TableError
from tramontane.processes.gateway import Alone
from tramontane.runtime.clock import SystemClock

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "bench" / "route-table.example.json"
LIMIT = {"id": "lim_a", "scope": "project", "subject_id": "prj_a"}


def write(path: Path, table: RouteTable, **more: Any) -> None:
    path.write_bytes(orjson.dumps({**json.loads(orjson.dumps(table)), **more}))


def alone(path: Path) -> Alone:
    file = RouteFile(path)
    return Alone(file, file.read(), keeps_usage=True)


@pytest.fixture
def table_path(tmp_path: Path) -> Path:
    return tmp_path / "table.json"


def test_it_serves_by_the_file_and_keeps_the_usage(
    tmp_path: Path, table_path: Path, engine: StubEngine
):
    write(table_path, make_table(make_route([engine.address])), bench_key=MEMBER_KEY)
    with GatewayThread(tmp_path / "state", alone(table_path)) as gateway:
        gateway.wait_ready()
        reply = gateway.chat()
        assert reply.status_code == 200
        with gateway.client() as client:
            lost = client.get("/v1/files")
        assert lost.status_code == 404
        assert "runs alone" in lost.json()["error"]["message"]
    (segment,) = (tmp_path / "state" / "spool").glob("*.jsonl")
    (line,) = segment.read_text().splitlines()
    assert json.loads(line)["request_id"] == reply.headers["x-request-id"]


def test_a_changed_file_is_taken_and_a_bad_one_is_not(
    tmp_path: Path, table_path: Path, engine: StubEngine
):
    table = make_table(make_route([engine.address]))
    write(table_path, table)
    with GatewayThread(tmp_path / "state", alone(table_path)) as gateway:
        assert gateway.chat().status_code == 200
        others = {key_hash(OTHER_KEY): table.keys[key_hash(MEMBER_KEY)]}
        write(table_path, make_table(*table.routes, keys=others, revision=2))
        until(lambda: gateway.chat().status_code == 401, "the key to be gone")
        assert gateway.chat(key=OTHER_KEY).status_code == 200
        table_path.write_text('{"revision": 3}')
        time.sleep(1.2)  # two looks
        assert gateway.chat(key=OTHER_KEY).status_code == 200
        table_path.unlink()
        time.sleep(1.2)
        assert gateway.chat(key=OTHER_KEY).status_code == 200
        write(table_path, table)
        until(lambda: gateway.chat().status_code == 200, "the key to be back")


FAULTS: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("no keys", lambda t: t.pop("keys"), r"missing required field `keys`"),
    ("hmac", lambda t: t.update(hmac_key="xyz"), r"hexadecimal"),
    ("empty hmac", lambda t: t.update(hmac_key=""), r"\$\.hmac_key must not be empty"),
    ("hash", lambda t: t["keys"].update({"AB": {**t["keys"][key_hash(MEMBER_KEY)]}}), r"64 hexa"),
    ("role", lambda t: t["keys"][key_hash(MEMBER_KEY)].update(role="root"), r"root.*\$\.keys"),
    (
        "limit",
        lambda t: t["keys"][key_hash(MEMBER_KEY)].update(limit_ids=["lim_x"]),
        r"'lim_x', which \$\.limits does not have",
    ),
    ("limit id", lambda t: t.update(limits={"lim_b": LIMIT}), r"\['lim_b'\]\.id must be 'lim_b'"),
    (
        "negative",
        lambda t: t.update(limits={"lim_a": {**LIMIT, "budget_micro": -1}}),
        r"budget_micro must be at least 0",
    ),
    (
        "twice",
        lambda t: t["routes"].append(t["routes"][0]),
        r"routes\[1\]: .* two routes to 'demo'",
    ),
    ("model", lambda t: t["routes"][0].update(model="a b"), r"routes\[0\]: a model's name"),
    ("long", lambda t: t["routes"][0].update(deployment_id="d" * 29), r"routes\[0\]: an id is"),
    ("context", lambda t: t["routes"][0].update(context_length=0), r"context_length must be"),
    ("canary", lambda t: t["routes"][0].update(canary_percent=101), r"canary_percent must be 0"),
    ("price", lambda t: t["routes"][0]["prices"].update(prompt_micro=-1), r"prices\.prompt_micro"),
    ("port", lambda t: t["routes"][0]["replicas"][0].update(address="h:0"), r"must be host:port"),
    ("host", lambda t: t["routes"][0]["replicas"][0].update(address="::1:80"), r"IPv6.*brackets"),
    ("secret", lambda t: t["routes"][0]["replicas"][0].update(secret="a\r\n"), r"printable"),
    ("probe", lambda t: t.update(probe_deployment_id="dep_x"), r"'dep_x', which no route has"),
]


@pytest.mark.parametrize(("spoil", "told"), [row[1:] for row in FAULTS], ids=[r[0] for r in FAULTS])
def test_a_bad_file_is_told_with_its_place(
    table_path: Path, spoil: Callable[[dict[str, Any]], Any], told: str
):
    table = json.loads(orjson.dumps(make_table(make_route(["h:1"]))))
    spoil(table)
    table_path.write_text(json.dumps(table))
    with pytest.raises(TableError, match=told) as caught:
        RouteFile(table_path).read()
    assert str(table_path) in str(caught.value)
    assert HMAC_KEY not in str(caught.value)


def test_a_syntax_error_is_told_with_line_and_column(table_path: Path):
    table_path.write_text('{"revision": 1,\n "keys": }')
    with pytest.raises(TableError, match=r"line 2, column 10"):
        RouteFile(table_path).read()


def test_a_field_that_means_nothing_is_named(table_path: Path, caplog: pytest.LogCaptureFixture):
    write(table_path, make_table(make_route(["h:1"], prices=Prices(1, 2))), prces={})
    RouteFile(table_path).read()
    assert "prces" in caplog.text


def test_the_example_is_usable_with_its_own_key():
    table = RouteFile(EXAMPLE).read()
    key = json.loads(EXAMPLE.read_text())["bench_key"]
    found = table.keys[hash_key(bytes.fromhex(table.hmac_key), key)]
    assert set(found.limit_ids) == set(table.limits)
    (route,) = table.routes
    assert {replica.address for replica in route.replicas} == {"127.0.0.1:9001", "127.0.0.1:9002"}
    assert not route.prices.are_zero
    assert any(limit.budget_micro for limit in table.limits.values())


def test_each_field_is_documented():
    page = (ROOT / "docs" / "route-table.md").read_text(encoding="utf-8")
    told = set(re.findall(r"[`\"]([a-z_]+)[`\"]", page))
    shapes = (RouteTable, RouteKey, Limit, Route, RouteReplica, RouteAdapter, Prices)
    assert {field.name for shape in shapes for field in fields(shape)} - told == set()


def test_passing_books_keep_the_newest_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(books, "KEPT_BYTES", 25)

    async def look() -> list[str]:
        meter = Meter(tmp_path, owner="o", gateway="g", clock=SystemClock(), limits=Limits())
        for name in ("a", "b", "c", "d"):
            (tmp_path / name).write_bytes(b"x" * 10)
            meter.segments.append(Segment(tmp_path / name, 10, is_sealed=name != "d"))
        kept = books.PassingBooks(meter, asyncio.get_running_loop())
        kept.start()
        kept.close()
        return [segment.path.name for segment in meter.segments]

    assert asyncio.run(look()) == ["b", "c", "d"]
    assert not (tmp_path / "a").exists()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.mark.slow
def test_the_command_needs_no_home_and_leaves_nothing(
    tmp_path: Path, table_path: Path, engine: StubEngine
):
    write(table_path, make_table(make_route([engine.address])))
    port, scratch = free_port(), tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "tramontane.main", "gateway", "--port", str(port)]
    environment = {**os.environ, "TMPDIR": str(scratch), "HOME": str(tmp_path)}
    process = subprocess.Popen(
        [*command, "--route-table", str(table_path)], cwd=tmp_path, env=environment
    )
    try:
        until(lambda: is_ready(port), "the gateway")
        headers = {"authorization": f"Bearer {MEMBER_KEY}"}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        assert httpx.post(url, json=chat_body(), headers=headers).status_code == 200
        assert len(list(scratch.iterdir())) == 1
        write(table_path, make_table(make_route([engine.address]), keys={}))
        process.send_signal(signal.SIGHUP)
        until(lambda: httpx.post(url, json=chat_body(), headers=headers).status_code == 401)
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(20)
    assert status == 0
    assert list(scratch.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"scratch", "table.json"}


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--route-table", "none.json"], "none.json cannot be read: No such file"),
        ([], "either --control URL or --route-table FILE"),
        (["--control", "http://127.0.0.1:9", "--route-table", "x"], "either --control URL or"),
    ],
)
def test_the_command_says_why_it_cannot_run(tmp_path: Path, arguments: list[str], told: str):
    command = [sys.executable, "-m", "tramontane.main", "gateway", "--port", "0", *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == (2 if told.startswith("either") else 78)  # usage, or fatal
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
