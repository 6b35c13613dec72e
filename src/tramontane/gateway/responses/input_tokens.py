"""The life of one request to count a prompt's tokens: an exchange that stores nothing."""

from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import RouteKey
from tramontane.domain.usage import Outcome
from tramontane.gateway.calls.call import Call
from tramontane.gateway.calls.responses.call import ResponsesCall, without_answer
from tramontane.gateway.calls.responses.counting import CountingCall
from tramontane.gateway.exchange import Exchange
from tramontane.gateway.responses.exchange import ResponsesExchange


class InputTokens(ResponsesExchange):
    """One request to count."""

    __slots__ = ()

    def _read(self, body: bytes, key: RouteKey) -> Call | Refusal:
        call = super()._read(without_answer(body), key)
        return CountingCall.of(call) if isinstance(call, ResponsesCall) else call

    def _end_whole(self, body: bytes) -> None:
        Exchange._end_whole(self, body)

    def _fail(self, why: str, outcome: Outcome = Outcome.CUT) -> None:
        Exchange._fail(self, why, outcome)
