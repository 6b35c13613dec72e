"""A gateway is killed with five hundred streams open: each is counted once, with its tokens."""

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess, chat_body, make_route, make_table, post
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until

pytestmark = pytest.mark.slow

STREAMS = 500
_ID = re.compile(rb"x-request-id: (\S+)\r\n")


class Stream:
    """One client: what it was told before the gateway died."""

    def __init__(self) -> None:
        self.data = b""

    @property
    def request_id(self) -> str:
        found = _ID.search(self.data)
        assert found, self.data[:300]
        return found[1].decode()

    @property
    def tokens(self) -> int:
        """Return how many tokens were delivered: each is a piece of its own."""
        return self.data.count(b'"content":"tok')

    async def read(self, port: int) -> None:
        """Open a stream of one token every half second, and read it until it breaks."""
        body = json.dumps(chat_body(stream=True, stub={"pause_s": 0.5, "chunks": 120})).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(post("/v1/chat/completions", body))
            while piece := await reader.read(65_536):
                self.data += piece
        except ConnectionResetError:
            pass
        finally:
            writer.close()


async def all_until_killed(gateway: GatewayProcess, count: int = STREAMS) -> list[Stream]:
    streams = [Stream() for _ in range(count)]
    reading = [asyncio.create_task(stream.read(gateway.port)) for stream in streams]
    async with asyncio.timeout(40):
        while any(stream.tokens < 2 for stream in streams):
            await asyncio.sleep(0.05)
        await asyncio.to_thread(gateway.end, signal.SIGKILL)
        await asyncio.gather(*reading)
    return streams


def test_each_of_five_hundred_streams_is_counted_with_its_tokens(tmp_path: Path) -> None:
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address]))) as control,
        GatewayProcess(tmp_path, control.url) as gateway,
    ):
        gateway.wait_ready()
        streams = asyncio.run(all_until_killed(gateway))
        generated = {seen.request_id: seen.chunks for seen in engine.requests}
        gateway.start()
        gateway.wait_ready()
        until(lambda: len(control.events) >= STREAMS, "the events")
        assert gateway.end(signal.SIGTERM) == 0  # and nothing more is on its way
        events = list(control.events.values())
        assert len(events) == STREAMS
        assert {event["request_id"] for event in events} == set(engine.ids)
        assert {event["outcome"] for event in events} == {"cut"}
        counted = {event["request_id"]: event["completion_tokens"] for event in events}
        for stream in streams:
            delivered = stream.tokens
            assert delivered >= 2
            # What the client had is counted, and no more than the engine made.
            assert delivered <= counted[stream.request_id] <= generated[stream.request_id]
