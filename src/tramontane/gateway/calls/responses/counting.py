"""POST /v1/responses/input_tokens: how many tokens a request's input would have.

The engine counts with its own tokenizer and chat template, and generates nothing; so nothing of
it is charged. llama.cpp has a path for it, vLLM's ``/tokenize`` takes a chat; others cannot.
"""

from typing import Any, Final

import orjson

from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.routing import Route
from tramontane.gateway.calls.engines import COUNTING, VLLM
from tramontane.gateway.calls.responses.call import INPUT_TOKENS, ResponsesCall
from tramontane.gateway.calls.responses.sse import parse
from tramontane.gateway.calls.usage import MalformedReplyError, Tokens

_ASKED_BY_VLLM: Final = ("model", "messages", "tools")


class CountingCall(ResponsesCall):
    """A request to count."""

    __slots__ = ()

    @classmethod
    def of(cls, call: ResponsesCall) -> "CountingCall":
        """Return the request to count what ``call`` would ask."""
        counting = cls(call.asked, call.skeleton, call.items, call.now_s)
        counting.endpoint = INPUT_TOKENS
        counting.is_stream = False
        return counting

    def prompt_tokens_max(self, context_length: int) -> int:  # noqa: ARG002 - nothing is charged
        """Return nothing."""
        return 0

    def completion_tokens_max(self, context_length: int) -> int:  # noqa: ARG002 - the same
        """Return nothing."""
        return 0

    def refused_by(self, route: Route) -> Refusal | None:
        """Return why the engine of ``route`` must not be asked this, or None."""
        if route.engine not in COUNTING:
            message = f"the engine {route.engine} of this model cannot count tokens"
            return Refusal(Code.UNSUPPORTED_BY_ENGINE, message, "model")
        return super().refused_by(route)

    def pieces_for(self, route: Route) -> tuple[bytes | memoryview, ...]:
        """Return the body for the engine of ``route``."""
        body: dict[str, Any] = orjson.loads(b"".join(self.chat.pieces_for(route)))
        self._engine = route.engine
        self.upstream_path = COUNTING[route.engine][0]
        if route.engine == VLLM:
            body = {name: body[name] for name in _ASKED_BY_VLLM if name in body}
            body["add_generation_prompt"] = True
        return (orjson.dumps(body),)

    def read_whole(self, body: bytes, request_id: str) -> tuple[bytes, Tokens | None]:  # noqa: ARG002
        """Return the count as the caller gets it; no token was used."""
        found = parse(body)
        count = found.get(COUNTING[self._engine][1]) if found is not None else None
        if not isinstance(count, int):
            raise MalformedReplyError
        return orjson.dumps({"object": "response.input_tokens", "input_tokens": count}), (0, 0, 0)
