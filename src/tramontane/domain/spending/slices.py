"""Slices: how the limits of many gateways are leased out, so that together they never exceed one.

Pure: books and a report in, a reply and new books out. The control plane keeps the books in rows
(`store.slices` loads the part that a report touches), a gateway that runs alone keeps one `Books`
in memory. Both do the same::

    reply, books = exchange(books, limits, Report(holder, sequence, asks), now_ms)
    books = settle(books, [Charge(limit_id, holder, period_of(started_at_ms), cost_nano)])

A gateway spends only what it was granted:

* ``requests`` and ``tokens`` come in windows of a minute. A window begins with the first grant
  after the one before ended. A grant ends ``expires_in_ms`` after the report was *sent*; what is
  unspent then is void, and so is what belongs to another window than the newest one told.
* ``in_flight`` is held until it is given back. A holder that is silent for `SILENCE_MAX_MS` loses
  it. Nothing new may begin on what was not renewed by a report within ``expires_in_ms``; whether
  it was lost, the next grant tells: it then carries another ``window`` than the one before, and
  the holder has to ask again for what is still in flight.
* ``budget`` is held in nano-euros of one month: ``window`` is the month as YYYYMM, UTC. What a
  holder holds is its free part, what its requests reserve, and what they cost until the usage
  event is accepted. `settle` then moves the cost from held to spent. The holds of a dead holder
  stand until another one names it in ``settled_holders``, or for `HOLD_MAX_MS`.

What is waited for (``want``) is granted as far as there is anything left. What is asked ahead
(``extra``) is at most a small share of it, so that a low limit is never hoarded; gateways give
back what stood unused for about `UNUSED_MS`. ``give_back`` counts only with the ``window`` of the
grant that it came from.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from tramontane.domain.spending.limits import Limit, LimitMeter, bound_of

WINDOW_MS: Final = 60_000
SILENCE_MAX_MS: Final = 15_000  # three heartbeats
HEARTBEAT_MS: Final = 5_000
DEAF_MS: Final = 10_000  # nobody was heard for so long: it is us who were away, or the clock
HOLD_MAX_MS: Final = 24 * 3_600_000  # a spool that is not shipped by then needs a person
SETTLED_MS: Final = 600_000  # a settled holder is remembered: a last report may still be on its way
UNUSED_MS: Final = 1_500  # what was asked ahead is spent or given back by then
SOON_MS: Final = 250
EXTRA_SHARE: Final = 4  # a gateway may ask ahead a quarter of its equal share of what is left

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a gateway asks of one meter of one limit: requests, tokens or nano-euros."""

    limit_id: str
    meter: LimitMeter
    want: int = 0
    extra: int = 0
    give_back: int = 0
    window: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """One exchange of a holder, which counts them from 1; without asks it is a heartbeat."""

    holder: str
    sequence: int
    asks: tuple[Ask, ...] = ()
    settled_holders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to one ask.

    ``remaining`` is what nobody holds now, ``bound`` the whole limit, -1 when there is no such
    limit (any more). ``retry_in_ms`` is when more can be expected, 0 when all was granted.
    """

    limit_id: str
    meter: LimitMeter
    granted: int
    window: int = 0
    expires_in_ms: int = 0
    remaining: int = 0
    bound: int = -1
    retry_in_ms: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a report: one grant per ask, in their order. ``gateways`` are alive now."""

    gateways: int
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class Outdated:
    """The report is older than the last one of its holder, ``sequence``: nothing was changed."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Window:
    """One minute of a meter. Until ``lent_until_ms`` what was granted ahead may come back."""

    number: int = 0
    start_ms: int = 0
    end_ms: int = 0
    granted: int = 0
    lent_until_ms: int = 0


@dataclass(frozen=True, slots=True)
class Holder:
    """One incarnation of a gateway.

    ``awake_ms`` is since when reports of anyone came without a gap, as of this holder's last one.
    ``lease`` numbers its times of being heard: what it held in flight in an earlier one is void.
    """

    sequence: int
    seen_ms: int
    awake_ms: int
    lease: int = 1
    is_lapsed: bool = False
    reply: Reply | None = None


WindowKey = tuple[str, LimitMeter]  # limit id, requests or tokens
HoldKey = tuple[str, LimitMeter, int]  # limit id, in_flight or budget, month (0 for in_flight)
Hold = tuple[int, int]  # lease of the holder when it was granted, amount


@dataclass(frozen=True, slots=True)
class Books:
    """All that is leased out, or the part of it that one report touches.

    ``holds`` are by holder; ``spent_nano`` is by limit and month.
    """

    holders: Mapping[str, Holder] = field(default_factory=dict[str, Holder])
    windows: Mapping[WindowKey, Window] = field(default_factory=dict[WindowKey, Window])
    holds: Mapping[HoldKey, Mapping[str, Hold]] = field(
        default_factory=dict[HoldKey, Mapping[str, Hold]]
    )
    spent_nano: Mapping[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])


@dataclass(frozen=True, slots=True)
class Charge:
    """The cost of accepted usage events, in nano-euros: of one limit, holder and month."""

    limit_id: str
    holder: str
    period: int
    cost_nano: int


def exchange(
    books: Books, limits: Mapping[str, Limit], report: Report, now_ms: int
) -> tuple[Reply | Outdated, Books]:
    """Answer ``report``: what came back is taken first, then each ask is granted in its order.

    A report that was answered before gets the same grants, with the time that is left of them.
    """
    known = books.holders.get(report.holder)
    if known is not None and known.reply is not None and report.sequence == known.sequence:
        return _aged(known.reply, max(0, now_ms - known.seen_ms)), books
    if known is not None and report.sequence <= known.sequence:
        return Outdated(known.sequence), books
    holders = _heard(books.holders, report, now_ms)
    draft = _Draft(
        holders=holders,
        windows=dict(books.windows),
        holds={
            key: {
                holder: hold
                for holder, hold in held.items()
                if _stands(key, holder, hold, holders, report.settled_holders)
            }
            for key, held in books.holds.items()
        },
        spent_nano=books.spent_nano,
        now_ms=now_ms,
        holder=report.holder,
        gateways=sum(not holder.is_lapsed for holder in holders.values()),
    )
    grants = tuple(draft.answer(ask, limits.get(ask.limit_id)) for ask in report.asks)
    reply = Reply(draft.gateways, grants)
    holders[report.holder] = replace(holders[report.holder], reply=reply)
    return reply, Books(holders, draft.windows, draft.holds, books.spent_nano)


def settle(books: Books, charges: Iterable[Charge]) -> Books:
    """Return the books after usage events were accepted: what was held for them is spent."""
    spent = dict(books.spent_nano)
    holds = dict(books.holds)
    for charge in charges:
        place = (charge.limit_id, charge.period)
        spent[place] = spent.get(place, 0) + charge.cost_nano
        key = (charge.limit_id, LimitMeter.BUDGET, charge.period)
        held = holds.get(key, {})
        if charge.holder in held:
            lease, amount = held[charge.holder]
            holds[key] = {**held, charge.holder: (lease, amount - min(amount, charge.cost_nano))}
    return replace(books, holds=holds, spent_nano=spent)


def hold_key(limit_id: str, meter: LimitMeter, now_ms: int) -> HoldKey:
    """Return where the holds of a meter without windows stand in the books at ``now_ms``."""
    return (limit_id, meter, period_of(now_ms) if meter is LimitMeter.BUDGET else 0)


def period_of(at_ms: int) -> int:
    """Return the month of ``at_ms`` (UTC) as YYYYMM."""
    at = _EPOCH + at_ms * _MS
    return at.year * 100 + at.month


def period_start_ms(period: int) -> int:
    """Return the first millisecond of the month ``period`` (YYYYMM, UTC)."""
    year, month = divmod(period, 100)
    return (datetime(year, month, 1, tzinfo=UTC) - _EPOCH) // _MS


def period_end_ms(period: int) -> int:
    """Return the first millisecond after the month ``period`` (YYYYMM, UTC)."""
    year, month = divmod(period, 100)
    return period_start_ms((year + 1) * 100 + 1 if month == 12 else period + 1)


def _aged(reply: Reply, passed_ms: int) -> Reply:
    """Return ``reply`` as it is to be read ``passed_ms`` later."""
    return replace(
        reply,
        grants=tuple(
            replace(
                grant,
                expires_in_ms=max(0, grant.expires_in_ms - passed_ms),
                retry_in_ms=grant.retry_in_ms and max(1, grant.retry_in_ms - passed_ms),
            )
            for grant in reply.grants
        ),
    )


def _heard(holders: Mapping[str, Holder], report: Report, now_ms: int) -> dict[str, Holder]:
    """Return the holders once ``report`` was heard: who is too long silent has lapsed.

    Silence counts only while others are heard. Otherwise a control plane that was away for a
    while, or whose clock jumped, would take every living gateway for dead.
    """
    last = max(holders.values(), key=lambda holder: holder.seen_ms, default=None)
    awake_ms = last.awake_ms if last else now_ms
    if last is not None and not 0 <= now_ms - last.seen_ms <= DEAF_MS:
        awake_ms = now_ms
    heard: dict[str, Holder] = {}
    for name, holder in holders.items():
        seen_ms = min(holder.seen_ms, now_ms)  # the clock stepped back
        if name != report.holder and now_ms - seen_ms > HOLD_MAX_MS:
            continue
        is_silent = now_ms - max(seen_ms, awake_ms) > SILENCE_MAX_MS
        if name in report.settled_holders and name != report.holder:
            is_silent = True
            seen_ms = min(seen_ms, now_ms - HOLD_MAX_MS + SETTLED_MS)
        lapses = is_silent and not holder.is_lapsed
        heard[name] = replace(
            holder,
            seen_ms=seen_ms,
            lease=holder.lease + lapses,
            is_lapsed=holder.is_lapsed or lapses,
        )
    mine = heard.get(report.holder)
    heard[report.holder] = Holder(
        sequence=report.sequence,
        seen_ms=now_ms,
        awake_ms=awake_ms,
        lease=mine.lease if mine else 1,
    )
    return heard


def _stands(
    key: HoldKey,
    name: str,
    hold: Hold,
    holders: Mapping[str, Holder],
    settled: tuple[str, ...],
) -> bool:
    """Tell whether a hold still counts."""
    holder = holders.get(name)
    if holder is None or name in settled:
        return False
    is_budget = key[1] is LimitMeter.BUDGET
    return is_budget or (not holder.is_lapsed and hold[0] == holder.lease)


@dataclass(slots=True)
class _Draft:
    """The books while one report is answered."""

    holders: dict[str, Holder]
    windows: dict[WindowKey, Window]
    holds: dict[HoldKey, dict[str, Hold]]
    spent_nano: Mapping[tuple[str, int], int]
    now_ms: int
    holder: str
    gateways: int

    def answer(self, ask: Ask, limit: Limit | None) -> Grant:
        bound = None if limit is None else bound_of(limit, ask.meter)
        if bound is None:
            return Grant(ask.limit_id, ask.meter, 0)
        if ask.meter in {LimitMeter.REQUESTS, LimitMeter.TOKENS}:
            return self._of_window(ask, bound)
        return self._of_hold(ask, bound)

    def _of_window(self, ask: Ask, bound: int) -> Grant:
        key = (ask.limit_id, ask.meter)
        window = _rebased(self.windows.get(key, Window()), self.now_ms)
        has_ended = self.now_ms >= window.end_ms
        if not has_ended and ask.window == window.number:
            window = replace(window, granted=max(0, window.granted - ask.give_back))
        left = bound if has_ended else max(0, bound - window.granted)
        want, ahead = self._share(ask, left)
        if has_ended and want + ahead:
            window = Window(window.number + 1, self.now_ms, self.now_ms + WINDOW_MS)
            has_ended = False
        window = replace(window, granted=window.granted + want + ahead)
        if ahead:
            window = replace(window, lent_until_ms=self.now_ms + UNUSED_MS)
        self.windows[key] = window
        left_ms = WINDOW_MS if has_ended else window.end_ms - self.now_ms
        may_return = not has_ended and self.now_ms < window.lent_until_ms
        return Grant(
            limit_id=ask.limit_id,
            meter=ask.meter,
            granted=want + ahead,
            window=window.number,
            expires_in_ms=0 if has_ended else left_ms,
            remaining=left - want - ahead,
            bound=bound,
            retry_in_ms=_retry(ask, want, min(SOON_MS, left_ms) if may_return else left_ms),
        )

    def _of_hold(self, ask: Ask, bound: int) -> Grant:
        key = hold_key(ask.limit_id, ask.meter, self.now_ms)
        lease = self.holders[self.holder].lease
        number = key[2] or lease
        held = self.holds.setdefault(key, {})
        mine = held.get(self.holder, (lease, 0))[1]
        others = sum(amount for _, amount in held.values()) - mine
        if ask.window == number:
            mine = max(0, mine - ask.give_back)
        spent = self.spent_nano.get((ask.limit_id, key[2]), 0)
        left = max(0, bound - spent - others - mine)
        want, ahead = self._share(ask, left)
        held[self.holder] = (lease, mine + want + ahead)
        if key[2]:
            expires_in_ms = period_end_ms(number) - self.now_ms
            retry_ms = SOON_MS if self._others_live(held) else expires_in_ms
        else:
            expires_in_ms, retry_ms = SILENCE_MAX_MS, SOON_MS
        return Grant(
            limit_id=ask.limit_id,
            meter=ask.meter,
            granted=want + ahead,
            window=number,
            expires_in_ms=expires_in_ms,
            remaining=left - want - ahead,
            bound=bound,
            retry_in_ms=_retry(ask, want, retry_ms),
        )

    def _share(self, ask: Ask, left: int) -> tuple[int, int]:
        want = min(ask.want, left)
        return want, min(ask.extra, (left - want) // (EXTRA_SHARE * self.gateways))

    def _others_live(self, held: Mapping[str, Hold]) -> bool:
        """Tell whether another living gateway holds something that it may give back."""
        return any(self._lives(name) for name, hold in held.items() if hold[1])

    def _lives(self, name: str) -> bool:
        return name != self.holder and not self.holders[name].is_lapsed


def _rebased(window: Window, now_ms: int) -> Window:
    """Return the window when the clock may have stepped back: it then lasts a whole minute more."""
    if now_ms >= window.start_ms:
        return window
    lent_until_ms = min(window.lent_until_ms, now_ms + UNUSED_MS)
    return replace(window, start_ms=now_ms, end_ms=now_ms + WINDOW_MS, lent_until_ms=lent_until_ms)


def _retry(ask: Ask, want: int, wait_ms: int) -> int:
    return wait_ms if want < ask.want else 0
