"""Admission: every limit that binds a request has room, or it waits a moment, or it is refused.

All limits are looked at before anything is taken, in one go of the one thread: a request never
holds a part of what it needs. What is held already is spent without asking anybody; only when a
slice has run out does a request wait for the control plane's answer, some milliseconds.
"""

import asyncio
import random
from collections.abc import Callable

from tramontane.domain.refusal import Refusal
from tramontane.domain.routing import Route, RouteKey, RouteTable
from tramontane.domain.spending.limits import Limit, LimitMeter, LimitScope
from tramontane.domain.spending.pricing import cost_nano
from tramontane.domain.spending.slices import bound_of
from tramontane.gateway import refusals
from tramontane.gateway.admission import headers, verdicts
from tramontane.gateway.admission.held import Binding, Held
from tramontane.gateway.admission.leases import Leases
from tramontane.gateway.admission.ticket import UNLIMITED, Demand, Ticket, Waiter
from tramontane.gateway.admission.waiting import Queue, Waiting
from tramontane.gateway.limits import Limits

_CROWD = 128  # with more who wait, looking at all of them takes a good part of a millisecond:
_CROWD_PAUSE_S = 0.005  # so once in so long, that one tenant's crowd takes no time from the others


class Admission:
    """The gate of one gateway. Every method belongs to the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        leases: Leases,
        limits: Limits,
        now: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._leases = leases
        self._limits = limits
        self._now = now
        self._table: dict[str, Limit] = {}
        self._slices: dict[tuple[str, LimitMeter], Held] = {}
        self._bindings: dict[tuple[str, str], Binding] = {}
        self._queue = Queue(limits.waiting_max, limits.waiting_project_max)
        self._is_pass_due = False
        self._chance = random.Random(leases.holder)  # noqa: S311 - gateways must not ask in step
        self._next_look: asyncio.TimerHandle | None = None
        leases.on_change = self._pass
        # Told project, model, meter and scope of each refusal by a limit.
        self.on_refusal: Callable[[str, str, LimitMeter, LimitScope], None] = lambda *_: None

    # What an exchange calls.

    def enter(
        self, waiter: Waiter, key: RouteKey, route: Route, demand: Demand
    ) -> Ticket | Refusal | None:
        """Admit a request, refuse it, or return None: ``waiter`` is told later."""
        if key.models is not None and route.model not in key.models:
            return refusals.model_not_allowed(route.model)
        if not key.limit_ids:
            return UNLIMITED
        binding = self._bindings.get((key.id, route.model))
        if binding is None or binding.key is not key:
            binding = self._bind(key, route.model)
        now = self._now()
        leases = self._leases
        if now >= leases.expires_at:
            leases.expire(now)
        tokens = cost = 0
        if binding.tokens or binding.budgets:
            context = route.context_length
            prompt = demand.prompt_tokens_max(context)
            completion = demand.completion_tokens_max(context)
            tokens = prompt + completion
            if binding.budgets:
                cost = _most(route, prompt, completion)
        if not self._queue or not self._queue.is_ahead(binding):
            ticket = self._take(binding, tokens, cost)
            if ticket is not None:
                return ticket
        return self._wait(Waiting(waiter, binding, tokens, cost, now + self._limits.waiting_s), now)

    def leave_queue(self, waiter: Waiter) -> None:
        """Forget a request whose client left while it waited."""
        self._queue.remove(waiter)

    def header_lines(self, key: RouteKey, model: str | None) -> bytes:
        """Return the rate-limit headers of a reply to a request that was not admitted."""
        if not key.limit_ids:
            return b""
        binding = self._bindings.get((key.id, model)) if model is not None else None
        if binding is None or binding.key is not key:
            slices = self._slices_of(key, model)
            binding = Binding(key, model or "", slices, self._now)
        return headers.lines(binding, -1)

    # What lives as long as the process.

    def apply(self, table: RouteTable) -> None:
        """Bound by ``table`` from now on; who waits is looked at anew."""
        before, self._table = self._table, table.limits
        self._leases.apply(table.limits)
        self._bindings.clear()
        for place, held in list(self._slices.items()):
            limit_id, meter = place
            if held.limit == table.limits.get(limit_id):
                continue
            limit = table.limits.get(limit_id)
            bound = bound_of(limit, meter) if limit is not None else None
            if limit is None or bound is None:
                del self._slices[place]
                self._leases.drop(held)
            else:
                held.limit = limit
                if bound != held.bound:
                    self._leases.rebound(held, bound)
        if len(self._queue):
            self._rebind({key.id: key for key in table.keys.values()})
        if before != table.limits:
            self._schedule_pass()

    async def close(self) -> None:
        """Give back what is free, if somebody takes it; within the limit."""
        deadline = self._now() + self._limits.slices_close_s
        self._leases.give_all_back()
        while not self._leases.is_settled and self._now() < deadline:
            self._leases.send(dict, self._now())
            await asyncio.sleep(0.01)
        if not self._leases.is_settled:
            self._leases.leave_word()
        if self._next_look is not None:
            self._next_look.cancel()

    def start(self) -> None:
        """Begin to look after things: there may be dead gateways to report."""
        self._schedule_look()

    # Taking.

    def _take(self, binding: Binding, tokens: int, cost: int) -> Ticket | None:
        """Take all that a request needs, or nothing."""
        if not binding.has_room(tokens, cost):
            return None
        for held in binding.requests:
            held.free = left = held.free - 1
            if left < held.low:
                self._run_low(held)
        for held in binding.in_flight:
            held.free -= 1
            held.used += 1
        reserves: list[int] = []
        for held in binding.tokens:
            reserve = tokens if tokens < held.cap else held.cap
            reserves.append(reserve)
            held.reserved += reserve
            held.free = left = held.free - reserve
            if left < held.low:
                self._run_low(held)
        for held in binding.budgets:
            held.reserved += cost
            held.free = left = held.free - cost
            if left < held.low:
                self._run_low(held)
        return Ticket(binding, reserves, cost, self._leases.turn, self._on_room)

    def _run_low(self, held: Held) -> None:
        held.low = -1
        self._leases.want(held)
        self._schedule_pass()

    def _on_room(self) -> None:
        if self._queue:
            self._schedule_pass()

    # Waiting.

    def _wait(self, waiting: Waiting, now: float) -> Ticket | Refusal | None:
        binding, tokens, cost = waiting.binding, waiting.tokens, waiting.cost
        if self._leases.is_away:
            self._share(waiting, now)
            ticket = self._take(binding, tokens, cost)
            if ticket is not None:
                return ticket
        lacking = binding.lacking(tokens, cost)
        if lacking is not None:
            refusal = self._judge(lacking, waiting, now, is_new=True)
            if refusal is not None:
                return refusal
        if not self._queue.add(waiting):
            return refusals.WAITING_FULL
        self._schedule_pass()
        return None

    def _judge(
        self, held: Held, waiting: Waiting, now: float, *, is_new: bool = False
    ) -> Refusal | None:
        """Return why it makes no sense to wait (any more) for ``held``, or None; count it."""
        refusal = self._why_not(held, waiting, now, is_new=is_new)
        if refusal is not None:
            binding = waiting.binding
            self.on_refusal(binding.key.project_id, binding.model, held.meter, held.limit.scope)
        return refusal

    def _why_not(self, held: Held, waiting: Waiting, now: float, *, is_new: bool) -> Refusal | None:
        if held.meter is LimitMeter.BUDGET and waiting.cost > held.bound:
            return verdicts.never_fits(held.limit, waiting.cost)
        if self._leases.is_away:
            return verdicts.away(held, now)
        if held.meter is LimitMeter.IN_FLIGHT and held.used >= held.bound:
            return verdicts.used_up(held, now, held.retry_at)
        is_told = now < held.asks_again_at or (not is_new and held.retry_at > 0)
        may_return = held.reserved > 0 and held.meter in {LimitMeter.TOKENS, LimitMeter.BUDGET}
        if is_told and held.retry_at > waiting.deadline and not may_return:
            return verdicts.used_up(held, now, held.retry_at)
        if now >= waiting.deadline:
            return verdicts.used_up(held, now, now if may_return else held.retry_at)
        return None

    def _schedule_pass(self) -> None:
        if not self._is_pass_due:
            self._is_pass_due = True
            if len(self._queue) <= _CROWD:
                self._loop.call_soon(self._pass_soon)
            else:
                self._loop.call_later(_CROWD_PAUSE_S, self._pass_soon)

    def _pass_soon(self) -> None:
        """Serve those that wait, and ask for what is lacking, once for all that came up."""
        self._is_pass_due = False
        told: list[Callable[[], None]] = []
        if self._queue:
            self._serve(told)
        self._leases.send(self._needs, self._now())
        self._schedule_look()
        for tell in told:
            tell()

    def _pass(self) -> None:
        """Serve those that wait, refuse those that need not, and ask for what is lacking."""
        now = self._now()
        leases = self._leases
        if now >= leases.expires_at:
            leases.expire(now)
        told: list[Callable[[], None]] = []
        if self._queue:
            if leases.is_away:
                for waiting in self._queue:
                    self._share(waiting, now)
            self._serve(told)
            if self._refuse(told, now):
                self._serve(told)
        leases.send(self._needs, now)
        self._schedule_look()
        for tell in told:
            tell()

    def _serve(self, told: list[Callable[[], None]]) -> None:
        for waiter, ticket in self._queue.serve(
            lambda waiting: self._take(waiting.binding, waiting.tokens, waiting.cost)
        ):
            told.append(_admitting(waiter, ticket))

    def _refuse(self, told: list[Callable[[], None]], now: float) -> bool:
        found = False
        for waiting in self._queue:
            lacking = waiting.binding.lacking(waiting.tokens, waiting.cost)
            if lacking is not None:
                refusal = self._judge(lacking, waiting, now)
            else:  # behind others that wait for the same
                refusal = refusals.WAITING_FULL if now >= waiting.deadline else None
            if refusal is not None:
                self._queue.remove(waiting.waiter)
                told.append(_refusing(waiting.waiter, refusal))
                found = True
        return found

    def _needs(self) -> dict[Held, int]:
        needs: dict[Held, int] = {}
        for waiting in self._queue:
            for held in waiting.binding.all:
                needs[held] = needs.get(held, 0) + held.need(waiting.tokens, waiting.cost)
        return needs

    def _share(self, waiting: Waiting, now: float) -> None:
        for held in waiting.binding.all:
            if held.free < held.need(waiting.tokens, waiting.cost):
                self._leases.take_share(held, now)

    # Looking after things.

    def _schedule_look(self) -> None:
        if self._next_look is None and not (self._leases.is_idle and not self._queue):
            pause_s = self._limits.slices_look_s * self._chance.uniform(0.8, 1.2)
            self._next_look = self._loop.call_later(pause_s, self._look)

    def _look(self) -> None:
        self._next_look = None
        self._leases.look(self._now())
        self._pass()

    # Bindings.

    def _bind(self, key: RouteKey, model: str) -> Binding:
        binding = Binding(key, model, self._slices_of(key, model), self._now)
        if len(self._bindings) >= self._limits.bindings_max:
            self._bindings.clear()
        self._bindings[key.id, model] = binding
        return binding

    def _slices_of(self, key: RouteKey, model: str | None) -> tuple[Held, ...]:
        found: list[Held] = []
        for limit_id in key.limit_ids:
            limit = self._table.get(limit_id)
            if limit is None or (limit.model is not None and limit.model != model):
                continue
            for meter in LimitMeter:
                bound = bound_of(limit, meter)
                if bound is None:
                    continue
                held = self._slices.get((limit_id, meter))
                if held is None:
                    held = self._slices[limit_id, meter] = Held(limit, meter, bound)
                found.append(held)
        return tuple(found)

    def _rebind(self, keys: dict[str, RouteKey]) -> None:
        """Look at those that wait by the new table: keys may be gone, limits may be others."""
        for waiting in self._queue:
            key = keys.get(waiting.binding.key.id)
            refusal = verdicts.gone(key, waiting.binding.model)
            if key is None or refusal is not None:
                self._queue.remove(waiting.waiter)
                told = _refusing(waiting.waiter, refusal or verdicts.REVOKED)
                self._loop.call_soon(told)
            else:
                self._queue.rebind(waiting, self._bind(key, waiting.binding.model))


def _most(route: Route, prompt: int, completion: int) -> int:
    """Return the most that a request can cost, on the route or on its canary."""
    cost = cost_nano(route.prices, prompt, completion)
    if route.canary is not None:
        cost = max(cost, cost_nano(route.canary.prices, prompt, completion))
    return cost


def _admitting(waiter: Waiter, ticket: Ticket) -> Callable[[], None]:
    return lambda: waiter.on_admitted(ticket)


def _refusing(waiter: Waiter, refusal: Refusal) -> Callable[[], None]:
    return lambda: waiter.on_refused(refusal)
