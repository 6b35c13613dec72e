"""Trace context through a gateway, spans at a collector, and a gateway without either."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.client_envs import make
from tests.support.exposition import read_page
from tests.support.gateway import (
    MEMBER_KEY,
    MODEL,
    OPERATOR_KEY,
    PROJECT,
    GatewayProcess,
    GatewayThread,
    chat_body,
    make_route,
    make_table,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until
from tramontane.gateway.telemetry.tracing import ATTRIBUTES

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
CHAT = "/v1/chat/completions"
PROMPT = "a most private prompt"


def ask(gateway: Any, headers: dict[str, str] | None = None, **fields: Any) -> None:
    body = chat_body(messages=[{"role": "user", "content": PROMPT}], **fields)
    with gateway.client() as client:
        assert client.post(CHAT, json=body, headers=headers).status_code == 200


def test_a_valid_context_reaches_the_engine(gateway: GatewayThread, engine: StubEngine):
    ask(gateway, {"traceparent": PARENT, "tracestate": "a=1, b=2"})
    ask(gateway, {"traceparent": "00-bad", "tracestate": "a=1"})
    ask(gateway, {"TraceParent": PARENT, "tracestate": "No Good"})
    ask(gateway)
    told = [
        (seen.headers.get("traceparent"), seen.headers.get("tracestate"))
        for seen in engine.requests
    ]
    assert told == [(PARENT, "a=1,b=2"), (None, None), (PARENT, None), (None, None)]


class Collector:
    """Takes OTLP over HTTP, decoded by OpenTelemetry's own classes; may be away."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Taking(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1/traces"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def spans(self, python: Path) -> list[dict[str, Any]]:
        """Return all spans that came, read by the official protobuf classes."""
        script = (
            "import json, sys, gzip\n"
            "from google.protobuf.json_format import MessageToDict\n"
            "from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb\n"
            "out = []\n"
            "for line in sys.stdin:\n"
            "    data = bytes.fromhex(line)\n"
            "    data = gzip.decompress(data) if data[:2] == b'\\x1f\\x8b' else data\n"
            "    message = pb.ExportTraceServiceRequest.FromString(data)\n"
            "    out += [{**MessageToDict(span), 'trace': span.trace_id.hex(),\n"
            "             'span': span.span_id.hex(), 'parent': span.parent_span_id.hex(),\n"
            "             'service': MessageToDict(group.resource)}\n"
            "            for group in message.resource_spans\n"
            "            for scope in group.scope_spans for span in scope.spans]\n"
            "print(json.dumps(out))\n"
        )
        lines = "".join(body.hex() + "\n" for body in self.bodies)
        done = subprocess.run(
            [str(python), "-I", "-c", script],
            input=lines,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return json.loads(done.stdout)


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.server.shutdown()
    found.server.server_close()


def with_otel(python: Path) -> str:
    """Return the folder of the extra's packages, for a gateway's PYTHONPATH."""
    (packages,) = python.parent.parent.glob("lib/python*/site-packages")
    return str(packages)


@pytest.mark.slow
def test_spans_reach_a_collector(tmp_path: Path, collector: Collector):
    otel = make("otel")
    variables = {
        "PYTHONPATH": ":".join([with_otel(otel.python), *sys.path]),
        "TRAMONTANE_OTEL_ENDPOINT": collector.url,
        "TRAMONTANE_OTEL_SAMPLE_PERCENT": "100",
        "TRAMONTANE_LOG_FORMAT": "json",
    }
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayProcess(tmp_path, control.url, **variables) as gateway,
    ):
        gateway.wait_ready()
        ask(gateway, {"traceparent": PARENT, "tracestate": "a=1"})
        ask(gateway, {"traceparent": PARENT[:-2] + "00"})  # its client does not record it
        ask(gateway, stream=True)
        until(lambda: len(collector.spans(otel.python)) == 2, "two spans")
        first, second = collector.spans(otel.python)
        told = [seen.headers.get("traceparent", "") for seen in engine.requests]
        events = control.wait_events(3)
        with gateway.client(OPERATOR_KEY) as client:
            page = read_page(client.get("/metrics").text)
    assert (first["trace"], first["parent"], first["traceState"]) == (TRACE, SPAN, "a=1")
    assert told[0] == f"00-{TRACE}-{first['span']}-01"
    assert told[1] == PARENT[:-2] + "00"
    assert second["parent"] == ""
    assert told[2] == f"00-{second['trace']}-{second['span']}-01"
    assert {span["name"] for span in (first, second)} == {"gateway.request"}
    values = {item["key"]: next(iter(item["value"].values())) for item in first["attributes"]}
    assert set(values) == set(ATTRIBUTES)
    assert values["tramontane.request_id"] in {event["request_id"] for event in events}
    assert values["gen_ai.request.model"] == MODEL
    assert values["tramontane.project_id"] == PROJECT
    assert values["gen_ai.usage.input_tokens"] == "7"
    assert int(first["endTimeUnixNano"]) > int(first["startTimeUnixNano"])
    name = "tramontane_gateway_spans_total"
    assert page.value(name, result="exported") == 2
    assert page.value(name, result="dropped") == 0
    for secret in (PROMPT, MEMBER_KEY):
        assert not any(secret.encode() in body for body in collector.bodies)


@pytest.mark.slow
def test_a_collector_that_is_away_costs_spans_and_nothing_else(tmp_path: Path):
    otel = make("otel")
    variables = {
        "PYTHONPATH": ":".join([with_otel(otel.python), *sys.path]),
        "TRAMONTANE_OTEL_ENDPOINT": "http://127.0.0.1:1/v1/traces",
        "TRAMONTANE_OTEL_SAMPLE_PERCENT": "100",
    }
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayProcess(tmp_path, control.url, **variables) as gateway,
    ):
        gateway.wait_ready()
        for _ in range(20):
            ask(gateway)

        def dropped() -> float:
            with gateway.client(OPERATOR_KEY) as client:
                page = read_page(client.get("/metrics").text)
            return page.value("tramontane_gateway_spans_total", result="dropped")

        until(lambda: dropped() == 20, "twenty spans to be dropped")
        assert gateway.chat().status_code == 200


@pytest.mark.slow
def test_tracing_without_the_extra_is_refused_in_one_line(tmp_path: Path):
    with StubControl(make_table()) as control:
        gateway = GatewayProcess(tmp_path, control.url, TRAMONTANE_OTEL_ENDPOINT="http://x/")
        command = {"args": gateway.argv, "env": gateway.environment, "pass_fds": (gateway.fd,)}
        done = subprocess.run(**command, capture_output=True, text=True, check=False)
        gateway.close()
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert "tramontane[otel]" in done.stderr
