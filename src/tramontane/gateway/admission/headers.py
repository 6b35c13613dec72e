"""Rate-limit headers in the forms of both dialects' clients (wire reference, 2.4).

The tightest of the limits that bind is told: the one of which the least is left. Where there is
no limit nothing is told, because several clients read a limit of 0 as no allowance. Budgets are
in euros and have no header of their own.
"""

from typing import Final

from tramontane.gateway.admission.held import Binding, Held

_SECONDS: Final = tuple(
    b"%ds" % seconds if seconds < 60 else b"%dm%ds" % divmod(seconds, 60) for seconds in range(61)
)
_REQUESTS: Final = (
    b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\n"
    b"x-ratelimit-reset-requests: %b\r\n"
    b"x-ratelimit-limit-req-minute: %d\r\nx-ratelimit-remaining-req-minute: %d\r\n"
)
_TOKENS: Final = (
    b"x-ratelimit-limit-tokens: %d\r\nx-ratelimit-remaining-tokens: %d\r\n"
    b"x-ratelimit-reset-tokens: %b\r\n"
    b"x-ratelimit-limit-tokens-minute: %d\r\nx-ratelimit-remaining-tokens-minute: %d\r\n"
)
_COST: Final = b"x-ratelimit-tokens-query-cost: %d\r\n"


def lines(binding: Binding, query_tokens: int) -> bytes:
    """Return the header lines; ``query_tokens`` is what the request used, -1 when not known."""
    now = binding.now()
    out = b""
    if binding.requests:
        left, held = _tightest(binding.requests, now)
        out = _REQUESTS % (held.bound, left, _reset(held, now), held.bound, left)
    if binding.tokens:
        left, held = _tightest(binding.tokens, now)
        out += _TOKENS % (held.bound, left, _reset(held, now), held.bound, left)
        if query_tokens >= 0:
            out += _COST % query_tokens
    return out


def left_of(held: Held, now: float) -> int:
    """Return what is left of the limit as far as this gateway knows."""
    if held.ends_at <= now:
        return held.bound
    left = held.remaining + held.free
    return 0 if left < 0 else min(left, held.bound)


def _tightest(slices: tuple[Held, ...], now: float) -> tuple[int, Held]:
    best = slices[0]
    least = left_of(best, now)
    for held in slices[1:]:
        left = left_of(held, now)
        if left < least:
            least, best = left, held
    return least, best


def _reset(held: Held, now: float) -> bytes:
    """Return the time to the end of the window as a duration: ``250ms``, ``12s``, ``1m0s``."""
    left_s = held.ends_at - now
    if left_s <= 0:
        return b"0s"
    if left_s < 1:
        return b"%dms" % (left_s * 1000)
    return _SECONDS[min(60, int(left_s + 0.999))]
