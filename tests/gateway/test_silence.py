"""Streams whose engine is silent for a while: comments, and failures after the head went out."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.gateway import MODEL, QUICK, GatewayThread, data_of, make_route, make_table
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine

pytestmark = pytest.mark.slow

COMMENT = ": keep-alive\n\n"
LIMITS = replace(QUICK, first_byte_s=5.0, first_comment_s=0.3, comment_s=0.15)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[GatewayThread, StubControl]]:
    with StubEngine() as engine, StubControl(make_table(make_route([engine.address]))) as control:
        folder = tmp_path_factory.mktemp("silence")
        with GatewayThread(folder, control.url, LIMITS) as gateway:
            gateway.wait_ready()
            yield gateway, control


def ask(gateway: GatewayThread, **stub: object) -> tuple[int, str, str]:
    """Return status, text and request id of a streamed chat."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json={**body, "stub": stub}) as reply,
    ):
        text = ""
        try:
            for piece in reply.iter_text():
                text += piece
        except Exception as error:  # noqa: BLE001 - how a stream ends that is cut off
            text += f"<{type(error).__name__}>"
        return reply.status_code, text, reply.headers["x-request-id"]


def test_a_silent_stream_gets_comments_between_whole_events(
    running: tuple[GatewayThread, StubControl],
):
    gateway, control = running
    status, text, request_id = ask(gateway, pause_s=0.45)
    assert status == 200
    assert text.count(COMMENT) >= 3
    assert text.endswith("data: [DONE]\n\n")
    assert all(item.startswith(("data: ", ": ")) for item in text.split("\n\n") if item)
    event = control.wait_event(request_id)
    assert (event["completion_tokens"], event["outcome"]) == (3, "completed")


def test_the_head_goes_out_with_the_first_comment(running: tuple[GatewayThread, StubControl]):
    gateway, _ = running
    status, text, _ = ask(gateway, delay_s=0.8)
    assert status == 200
    assert text.startswith(COMMENT)
    assert len(data_of(text)) == 6


def test_a_refusal_before_the_first_comment_has_its_status(
    running: tuple[GatewayThread, StubControl],
):
    gateway, _ = running
    status, text, _ = ask(gateway, delay_s=0.1, status=400, message="no")
    assert status == 400
    assert '"message":"no"' in text


def test_a_refusal_after_the_first_comment_is_told_as_a_failure_midway(
    running: tuple[GatewayThread, StubControl],
):
    gateway, control = running
    status, text, request_id = ask(gateway, delay_s=0.8, status=400, message="no")
    assert status == 200
    assert text.startswith(COMMENT)
    assert '"finish_reason":"error"' in text
    assert '"message":"no"' in text
    assert "[DONE]" not in text
    assert text.endswith("<RemoteProtocolError>")
    event = control.wait_event(request_id)
    assert (event["outcome"], event["completion_tokens"]) == ("failed", 0)
