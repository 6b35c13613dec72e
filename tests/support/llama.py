"""A real llama.cpp replica as a process, for tests that do without the control plane."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.gateway import NO_TLS
from tests.support.stub_engine import SECRET

DEMO_WEIGHTS = Path(__file__).parents[2] / "models" / "demo" / "tramontane-demo-q8_0.gguf"


@contextmanager
def llama(weights: Path, alias: str, *, context_length: int = 512) -> Iterator[str]:
    """Serve ``weights`` and give the address, once it is healthy."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    argv = [sys.executable, "-m", "tramontane.llama_server", "--model", str(weights)]
    argv += ["--alias", alias, "--host", "127.0.0.1", "--port", str(port), "--parallel", "4"]
    argv += ["--context-length", str(context_length), "--threads", "1", "--mode", "all"]
    environment = {**os.environ, "TRAMONTANE_REPLICA_SECRET": SECRET}
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL)
    try:
        _wait_healthy(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    headers = {"authorization": f"Bearer {SECRET}"}
    deadline = time.monotonic() + 30
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", verify=NO_TLS) as client:
        while time.monotonic() < deadline:
            try:
                if client.get("/health", headers=headers).status_code == 200:
                    return
            except httpx.TransportError:
                assert process.poll() is None, "the engine did not start"
            time.sleep(0.05)
    raise AssertionError("the engine did not become healthy")
