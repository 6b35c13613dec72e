"""Two real llama.cpp servers with the demo model: a conversation's next turn meets its cache."""

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import NO_TLS, GatewayThread, make_route, make_table
from tests.support.stub_control import StubControl
from tests.support.stub_engine import SECRET
from tests.support.waiting import until
from tramontane.gateway.limits import Limits

pytestmark = pytest.mark.slow

WEIGHTS = Path(__file__).parents[2] / "models" / "demo" / "tramontane-demo-q8_0.gguf"
TOPICS = ("deployment", "replica", "route", "spool")


@contextmanager
def llama() -> Iterator[str]:
    """A server with the demo model; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    argv = [sys.executable, "-m", "tramontane.llama_server", "--model", str(WEIGHTS)]
    argv += ["--alias", "demo", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--context-length", "512", "--parallel", "4", "--threads", "1", "--mode", "chat"]
    environment = {**os.environ, "TRAMONTANE_REPLICA_SECRET": SECRET}
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL)
    headers = {"authorization": f"Bearer {SECRET}"}

    def is_healthy() -> bool:
        assert process.poll() is None, "the engine did not start"
        try:
            with httpx.Client(verify=NO_TLS) as client:
                url = f"http://127.0.0.1:{port}/health"
                return client.get(url, headers=headers).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(is_healthy, "the engine")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_the_second_turn_finds_the_first_in_the_cache(tmp_path: Path):
    with ExitStack() as stack:
        addresses = [stack.enter_context(llama()) for _ in range(2)]
        table = make_table(make_route(addresses))
        control = stack.enter_context(StubControl(table))
        gateway = stack.enter_context(GatewayThread(tmp_path, control.url, Limits()))
        gateway.wait_ready()
        events: list[tuple[int, dict[str, Any]]] = []
        # As many conversations as each engine has slots, and none begins like another: the engine
        # gives a slot to the prompt that is most like the one before, and forgets the rest of it.
        conversations = [
            [
                {"role": "system", "content": f"{topic} and nothing else. " * 8},
                {"role": "user", "content": f"What is a {topic}?"},
            ]
            for topic in TOPICS
        ]
        for turn in range(3):
            for messages in conversations:
                reply = gateway.chat(messages=messages, max_tokens=6, temperature=0)
                assert reply.status_code == 200, reply.text
                event = control.wait_event(reply.headers["x-request-id"])
                events.append((turn, event))
                answer = reply.json()["choices"][0]["message"]["content"]
                messages += [
                    {"role": "assistant", "content": answer},
                    {"role": "user", "content": f"And then, {turn}?"},
                ]
    homes = Counter(event["replica_id"] for _, event in events)
    assert all(count % 3 == 0 for count in homes.values())  # all turns of each at one place
    first = [event for turn, event in events if turn == 0]
    later = [event for turn, event in events if turn > 0]
    for event in later:
        assert event["cached_tokens"] > event["prompt_tokens"] / 2
    for event, other in zip(first, later[: len(TOPICS)], strict=True):
        assert other["replica_id"] == event["replica_id"]
        assert other["cached_tokens"] > event["cached_tokens"]
        assert other["cached_tokens"] >= event["prompt_tokens"] - 8  # the whole first turn
