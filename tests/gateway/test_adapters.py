"""What each engine is told about LoRA adapters."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.gateway import GatewayThread, chat_body, make_route, make_table
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until
from tramontane.domain.routing import RouteAdapter
from tramontane.gateway.calls import adapters

PLAIN = make_route([], adapter_count=3)
SECOND = make_route([], adapter=RouteAdapter("legal", 1, 3), adapter_count=3)


@pytest.mark.parametrize(
    ("route", "scales"),
    [(PLAIN, [0.0, 0.0, 0.0]), (SECOND, [0.0, 1.0, 0.0]), (make_route([]), None)],
)
def test_llama_cpp_is_told_the_scale_of_every_adapter(route, scales: list[float] | None):
    found = adapters.scales_of(route)
    told = None if scales is None else [{"id": at, "scale": s} for at, s in enumerate(scales)]
    assert found == (
        b"" if told is None else b'"lora":' + json.dumps(told).encode().replace(b" ", b"") + b","
    )
    assert adapters.upstream_model(route) == route.upstream_model


def test_vllm_is_asked_for_the_adapter_by_its_name():
    assert adapters.upstream_model(replace(SECOND, engine="vllm")) == "legal"
    assert adapters.upstream_model(replace(PLAIN, engine="vllm")) == PLAIN.upstream_model
    assert adapters.scales_of(replace(SECOND, engine="vllm")) == b""


@pytest.mark.parametrize(
    "body",
    [
        {"model": "m", "prompt": "x"},
        {"model": "m", "lora": None},
        {"model": "m", "prompt": 'a "lora": of words'},
    ],
)
@pytest.mark.parametrize("lead", [b"", b' \n{"stream_options":{},'])
def test_the_scales_stand_in_the_body_once(body: dict, lead: bytes):
    raw = json.dumps(body).encode()
    pieces = (lead, memoryview(raw)[1:]) if lead else (b"  " + raw,)
    sent = b"".join(adapters.with_scales(adapters.scales_of(SECOND), pieces))
    found = json.loads(sent, object_pairs_hook=list)
    names = [name for name, _ in found]
    assert names.count("lora") == 1
    expected = {name: value for name, value in body.items() if name != "lora"}
    if lead:
        expected["stream_options"] = {}
    assert {n: v for n, v in json.loads(sent).items() if n != "lora"} == expected


@pytest.mark.parametrize("engine_name", ["llamacpp", "vllm"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_reaches_the_engine_with_its_adapter(
    tmp_path: Path, engine_name: str, stream: bool
):
    with StubEngine() as engine:
        plain = make_route([engine.address], engine=engine_name, adapter_count=2)
        legal = replace(plain, model="demo-legal", adapter=RouteAdapter("legal", 1, 2))
        table = make_table(plain, legal)
        with StubControl(table) as control, GatewayThread(tmp_path, control.url) as gateway:
            with gateway.client() as client:
                until(lambda: client.get("/v1/models").status_code == 200, "the route table")
                for model in ("demo", "demo-legal"):
                    body = {**chat_body(stream=stream), "model": model}
                    reply = client.post("/v1/chat/completions", json=body)
                    assert reply.status_code == 200
                    assert f'"model":"{model}"' in reply.text.replace(": ", ":")
            seen = [item.json for item in engine.requests]
        if engine_name == "vllm":
            assert [item["model"] for item in seen] == ["demo", "legal"]
            assert all("lora" not in item for item in seen)
        else:
            scales = [[entry["scale"] for entry in item["lora"]] for item in seen]
            assert scales == [[0.0, 0.0], [0.0, 1.0]]
            assert [item["model"] for item in seen] == ["demo", "demo"]


def test_a_caller_cannot_set_the_scales(gateway: GatewayThread):
    reply = gateway.chat(lora=[{"id": 0, "scale": 9.0}])
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "lora"
