"""GET /metrics: who may read it, what stands in it after known requests, and its bounds."""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.client_envs import make
from tests.support.exposition import Page, read_page
from tests.support.gateway import (
    MEMBER_KEY,
    MODEL,
    OPERATOR_KEY,
    OTHER_KEY,
    PROJECT,
    QUICK,
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
from tramontane.domain.spending.limits import Limit, LimitScope
from tramontane.domain.usage import Outcome
from tramontane.gateway.telemetry import exposition
from tramontane.gateway.telemetry.names import METRICS
from tramontane.gateway.telemetry.registry import OTHER, Telemetry

pytestmark = pytest.mark.slow

P = "tramontane_gateway_"
DEMO = {"project": PROJECT, "model": MODEL}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[GatewayThread, StubEngine, StubControl]]:
    """A gateway whose counts begin at zero."""
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayThread(tmp_path, control.url) as gateway,
    ):
        gateway.wait_ready()
        yield gateway, engine, control


def page_of(gateway: GatewayThread) -> Page:
    with gateway.client(OPERATOR_KEY) as client:
        reply = client.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return read_page(reply.text)


@pytest.mark.parametrize(
    ("key", "status"), [(None, 401), ("tmt_no", 401), (MEMBER_KEY, 403), (OPERATOR_KEY, 200)]
)
def test_only_operators_read_it(gateway: GatewayThread, key: str | None, status: int):
    with gateway.client(key) as client:
        for method, wanted in (("GET", status), ("HEAD", status), ("POST", 405)):
            reply = client.request(method, "/metrics")
            assert reply.status_code == wanted
            assert (b"tramontane_gateway" in reply.content) is (method == "GET" and status == 200)


def test_it_counts_what_happened(own: tuple[GatewayThread, StubEngine, StubControl]):
    gateway, _, control = own
    for _ in range(3):
        assert gateway.chat().status_code == 200
    gateway.stream(stub={"chunks": 10, "pause_s": 0.01})
    assert gateway.chat(stub={"status": 500}).status_code == 502
    assert gateway.chat(stub={"status": 400}).status_code == 400
    assert gateway.chat(stub={"delay_s": 3}).status_code == 502
    assert gateway.chat(stub={"die": "before"}).status_code == 502
    assert gateway.chat(n=-1).status_code == 400
    assert gateway.chat(model="absent").status_code == 404
    assert gateway.chat(key=OTHER_KEY).status_code == 404
    assert gateway.chat(key=None).status_code == 401
    control.wait_events(8)
    until(lambda: page_of(gateway).value(P + "spool_events_pending") == 0, "the shipping")
    page = page_of(gateway)

    def requests(outcome: str, status: str) -> float:
        labels = {"endpoint": "chat.completions", "outcome": outcome, "status": status}
        return page.value(P + "requests_total", **DEMO, **labels)

    assert requests("completed", "2xx") == 4
    assert requests("failed", "5xx") == 1
    assert requests("failed", "4xx") == 1
    assert requests("cut", "5xx") == 2
    for kind, count in {"prompt": 4 * 7, "completion": 3 * 3 + 10, "cached": 4}.items():
        assert page.value(P + "tokens_total", **DEMO, kind=kind) == count
    assert page.value(P + "request_duration_seconds_count", **DEMO) == 8
    assert page.value(P + "time_to_first_token_seconds_count", **DEMO) == 1
    assert page.value(P + "inter_token_seconds_count", **DEMO) == 1
    assert page.value(P + "inter_token_seconds_sum", **DEMO) > 0.005
    assert page.value(P + "upstream_errors_total", **DEMO, kind="status") == 1
    assert page.value(P + "upstream_errors_total", **DEMO, kind="timeout") == 1
    assert page.value(P + "upstream_errors_total", **DEMO, kind="closed") == 1
    assert page.value(P + "requests_in_flight", **DEMO) == 0
    assert page.value(P + "refusals_total", code="model_not_found") == 2
    assert page.value(P + "refusals_total", code="invalid_api_key") == 1
    assert page.value(P + "route_table_revision") == 1
    assert page.value(P + "events_shipped_total") == 8
    assert page.value(P + "control_plane_age_seconds") < 5
    assert page.value(P + "connections") >= 1
    assert page.value(P + "draining") == 0
    version, build = page.label(P + "info", "version"), page.label(P + "info", "build")
    assert page.value(P + "info", gateway="gw", version=version, build=build) == 1
    assert page.value("process_resident_memory_bytes") > 1e6
    # Nothing of a model that does not exist, whatever strangers ask for.
    assert "absent" not in page.text


def test_a_request_in_flight_shows_and_a_refused_connection_is_a_fault(
    own: tuple[GatewayThread, StubEngine, StubControl],
):
    gateway, engine, control = own
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = f"127.0.0.1:{gone.getsockname()[1]}"
    control.publish(make_table(make_route([dead, engine.address]), revision=2))
    until(lambda: page_of(gateway).value(P + "route_table_revision") == 2, "the table")
    with (
        gateway.client() as client,
        client.stream(
            "POST",
            "/v1/chat/completions",
            json={
                "model": MODEL,
                "messages": [{"role": "user", "content": "x"}],
                "stream": True,
                "stub": {"chunks": 500, "pause_s": 0.02},
            },
        ),
    ):
        until(lambda: page_of(gateway).value(P + "requests_in_flight", **DEMO) == 1, "it")
    for _ in range(4):
        assert gateway.chat().status_code == 200
    until(lambda: page_of(gateway).value(P + "requests_in_flight", **DEMO) == 0, "its end")
    page = page_of(gateway)
    assert page.value(P + "upstream_errors_total", **DEMO, kind="connect") >= 1
    assert page.value(P + "retries_total", **DEMO) >= 1
    assert page.value(P + "ejections_total", **DEMO) >= 1
    labels = {"endpoint": "chat.completions", "outcome": "cut", "status": "2xx"}
    assert page.value(P + "requests_total", **DEMO, **labels) == 1


