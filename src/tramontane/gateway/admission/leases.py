"""Asks the control plane for slices, gives back what stands unused, and keeps what is held right.

One report is on its way at a time, and everything that came up meanwhile goes with the next one.
A report whose answer was lost is sent again as it was, so that it counts once. How sure it is:

* A window's slice ends ``expires_in_ms`` after the report was *sent*, by the loop's clock.
* While nobody answers for `Limits.slices_away_s`, requests and tokens are bounded by this
  gateway's equal share of the limit, less what it was granted in a window that still runs, and
  requests in flight by what it holds or its share. A budget is never exceeded.
"""

import logging
import random
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from tramontane.domain.spending.limits import Limit, LimitMeter
from tramontane.domain.spending.slices import (
    HEARTBEAT_MS,
    SILENCE_MAX_MS,
    WINDOW_MS,
    Ask,
    Charge,
    Grant,
    Reply,
    Report,
)
from tramontane.gateway.admission.held import NEVER, SHARE, Held
from tramontane.gateway.limits import Limits

LOG: Final = logging.getLogger("tramontane.gateway.slices")

_OPEN: Final = 1 << 60  # free of a limit that does not exist any more
_OPEN_S: Final = 5.0  # until the control plane is asked again whether it does
_UNUSED_S: Final = 1.0  # what stood unused for so long is given back
_TIGHT_S: Final = 0.2  # the same, while nobody has anything left
_AGAIN_S: Final = 0.25  # a limit that has nothing left is not asked for more often
_READY_S: Final = 0.5  # how much to hold ready: what is spent in this time
_TURN_S: Final = 1.0  # permits are passed on to other gateways after this time
_SMOOTH: Final = 0.3  # weight of the last look in the rate of spending
_REPROBE_S: Final = 10.0  # silent for so long: what is held in flight may have been lost


class Authority(Protocol):
    """Who grants slices: the control plane, or its rules in memory where a gateway runs alone.

    The answer to a report comes later, in the loop, through one of the two calls. ``gateways`` is
    how many there were when somebody last knew.
    """

    gateways: int

    def start(
        self, on_reply: Callable[[Reply], None], on_failure: Callable[[str, bool, bool], None]
    ) -> None:
        """Begin. ``on_failure`` says why, whether it was never sent, and whether to drop it."""
        ...

    def apply(self, limits: Mapping[str, Limit]) -> None:
        """Take note of the limits of a new route table."""
        ...

    def exchange(self, report: Report, charges: tuple[Charge, ...]) -> None:
        """Send ``report``, once. ``charges`` are what requests cost that have ended."""
        ...


class SettledHolders(Protocol):
    """Dead gateways whose books this one has taken over and handed in."""

    @property
    def is_pending(self) -> bool:
        """Tell whether there are any."""
        ...

    def holders(self) -> tuple[str, ...]:
        """Return those that may be reported now."""
        ...

    def note(self, holder: str) -> None:
        """Have ``holder`` reported by the next gateway. Raises OSError."""
        ...

    def forget(self, holders: tuple[str, ...]) -> None:
        """Take note that the control plane knows."""
        ...


