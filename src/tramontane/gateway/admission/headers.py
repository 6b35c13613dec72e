"""Rate-limit headers in the forms of both dialects' clients (wire reference, 2.4).

The tightest of the limits that bind is told: the one of which the least is left. Where there is
no limit nothing is told, because several clients read a limit of 0 as no allowance. Budgets are
in euros and have no header of their own.
"""

import math
from typing import Final

from tramontane.gateway.admission.held import Binding, Held

_REQUESTS: Final = (
    (
        b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-limit-req-minute: %d\r\n"
        b"x-ratelimit-reset-requests: %b\r\n"
    ),
    b"%bx-ratelimit-remaining-requests: %d\r\nx-ratelimit-remaining-req-minute: %d\r\n",
)
_TOKENS: Final = (
    (
        b"x-ratelimit-limit-tokens: %d\r\nx-ratelimit-limit-tokens-minute: %d\r\n"
        b"x-ratelimit-reset-tokens: %b\r\n"
    ),
    b"%bx-ratelimit-remaining-tokens: %d\r\nx-ratelimit-remaining-tokens-minute: %d\r\n",
)
_COST: Final = b"x-ratelimit-tokens-query-cost: %d\r\n"


def lines(binding: Binding, query_tokens: int) -> bytes:
    """Return the header lines; ``query_tokens`` is what the request used, -1 when not known."""
    now = binding.now()
    out = _told(binding.requests, _REQUESTS, now) if binding.requests else b""
    if binding.tokens:
        out += _told(binding.tokens, _TOKENS, now)
        if query_tokens >= 0:
            out += _COST % query_tokens
    return out


def _told(slices: tuple[Held, ...], forms: tuple[bytes, bytes], now: float) -> bytes:
    """Return the lines of the tightest slice. Those that change once a second are kept."""
    best = slices[0]
    least = left_of(best, now)
    for held in slices[1:]:
        left = left_of(held, now)
        if left < least:
            least, best = left, held
    if now >= best.told_until or best.told_bound != best.bound:
        reset, best.told_until = _reset(best, now)
        best.told_bound = best.bound
        best.told = forms[0] % (best.bound, best.bound, reset)
    return forms[1] % (best.told, least, least)


def left_of(held: Held, now: float) -> int:
    """Return what is left of the limit as far as this gateway knows."""
    if held.ends_at <= now:
        return held.bound
    left = held.remaining + held.free
    return 0 if left < 0 else min(left, held.bound)


def _reset(held: Held, now: float) -> tuple[bytes, float]:
    """Return the time to the end of the window, and until when that is true enough.

    As a duration: ``250ms``, ``12s``, ``1m0s``.
    """
    left_s = held.ends_at - now
    if left_s <= 0:
        return b"0s", now
    if left_s < 1:
        return b"%dms" % (left_s * 1000), now
    seconds = min(60, math.ceil(left_s))
    told = b"%ds" % seconds if seconds < 60 else b"1m0s"
    return told, held.ends_at - seconds + 1