def test_refusals_by_limits_show_their_meter_and_scope(tmp_path: Path):
    limit = Limit("lim_1", LimitScope.PROJECT, PROJECT, requests_per_minute_max=1)
    with StubEngine() as engine:
        table = make_table(make_route([engine.address]), limits={limit.id: limit})
        keys = {name: replace(key, limit_ids=(limit.id,)) for name, key in table.keys.items()}
        with (
            StubControl(replace(table, keys=keys)) as control,
            GatewayThread(tmp_path, control.url) as gateway,
        ):
            gateway.wait_ready()
            assert [gateway.chat().status_code for _ in range(3)] == [200, 429, 429]
            page = page_of(gateway)
    meter = {"meter": "requests", "scope": "project"}
    assert page.value(P + "limit_refusals_total", **DEMO, **meter) == 2
    labels = {"endpoint": "chat.completions", "outcome": "refused", "status": "4xx"}
    assert page.value(P + "requests_total", **DEMO, **labels) == 2
    assert page.value(P + "refusals_total", code="rate_limit_exceeded") == 2


def test_models_beyond_the_cap_share_one_series(tmp_path: Path):
    limits = replace(QUICK, metric_series_max=2)
    with StubEngine() as engine:
        routes = [make_route([engine.address], model=f"m{number}") for number in range(5)]
        with (
            StubControl(make_table(*routes)) as control,
            GatewayThread(tmp_path, control.url, limits) as gateway,
        ):
            gateway.wait_ready()
            for number in range(5):
                assert gateway.chat(model=f"m{number}").status_code == 200
            page = page_of(gateway)
            assert page.models() == {(PROJECT, "m0"), (PROJECT, "m1"), (OTHER, OTHER)}
            labels = {"endpoint": "chat.completions", "outcome": "completed", "status": "2xx"}
            other = {"project": OTHER, "model": OTHER}
            assert page.value(P + "requests_total", **other, **labels) == 3
            # A model that is gone makes room for one that came.
            control.publish(make_table(*routes[2:], revision=2))
            until(lambda: page_of(gateway).value(P + "route_table_revision") == 2, "the table")
            assert gateway.chat(model="m4").status_code == 200
            assert (PROJECT, "m4") in page_of(gateway).models()
            assert (PROJECT, "m0") not in page_of(gateway).models()


@pytest.mark.slow
def test_the_metrics_port_needs_no_key_and_gives_nothing_else(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayProcess(tmp_path, control.url, TRAMONTANE_METRICS_PORT=str(port)) as gateway,
    ):
        gateway.wait_ready()
        assert gateway.chat().status_code == 200
        with gateway.client(None) as client:
            for _ in range(2):  # a scraper keeps its connection
                reply = client.get(f"http://127.0.0.1:{port}/metrics")
                assert reply.status_code == 200
                assert read_page(reply.text).models() == {(PROJECT, MODEL)}
            for path in ("/", "/health", "/v1/models", "/metrics/x", "/internal/v1/route-table"):
                assert client.get(f"http://127.0.0.1:{port}{path}").status_code == 404
            assert client.post(f"http://127.0.0.1:{port}/metrics").status_code == 405
            assert client.get("/metrics").status_code == 401
        # Nor does a head that the public port has learned open anything there.
        chat = post("/v1/chat/completions", json.dumps(chat_body()).encode())
        for asked, status in ((gateway.port, 200), (gateway.port, 200), (port, 404)):
            with socket.create_connection(("127.0.0.1", asked), timeout=5) as sock:
                sock.sendall(chat)
                assert sock.recv(65_536).startswith(b"HTTP/1.1 %d" % status)


@pytest.mark.slow
def test_the_official_parser_reads_it(tmp_path: Path):
    telemetry = Telemetry('gw "1"\\', "1\n2", series_max=10)
    series = telemetry.series_of("prj_a", 'odd\\"model\n')
    for number in range(50):
        series.in_flight += 1
        series.ended("chat.completions", Outcome.CUT, 200, 0.02 * number, 0.01, 7, 9, 1, True)
        series.unreached("embeddings", "refused", 429)
        series.waited(0.3 * number)
        series.limit_refused("tokens", "api_key")
        series.upstream_failed("closed")
    page = list(exposition.steps(telemetry))[-1]
    (tmp_path / "page").write_bytes(page)
    script = tmp_path / "parse.py"
    script.write_text(
        "import json, sys\n"
        "from prometheus_client.parser import text_string_to_metric_families as read\n"
        "families = [(f.name, f.type, [(s.name, s.labels, s.value) for s in f.samples])\n"
        "            for f in read(open(sys.argv[1], newline='').read())]\n"
        "print(json.dumps(families))\n"
    )
    told = make("prometheus").run(script, str(tmp_path / "page"), timeout_s=30)
    families = {name: (kind, samples) for name, kind, samples in json.loads(told)}
    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS}
    for metric in METRICS:
        assert families[metric.name.removesuffix("_total")][0] == metric.kind
    samples = families[P + "requests"][1]
    assert all(labels["model"] == 'odd\\"model\n' for _, labels, _ in samples)
    assert sorted(value for _, _, value in samples) == [50, 50]
    ours = read_page(page.decode())
    theirs = [sample for _, samples in families.values() for sample in samples]
    assert len(theirs) == len(ours.samples)
    for name, labels, value in theirs:
        assert ours.value(name, **labels) == value
