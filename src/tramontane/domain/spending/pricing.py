"""Prices of a model's meters, and what a request costs by them. Integers only."""

from dataclasses import dataclass
from typing import Final

NANO_PER_MICRO: Final = 1_000
_TOKENS_PER_PRICE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """Micro-euros per million tokens, and micro-euros per request.

    ``cached_micro`` is for those prompt tokens that the engine found in its cache; None charges
    them like the others.
    """

    prompt_micro: int = 0
    completion_micro: int = 0
    cached_micro: int | None = None
    request_micro: int = 0

    @property
    def are_zero(self) -> bool:
        """Tell whether nothing is charged."""
        return not (
            self.prompt_micro or self.completion_micro or self.cached_micro or self.request_micro
        )


FREE: Final = Prices()


def cost_nano(prices: Prices, prompt: int, completion: int, cached: int = 0) -> int:
    """Return the cost of one request in nano-euros, rounded up once.

    ``cached`` of the ``prompt`` tokens are charged at their own price.
    """
    cached_micro = prices.prompt_micro if prices.cached_micro is None else prices.cached_micro
    pico = (
        (prompt - cached) * prices.prompt_micro
        + cached * cached_micro
        + completion * prices.completion_micro
    )
    return -(-pico * NANO_PER_MICRO // _TOKENS_PER_PRICE) + prices.request_micro * NANO_PER_MICRO
