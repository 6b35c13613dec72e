"""What a gateway writes to its log while everything goes wrong: JSON, and nothing private."""

import contextlib
import json
import socket
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import (
    MEMBER_KEY,
    OPERATOR_KEY,
    GatewayProcess,
    chat_body,
    make_route,
    make_table,
    post,
)
from tests.support.stub_control import TOKEN, StubControl
from tests.support.stub_engine import SECRET, StubEngine
from tests.support.waiting import until

pytestmark = pytest.mark.slow

PROMPT = "a most private prompt"


def test_json_lines_without_prompts_keys_or_secrets(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = f"127.0.0.1:{gone.getsockname()[1]}"
    variables = {"TRAMONTANE_LOG_FORMAT": "json", "TRAMONTANE_LOG_LEVEL": "debug"}
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address, dead]))) as control,
        GatewayProcess(tmp_path, control.url, **variables) as gateway,
    ):
        gateway.wait_ready()
        messages = [{"role": "user", "content": PROMPT}]
        scripts = [{}, {"die": "before"}, {"die": "chunks"}, {"raw": PROMPT}]
        scripts += [{"status": status, "message": PROMPT} for status in (400, 500, 503)]
        scripts += [{"error_after": 1, "message": PROMPT}]
        for number, script in enumerate(scripts):
            messages = [{"role": "user", "content": f"{PROMPT} {number}"}]  # for any replica
            for stream in (False, True):
                with contextlib.suppress(httpx.RemoteProtocolError):  # a stream that breaks off
                    gateway.chat(messages=messages, stub=script, stream=stream)
        gateway.chat(key=MEMBER_KEY[:-1] + "0", messages=messages)
        body = json.dumps(chat_body(messages=messages)).encode()
        gateway.raw(post("/v1/chat/completions", body[:-5] + b"\xff", key=MEMBER_KEY), end=True)
        gateway.raw(b"GET " + PROMPT.encode() + b"\r\n" + MEMBER_KEY.encode() + b"\r\n\r\n")
        with gateway.client(OPERATOR_KEY) as client:
            client.get("/metrics")
        control.stop()
        log = tmp_path / "logs" / "gateway.log"
        until(lambda: "no new route table" in log.read_text(), "the log to tell of the poll")
        lines = log.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert any("set aside" in record["message"] for record in records)
    for record in records:
        assert set(record) - {"exception"} == {
            *("time", "level", "logger", "process", "pid", "message")
        }
        assert record["process"] == "gateway"
    text = "\n".join(lines)
    for private in (PROMPT, MEMBER_KEY[:-1], OPERATOR_KEY, SECRET, TOKEN):
        assert private not in text
