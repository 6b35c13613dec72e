"""LoRA adapters in a real llama.cpp: each name gets its own, the plain model gets none."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import NO_TLS, GatewayThread, make_route, make_table
from tests.support.random_adapter import write_random_adapter
from tests.support.random_gguf import write_random_gguf
from tests.support.stub_control import StubControl
from tests.support.stub_engine import SECRET
from tests.support.waiting import until
from tramontane.domain.routing import RouteAdapter
from tramontane.gateway.limits import Limits

pytestmark = pytest.mark.slow

HEADERS = {"authorization": f"Bearer {SECRET}"}


@contextmanager
def llama(weights: Path, adapters: list[Path]) -> Iterator[str]:
    """A server with the model of ``weights`` and some adapters; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    argv = [sys.executable, "-m", "tramontane.llama_server"]
    for adapter in adapters:
        argv += ["--adapter", str(adapter)]
    argv += ["--model", str(weights), "--alias", "demo", "--port", str(port)]
    argv += ["--context-length", "256", "--mode", "chat"]
    environment = {**os.environ, "TRAMONTANE_REPLICA_SECRET": SECRET}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(argv, env=environment, stdout=quiet, stderr=quiet)

    def is_healthy() -> bool:
        assert process.poll() is None, "the engine did not start"
        try:
            with httpx.Client(verify=NO_TLS) as client:
                url = f"http://127.0.0.1:{port}/health"
                return client.get(url, headers=HEADERS).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(is_healthy, "the engine")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_each_name_gets_its_own_adapter(tmp_path: Path):
    weights = write_random_gguf(tmp_path / "model.gguf")
    adapters = [write_random_adapter(tmp_path / f"{seed}.gguf", seed) for seed in (1, 2)]
    with ExitStack() as stack:
        bare = stack.enter_context(llama(weights, []))
        loaded = stack.enter_context(llama(weights, adapters))
        plain = make_route([loaded], adapter_count=2)
        routes = [plain]
        for index, name in enumerate(("one", "two")):
            adapter = RouteAdapter(name, index, 2)
            routes.append(replace(plain, model=f"demo-{name}", adapter=adapter))
        control = stack.enter_context(StubControl(make_table(*routes)))
        gateway = stack.enter_context(GatewayThread(tmp_path / "gw", control.url, Limits()))
        gateway.wait_ready()
        client = stack.enter_context(gateway.client())
        beside = stack.enter_context(httpx.Client(verify=NO_TLS, headers=HEADERS, timeout=10))

        def answer(model: str, url: str = "", using: httpx.Client = client) -> str:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": "hello"}],
                "max_tokens": 12,
                "temperature": 0,
                "ignore_eos": True,
            }
            reply = using.post(f"{url}/v1/chat/completions", json=body)
            assert reply.status_code == 200, reply.text
            assert reply.json()["model"] == model
            return reply.json()["choices"][0]["message"]["content"]

        expected = answer("demo", f"http://{bare}", beside)
        assert answer("demo", f"http://{loaded}", beside) == expected  # whoever asks for none
        found = [answer(name) for name in ("demo", "demo-one", "demo-two") * 2]
        assert found[0] == expected
        assert len(set(found[:3])) == 3
        assert found[3:] == found[:3]  # what one left in the cache does not reach another
