"""Quotas: set by operators, read by those whom they bind."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tramontane.domain import ids as kinds
from tramontane.domain.event import Event
from tramontane.domain.quotas.quota import SHARE_DEFAULT, Quota, QuotaScope
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import Principal
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.scope import Page, live_project_named, not_found, page_of, project_named
from tramontane.store import events, tenancy
from tramontane.store.db import Database, Transaction
from tramontane.store.quotas import quotas


@dataclass(frozen=True, slots=True)
class QuotaSubject:
    """Whom a quota binds: one of them, by id or name."""

    organization: str | None = None
    project: str | None = None


class Quotas:
    """Use cases of quotas. ``wake`` is called after a change, so that clusters hear of it."""

    def __init__(self, db: Database, clock: Clock, ids: IdSource, wake: Callable[[], None]) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._wake = wake

    def set(
        self, principal: Principal, subject: QuotaSubject, devices_max: int | None, share: int
    ) -> Quota:
        """Give the subject this quota, in place of the one that it had."""
        quota_id, now_ms = self._ids.new(kinds.QUOTA), self._clock.now_ms()
        if devices_max is None and share == SHARE_DEFAULT:
            message = "the quota bounds nothing: give devices_max, or a share above 1"
            raise refuse(Code.MISSING_REQUIRED_PARAMETER, message, param="devices_max")

        def write(tx: Transaction) -> Quota:
            scope, subject_id = _subject(tx, principal, subject, is_written=True)
            new = Quota(quota_id, scope, subject_id, devices_max, share)
            seen = quotas.find(tx, subject_id)
            if seen is not None and seen == replace(new, id=seen.id):
                return seen
            if seen is None:
                quotas.insert(tx, new, now_ms)
            else:
                new = quotas.replace_bounds(tx, seen, new)
            events.append(tx, _event(new, principal, "set", now_ms))
            return new

        quota = self._db.write(write)
        self._wake()
        return quota

    def get(self, principal: Principal, quota_id: str) -> Quota:
        """Return one quota that the principal may see."""
        with self._db.read() as tx:
            return _get(tx, principal, quota_id)

    def list(
        self, principal: Principal, subject: QuotaSubject, *, after: str | None, limit: int
    ) -> Page[Quota]:
        """Return a page of the quotas that the principal may see, or that of one subject."""
        with self._db.read() as tx:
            subjects = _visible(principal)
            if subject.organization is not None or subject.project is not None:
                subjects = [_subject(tx, principal, subject, is_written=False)[1]]
            found = quotas.list_for(tx, subjects, after=after, limit=limit + 1)
        return page_of(found, limit)

    def remove(self, principal: Principal, quota_id: str) -> Quota:
        """Take the quota away: its subject is unbounded again, with a share of 1."""
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> Quota:
            seen = _get(tx, principal, quota_id)
            quotas.remove(tx, seen.id)
            events.append(tx, _event(seen, principal, "removed", now_ms))
            return seen

        quota = self._db.write(write)
        self._wake()
        return quota


def _visible(principal: Principal) -> list[str] | None:
    return None if principal.is_operator else [principal.organization_id, principal.project_id]


def _subject(
    tx: Transaction, principal: Principal, subject: QuotaSubject, *, is_written: bool
) -> tuple[QuotaScope, str]:
    ref = subject.organization
    if ref is None:
        named = live_project_named if is_written else project_named
        return QuotaScope.PROJECT, named(tx, principal, subject.project).id
    found = tenancy.get_organization(tx, ref)
    if found is None or not (principal.is_operator or found.id == principal.organization_id):
        raise not_found("organization", ref, param="organization")
    return QuotaScope.ORGANIZATION, found.id


def _get(tx: Transaction, principal: Principal, quota_id: str) -> Quota:
    found = quotas.get_for(tx, _visible(principal), quota_id)
    if found is None:
        raise not_found("quota", quota_id)
    return found


def _event(quota: Quota, principal: Principal, what: str, now_ms: int) -> Event:
    return Event(
        at_ms=now_ms,
        subject_id=quota.id,
        project_id=quota.subject_id if quota.scope is QuotaScope.PROJECT else None,
        kind=f"quota.{what}",
        message=f"quota of {quota.subject_id} {what}",
        actor=principal.key_id,
        data={"devices_max": quota.devices_max, "share": quota.share},
    )
