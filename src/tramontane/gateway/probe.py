"""Answers /ready: is there a route table, and does a replica of the probe deployment answer?

The engine is asked at most once in a while, however often /ready is; who asks meanwhile waits for
the same answer.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tramontane.gateway.upstream.connection import DialError, Headers, UpstreamConnection, dial
from tramontane.gateway.upstream.replica import Replica

if TYPE_CHECKING:
    from tramontane.gateway.dispatch import Gateway

HEALTH_PATH: Final = "/health"  # of llama.cpp and of vLLM


class Probe:
    """The last answer, and who waits for the next. An answer is None for ready, else a reason."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._answer: str | None = "not asked yet"
        self._fresh_until = 0.0
        self._waiting: list[Callable[[str | None], None]] = []

    def ask(self, told: Callable[[str | None], None]) -> None:
        """Call ``told`` with the answer, now or soon."""
        gateway = self._gateway
        if gateway.loop.time() < self._fresh_until:
            told(self._answer)
            return
        self._waiting.append(told)
        if len(self._waiting) > 1:
            return
        gateway.spawn(self._find_out())

    async def _find_out(self) -> None:
        self._settle(await self._look())

    async def _look(self) -> str | None:
        index = self._gateway.index
        if index is None:
            return "the gateway has no route table yet"
        if index.probe_deployment_id is None:
            return None
        active = index.probe_route()
        if active is None:
            return "the first deployment has no route yet"
        if not active.replicas:
            return f"no replica of {active.route.model!r} is ready yet"
        return await self._ask_replica(min(active.replicas, key=lambda item: item.aside_until))

    async def _ask_replica(self, replica: Replica) -> str | None:
        limits = self._gateway.limits
        try:
            connection = await dial(
                replica.host, replica.port, limits.probe_s, tls=self._gateway.replica_context
            )
        except DialError as error:
            return f"replica {replica.id} does not answer: {error}"
        question = _Question(self._gateway)
        try:
            return await question.ask(connection, replica, limits.probe_s)
        finally:
            connection.close()

    def _settle(self, answer: str | None) -> None:
        self._answer = answer
        limits = self._gateway.limits
        keep_s = limits.ready_cache_s if answer is None else limits.not_ready_cache_s
        self._fresh_until = self._gateway.loop.time() + keep_s
        waiting, self._waiting = self._waiting, []
        for told in waiting:
            told(answer)


class _Question:
    """One health check of one replica."""

    def __init__(self, gateway: "Gateway") -> None:
        self._answer = gateway.loop.create_future()
        self._loop = gateway.loop

    async def ask(
        self, connection: UpstreamConnection, replica: Replica, timeout_s: float
    ) -> str | None:
        request = (
            f"GET {HEALTH_PATH} HTTP/1.1\r\nhost: {replica.address}\r\n"
            f"authorization: Bearer {replica.secret}\r\nconnection: close\r\n\r\n"
        )
        late = f"replica {replica.id} does not answer its health check"
        timer = self._loop.call_later(timeout_s, self._tell, late)
        if not connection.send(self, (request.encode(),)):
            self._tell(late)
        try:
            return await self._answer
        finally:
            timer.cancel()

    def _tell(self, answer: str | None) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)

    def on_reply_head(self, status: int, headers: Headers) -> None:  # noqa: ARG002 - not used
        self._tell(None if status == 200 else f"the replica's health check answers {status}")

    def on_reply_data(self, data: bytes) -> None:
        pass

    def on_reply_end(self) -> None:
        self._tell("the replica's health check answers nothing")

    def on_reply_broken(self, reason: str) -> None:
        self._tell(f"the replica's health check failed: {reason}")

    def on_upload_paused(self, is_paused: bool) -> None:  # noqa: FBT001 - a plain event
        pass
