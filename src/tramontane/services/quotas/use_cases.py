"""Quotas: set by operators, read by those whom they bind."""

from collections.abc import Collection

from tramontane.domain import ids as kinds
from tramontane.domain.launch import PriorityClass
from tramontane.domain.quotas.classes import Classes, listed, ordered
from tramontane.domain.quotas.quota import SHARE_DEFAULT, Quota, QuotaScope
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import Principal
from tramontane.services.quotas.bounds import classes_of
from tramontane.services.quotas.owned import NamedSubject, OwnedItems, Subject, Told, bound_subject
from tramontane.store import tenancy
from tramontane.store.db import Transaction
from tramontane.store.quotas import quotas


class Quotas(OwnedItems[Quota]):
    """Use cases of quotas. Without one, a subject is unbounded and has a share of 1."""

    noun = "quota"
    rows = quotas.ROWS

    def set(
        self,
        principal: Principal,
        subject: Subject,
        devices_max: int | None,
        share: int,
        priority_classes: Collection[PriorityClass] | None = None,
    ) -> Quota:
        """Give the subject this quota, in place of the one that it had.

        ``priority_classes`` are those that it may ask for; a project no more than its organization.
        """
        quota_id = self._ids.new(kinds.QUOTA)
        named_classes = None if priority_classes is None else ordered(priority_classes)
        if devices_max is None and share == SHARE_DEFAULT and not named_classes:
            message = (
                "the quota bounds nothing: give devices_max, a share above 1, or priority_classes"
            )
            raise refuse(Code.MISSING_REQUIRED_PARAMETER, message, param="devices_max")

        def write(tx: Transaction) -> Quota:
            named = bound_subject(tx, principal, subject)
            _check_classes(tx, named, named_classes or ())
            seen = quotas.find(tx, named.id)
            new = Quota(
                seen.id if seen else quota_id,
                QuotaScope(named.scope),
                named.id,
                devices_max,
                share,
                named_classes,
            )
            return self._put(tx, principal, seen, new)

        return self._change(write)

    def _told(self, _tx: Transaction, item: Quota, /) -> Told:
        named = item.priority_classes
        return Told(
            project_id=item.subject_id if item.scope is QuotaScope.PROJECT else None,
            words=f"quota of {item.subject_id}",
            data={
                "devices_max": item.devices_max,
                "share": item.share,
                "priority_classes": None if named is None else ",".join(named),
            },
        )


def _check_classes(tx: Transaction, named: NamedSubject, asked: Classes) -> None:
    project = tenancy.get_project(tx, named.id)
    if project is None:
        return
    allowed = classes_of(tx, project.organization_id)
    more = tuple(each for each in asked if each not in allowed)
    if more:
        message = (
            f"the project {project.name} cannot have {listed(more)}: its organization has "
            f"{listed(allowed)}; name of those, or give the organization a quota with more first"
        )
        raise refuse(Code.DOES_NOT_FIT, message, param="priority_classes")
