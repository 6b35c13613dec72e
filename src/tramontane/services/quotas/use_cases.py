"""Quotas: set by operators, read by those whom they bind."""

from tramontane.domain import ids as kinds
from tramontane.domain.quotas.quota import SHARE_DEFAULT, Quota, QuotaScope
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import Principal
from tramontane.services.quotas.owned import OwnedItems, Subject, Told, bound_subject
from tramontane.store.db import Transaction
from tramontane.store.quotas import quotas


class Quotas(OwnedItems[Quota]):
    """Use cases of quotas. Without one, a subject is unbounded and has a share of 1."""

    noun = "quota"
    rows = quotas.ROWS

    def set(
        self, principal: Principal, subject: Subject, devices_max: int | None, share: int
    ) -> Quota:
        """Give the subject this quota, in place of the one that it had."""
        quota_id = self._ids.new(kinds.QUOTA)
        if devices_max is None and share == SHARE_DEFAULT:
            message = "the quota bounds nothing: give devices_max, or a share above 1"
            raise refuse(Code.MISSING_REQUIRED_PARAMETER, message, param="devices_max")

        def write(tx: Transaction) -> Quota:
            named = bound_subject(tx, principal, subject)
            seen = quotas.find(tx, named.id)
            new = Quota(
                seen.id if seen else quota_id,
                QuotaScope(named.scope),
                named.id,
                devices_max,
                share,
            )
            return self._put(tx, principal, seen, new)

        return self._change(write)

    def _told(self, _tx: Transaction, item: Quota, /) -> Told:
        return Told(
            project_id=item.subject_id if item.scope is QuotaScope.PROJECT else None,
            words=f"quota of {item.subject_id}",
            data={"devices_max": item.devices_max, "share": item.share},
        )
