"""Slices of limits for gateways: a report in, grants out, in one short write transaction."""

from tramontane.domain.refusal import Code, refuse
from tramontane.domain.spending.slices import Outdated, Reply, Report
from tramontane.runtime.clock import Clock
from tramontane.store.db import Database
from tramontane.store.spending import slices


class Slices:
    """Leases limits out; see `domain.slices` for the rules."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def exchange(self, gateway: str, report: Report) -> Reply:
        """Answer the report of a gateway; one that was answered before gets the same grants.

        Refused (conflict) when a later one of the same holder was answered already.
        """
        reply = self._db.write(lambda tx: slices.answer(tx, gateway, report, self._clock.now_ms()))
        if isinstance(reply, Outdated):
            message = (
                f"the report {report.sequence} of {report.holder} is older than {reply.sequence}, "
                "which was answered: count on from there"
            )
            raise refuse(Code.CONFLICT, message, param="sequence")
        return reply