class Leases:
    """All slices of one gateway, and the exchange about them. Belongs to the loop's thread."""

    def __init__(
        self,
        holder: str,
        authority: Authority,
        limits: Limits,
        settled: SettledHolders,
        now: Callable[[], float],
    ) -> None:
        self.holder = holder
        self.turn = 0
        self.gateways = max(1, authority.gateways)
        self.is_away = False
        self.expires_at = NEVER  # the first window that ends, of those that are kept
        self._authority = authority
        self._limits = limits
        self._settled = settled
        self._now = now
        self._kept: dict[Held, None] = {}
        self._dirty: dict[Held, None] = {}  # to be asked about in the next report
        self._sequence = 0
        self._sent: tuple[Report, list[Held]] | None = None  # not answered yet
        self._is_sending = False
        self._is_stopping = False
        self._was_sent = False  # it may have arrived
        self._sent_at = 0.0  # the last try
        self._trouble_at = NEVER  # the first try of one that is not answered yet
        self._heard_at = now()
        self._next_try_at = 0.0
        self._failures = 0
        self._looked_at = now()
        self._chance = random.Random(holder)  # noqa: S311 - only spreads questions
        self.on_change: Callable[[], None] = lambda: None
        authority.start(self._on_reply, self._on_failure)

    # What the gate calls.

    def apply(self, limits: Mapping[str, Limit]) -> None:
        """Take note of the limits of a new route table."""
        self._authority.apply(limits)

    def keep(self, held: Held) -> None:
        """Look after a slice that something was taken from, or will be."""
        self._kept[held] = None

    def want(self, held: Held) -> None:
        """Ask about a slice with the next report."""
        self._dirty[held] = None

    def drop(self, held: Held) -> None:
        """Forget a slice whose limit is gone."""
        self._kept.pop(held, None)
        self._dirty.pop(held, None)

    def rebound(self, held: Held, bound: int) -> None:
        """Take note of another bound: what is free goes back, so that the new one counts now."""
        held.bound = held.cap = bound
        held.retry_at = held.asks_again_at = 0.0
        if held.meter is LimitMeter.TOKENS:  # reserves were counted by the old bound
            returning = held.returning + max(0, held.free)
            self.turn += 1
            ends_at, granted = held.ends_at, held.granted
            held.void(self.turn)
            held.ends_at, held.granted, held.returning = ends_at, granted, returning
        elif held.free > 0:
            held.part(held.free)
        self.want(held)

    def expire(self, now: float) -> None:
        """Void the windows that have ended."""
        self.expires_at = NEVER
        for held in self._kept:
            if held.ends_at <= now:
                if held.ends_at:
                    self.turn += 1
                    held.void(self.turn)
            elif held.ends_at < self.expires_at:
                self.expires_at = held.ends_at

    def take_share(self, held: Held, now: float) -> None:
        """Put what we may spend by ourselves into ``held``: the control plane is away."""
        part = held.bound // max(1, self.gateways)
        if held.meter is LimitMeter.IN_FLIGHT:
            is_known = now - self._heard_at < SILENCE_MAX_MS / 1000
            held.free = max(held.leased if is_known else 0, part) - held.used
        elif held.meter is not LimitMeter.BUDGET:
            if held.ends_at <= now:
                self.turn += 1
                held.void(self.turn)
                held.ends_at = now + WINDOW_MS / 1000
                held.told_until = 0.0
                held.remaining = 1  # unknown: it is not said that nothing is left
            if held.window != SHARE and held.remaining <= 0:
                return
            held.window = SHARE
            held.cap = max(1, part)
            further = max(0, part - held.granted)
            held.free += further
            held.granted += further
            self.expires_at = min(self.expires_at, held.ends_at)
        self.keep(held)

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing has to be looked after or said."""
        return not (self._kept or self._dirty or self._sent or self._settled.is_pending)

    @property
    def is_settled(self) -> bool:
        """Tell whether everything that was to be said is said."""
        return self._sent is None and not self._dirty

    def give_all_back(self) -> None:
        """Set all that is free aside for the next report: this gateway is stopping."""
        self._is_stopping = True
        for held in self._kept:
            if held.free > 0 and held.window != SHARE:
                held.part(held.free)
                self.want(held)

    def leave_word(self) -> None:
        """Have the next gateway report us: the control plane may hold something for us."""
        try:
            self._settled.note(self.holder)
        except OSError as error:
            LOG.error("what this gateway holds of budgets is freed after a day: %s", error)

    # Regularly, and as soon as something is wanted.

    def look(self, now: float) -> None:
        """See to windows, to what stands unused, and to whether the control plane is there."""
        self.expire(now)
        passed_s = max(0.001, now - self._looked_at)
        self._looked_at = now
        for held in list(self._kept):
            self._look_at(held, now, passed_s)
            if not held.is_kept:
                del self._kept[held]
        if not self.is_away and now - self._trouble_at >= self._limits.slices_away_s:
            LOG.warning("the control plane grants no slices: each gateway keeps to its share")
            self.is_away = True
        if now - self._heard_at > _REPROBE_S:
            for held in self._kept:
                if held.meter is LimitMeter.IN_FLIGHT and held.leased:
                    self.want(held)

    def send(self, find_needs: Callable[[], Mapping[Held, int]], now: float) -> None:
        """Send a report if there is something to say.

        ``find_needs`` returns what is waited for; while a report is on its way nobody asks it.
        """
        if self._is_sending or now < self._next_try_at:
            return
        if self._sent is None:
            settled = self._settled.holders()
            is_due = bool(self._kept) and now - self._sent_at >= HEARTBEAT_MS / 1000
            pairs = self._asks(find_needs(), now)
            if not (pairs or settled or is_due):
                return
            self._sequence += 1
            asks = tuple(ask for _, ask in pairs)
            report = Report(self.holder, self._sequence, asks, settled)
            self._sent = (report, [held for held, _ in pairs])
            self._was_sent = False
            self._trouble_at = min(self._trouble_at, now)
        self._is_sending = True
        self._sent_at = now
        self._authority.exchange(self._sent[0], self._charges())

    def _asks(self, needs: Mapping[Held, int], now: float) -> list[tuple[Held, Ask]]:
        pairs: list[tuple[Held, Ask]] = []
        for held in [*self._dirty, *(held for held in needs if held not in self._dirty)]:
            if len(pairs) >= self._limits.slices_asks_max:
                break
            is_urgent = held in self._dirty
            self._dirty.pop(held, None)
            need = needs.get(held, 0)
            want = extra = 0
            if held.returning and held.meter is LimitMeter.IN_FLIGHT:
                held.asks_again_at = now + 2 * self._pause(held)  # others first
            if now >= held.asks_again_at:
                want = min(max(0, need - held.free), held.bound)
                if held.meter is not LimitMeter.IN_FLIGHT and not self._is_stopping:
                    extra = max(0, held.ready - max(0, held.free - need))
            back, held.returning = held.returning, 0
            if want or extra or back or is_urgent:
                ask = Ask(held.limit.id, held.meter, want, extra, back, max(0, held.window))
                pairs.append((held, ask))
        return pairs

    def _charges(self) -> tuple[Charge, ...]:
        charges: list[Charge] = []
        for held in self._kept:
            if held.settled:
                cost, held.settled = held.settled, 0
                charges.append(Charge(held.limit.id, self.holder, held.window, cost))
        return tuple(charges)

    # Answers.

    def _on_reply(self, reply: Reply) -> None:
        now = self._now()
        sent, self._sent = self._sent, None
        self._is_sending = False
        if sent is None:
            return
        self._heard_at = now
        self._trouble_at = NEVER
        self._failures = 0
        self._next_try_at = 0.0
        self.gateways = max(1, reply.gateways)
        if self.is_away:
            LOG.warning("the control plane grants slices again")
            self._come_back()
        report, slices = sent
        if report.settled_holders:
            self._settled.forget(report.settled_holders)
        for held, ask, grant in zip(slices, report.asks, reply.grants, strict=True):
            self._take_in(held, ask, grant, now)
        self.on_change()

    def _come_back(self) -> None:
        """Drop our shares: from now on only what was granted counts."""
        self.is_away = False
        for held in self._kept:
            if held.meter is LimitMeter.IN_FLIGHT:
                held.free = held.leased - held.used
                self.want(held)
            elif held.window == SHARE:
                self.turn += 1
                held.void(self.turn)

    def _take_in(self, held: Held, ask: Ask, grant: Grant, now: float) -> None:
        if grant.bound < 0:  # no such limit any more; the next route table says so too
            held.leased, held.ends_at = _OPEN, now + _OPEN_S
            held.free = _OPEN - held.used
            self.expires_at = min(self.expires_at, held.ends_at)
            self.keep(held)
            return
        held.bound = held.cap = grant.bound
        held.remaining = grant.remaining
        is_short = grant.granted < ask.want
        wait_s = grant.retry_in_ms / 1000
        held.retry_at = now + wait_s if is_short else 0.0
        if ask.want:
            held.asks_again_at = now + min(wait_s, self._pause(held)) if is_short else 0.0
        if held.meter is LimitMeter.IN_FLIGHT:
            self._take_permits(held, grant)
        else:
            self._take_amount(held, ask, grant, now)
        held.marked_at = now
        held.unused = held.free
        self.keep(held)

    def _take_permits(self, held: Held, grant: Grant) -> None:
        if grant.window != held.window:  # we were silent: what we held is not ours any more
            held.window, held.leased, held.returning = grant.window, 0, 0
        held.leased += grant.granted
        held.free = held.leased - held.used
        held.ends_at = NEVER
        if held.free < 0:
            self.want(held)

    def _take_amount(self, held: Held, ask: Ask, grant: Grant, now: float) -> None:
        ends_at = self._sent_at + grant.expires_in_ms / 1000
        if grant.window != held.window or not held.ends_at:
            self.turn += 1
            held.void(self.turn)
            held.window = grant.window
        if ends_at <= now:  # too late to be spent, or no window runs
            return
        held.ends_at = ends_at
        held.told_until = 0.0
        self.expires_at = min(self.expires_at, ends_at)
        held.free += grant.granted
        held.level += grant.granted
        held.granted += grant.granted
        has_extra = grant.granted > ask.want
        held.low = min(held.ready, held.free) // 2 if has_extra else -1

    def _on_failure(self, why: str, is_unsent: bool, is_refused: bool) -> None:  # noqa: FBT001
        """Send it again later as it is; one that never left is made anew."""
        self._is_sending = False
        if self._sent is None:
            return
        report, slices = self._sent
        self._was_sent = self._was_sent or not is_unsent
        if is_refused or not self._was_sent:
            self._sent = None
            for held, ask in zip(slices, report.asks, strict=True):
                self.want(held)
                if not self._was_sent:
                    held.returning += ask.give_back
        self._failures += 1
        pause_s = min(0.05 * 2 ** min(self._failures, 8), self._limits.slices_retry_s_max)
        self._next_try_at = self._now() + pause_s
        if self._failures in {1, 10} or is_refused:
            LOG.warning("no slices, next try in %.1f s: %s", pause_s, why)
        self.on_change()

    # Looking after what is held.

    def _look_at(self, held: Held, now: float, passed_s: float) -> None:
        if held.meter is LimitMeter.IN_FLIGHT:
            if self.is_away:
                self.take_share(held, now)
                return
            self._pass_on(held, now)
        else:
            spent = max(0, held.level - held.free)
            held.level = held.free
            held.flow += _SMOOTH * (spent / passed_s - held.flow)
            held.ready = int(held.flow * _READY_S)
        if self.is_away or held.free <= 0:
            held.unused = min(held.unused, max(0, held.free))
            if held.free < 0:
                self.want(held)
            return
        held.unused = min(held.unused, held.free)
        is_tight = self.gateways > 1 and held.remaining <= 0
        if now - held.marked_at >= (_TIGHT_S if is_tight else _UNUSED_S):
            unused = held.unused - held.ready
            if unused > 0 and held.leased < _OPEN:
                held.part(unused)
                self.want(held)
            held.unused = held.free
            held.marked_at = now

    def _pass_on(self, held: Held, now: float) -> None:
        """Give permits beyond our equal share to others after a while: they may be waiting."""
        beyond = held.leased - held.bound // self.gateways
        if held.remaining > 0 or beyond <= 0:
            held.yields_at = NEVER
        elif held.yields_at == NEVER:
            held.yields_at = now + _TURN_S
        elif now >= held.yields_at and self.gateways > 1:
            held.yields_at = NEVER
            owed = max(1, beyond // 4)
            free = min(owed, max(0, held.free))
            held.part(free)
            held.owes = owed - free
        if held.remaining <= 0 and held.leased and now - self._sent_at >= _TURN_S:
            self.want(held)  # tells how many gateways there are now, and whether anything is left
        if held.returning:
            self.want(held)

    def _pause(self, held: Held) -> float:
        """Return how long not to ask again: gateways must not ask in step, and who has waits."""
        beyond = held.leased > held.bound // self.gateways
        return _AGAIN_S * self._chance.uniform(0.6, 1.0) * (2 if beyond else 1)
