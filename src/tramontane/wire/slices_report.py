"""How gateways ask the control plane for slices of limits.

A domain `Report` comes in as `SlicesReport`; the `Reply` goes out as it is.
"""

from typing import Annotated, Final, Literal

from pydantic import Field

from tramontane.domain.spending.limits import LimitMeter
from tramontane.domain.spending.slices import Ask, Report
from tramontane.wire.cloud_types import Strict

ASKS_MAX: Final = 1_000  # in one report; a gateway splits what is more
SETTLED_MAX: Final = 100  # lives of one gateway between two reports
AMOUNT_MAX: Final = (1 << 62) - 1  # sums of two stay within 64 bits

_Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")]
_Text = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
_Amount = Annotated[int, Field(ge=0, le=AMOUNT_MAX)]


class _Ask(Strict):
    limit_id: _Id
    meter: Literal["requests", "tokens", "in_flight", "budget"]
    want: _Amount = 0
    extra: _Amount = 0
    give_back: _Amount = 0
    window: _Amount = 0


class SlicesReport(Strict):
    """What one life of a gateway asks and gives back; no asks: it is alive."""

    gateway: _Text
    holder: _Id
    sequence: Annotated[int, Field(ge=1, le=AMOUNT_MAX)]
    settled_holders: Annotated[list[_Id], Field(max_length=SETTLED_MAX)] = Field(
        default_factory=list[str]
    )
    asks: Annotated[list[_Ask], Field(max_length=ASKS_MAX)] = Field(default_factory=list[_Ask])

    def report(self) -> Report:
        """Return it as the domain's value."""
        return Report(
            holder=self.holder,
            sequence=self.sequence,
            asks=tuple(
                Ask(
                    limit_id=ask.limit_id,
                    meter=LimitMeter(ask.meter),
                    want=ask.want,
                    extra=ask.extra,
                    give_back=ask.give_back,
                    window=ask.window,
                )
                for ask in self.asks
            ),
            settled_holders=tuple(self.settled_holders),
        )
