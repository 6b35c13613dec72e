"""Ways to make a call as a client's body makes it."""

from typing import Any

import orjson

from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import Route
from tramontane.gateway.calls.responses.call import ResponsesCall, read_responses_call

TOKEN = "a" * 20
NOW_S = 1_700_000_000
ROUTE = Route("prj_a", "demo", "dep_a", "demo-engine", "llamacpp", 2048, 0, ())
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "What the weather is.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}


def ask(*, may_store: bool = False, **fields: Any) -> ResponsesCall | Refusal:
    body = {"model": "demo", "input": "hello"} | fields
    return read_responses_call(orjson.dumps(body), TOKEN, may_store=may_store, now_s=lambda: NOW_S)


def asked(history: list[dict[str, Any]] | None = None, **fields: Any) -> ResponsesCall:
    """Return a call that is in order, composed."""
    call = ask(**fields)
    assert isinstance(call, ResponsesCall), call
    refusal = call.compose(history or [])
    assert refusal is None, refusal
    return call


def refused(**fields: Any) -> Refusal:
    call = ask(**fields)
    if isinstance(call, ResponsesCall):
        refusal = call.compose([])
        assert refusal is not None, "it should have been refused"
        return refusal
    return call


def engine_body(call: ResponsesCall) -> dict[str, Any]:
    return orjson.loads(b"".join(call.pieces_for(ROUTE)))
