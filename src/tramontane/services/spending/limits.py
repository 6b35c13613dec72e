"""Limits and budgets: set by operators, read by those whom they bind."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tramontane.domain import ids as kinds
from tramontane.domain.event import Event
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.spending.limits import Limit, LimitScope, meters_of
from tramontane.domain.spending.slices import period_end_ms, period_of, period_start_ms
from tramontane.domain.tenancy import Principal
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.scope import (
    Page,
    live_project_named,
    not_found,
    project_named,
    visible_project_id,
)
from tramontane.store import events, tenancy, usage
from tramontane.store.db import Database, Transaction
from tramontane.store.spending import limits
from tramontane.store.spending.limits import BudgetUse, Owner


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a limit binds: exactly one of them, by id or, but for a key, by name."""

    organization: str | None = None
    project: str | None = None
    api_key: str | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a limit allows; None leaves a meter open."""

    requests_per_minute_max: int | None = None
    tokens_per_minute_max: int | None = None
    requests_in_flight_max: int | None = None
    budget_micro: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """How a budget stands in the month ``period`` (YYYYMM), which ends at ``ends_at_ms``."""

    limit: Limit
    use: BudgetUse
    period: int
    ends_at_ms: int


class Limits:
    """Use cases of limits. ``wake`` is called after a change, so that gateways hear of it."""

    def __init__(self, db: Database, clock: Clock, ids: IdSource, wake: Callable[[], None]) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._wake = wake

    def set(
        self, principal: Principal, subject: Subject, model: str | None, bounds: Bounds
    ) -> Limit:
        """Give the subject these bounds for ``model``, in place of those that it had.

        A budget that was not there before counts what was already spent in this month.
        """
        limit_id, now_ms = self._ids.new(kinds.LIMIT), self._clock.now_ms()

        def write(tx: Transaction) -> Limit:
            scope, subject_id, project_id = _subject(tx, principal, subject)
            new = Limit(
                id=limit_id,
                scope=scope,
                subject_id=subject_id,
                model=model,
                requests_per_minute_max=bounds.requests_per_minute_max,
                tokens_per_minute_max=bounds.tokens_per_minute_max,
                requests_in_flight_max=bounds.requests_in_flight_max,
                budget_micro=bounds.budget_micro,
            )
            if not any(meters_of(new)):
                message = "the limit bounds nothing: give one of " + ", ".join(_BOUNDS)
                raise refuse(Code.MISSING_REQUIRED_PARAMETER, message, param=_BOUNDS[0])
            seen = limits.find(tx, subject_id, model)
            if seen is not None and seen == replace(new, id=seen.id):
                return seen
            if seen is None:
                limits.insert(tx, new, now_ms)
            else:
                new = limits.replace_bounds(tx, seen, new)
            if new.budget_micro is not None and (seen is None or seen.budget_micro is None):
                _count_spent(tx, new, now_ms)
            events.append(tx, _event(new, principal, "set", project_id, now_ms))
            return new

        limit = self._db.write(write)
        self._wake()
        return limit

    def get(self, principal: Principal, limit_id: str) -> Limit:
        """Return one limit that the principal may see."""
        with self._db.read() as tx:
            return _get(tx, principal, limit_id)

    def list(
        self, principal: Principal, subject: Subject, *, after: str | None, limit: int
    ) -> Page[Limit]:
        """Return a page of the limits that the principal may see, or of one subject."""
        with self._db.read() as tx:
            return _page(tx, principal, subject, has_budget=False, after=after, limit=limit)

    def remove(self, principal: Principal, limit_id: str) -> Limit:
        """Take the limit away, with what was counted against it."""
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> Limit:
            seen = _get(tx, principal, limit_id)
            limits.remove(tx, seen.id)
            project_id = _project_id(tx, seen)
            events.append(tx, _event(seen, principal, "removed", project_id, now_ms))
            return seen

        limit = self._db.write(write)
        self._wake()
        return limit

    def budgets(
        self, principal: Principal, subject: Subject, *, after: str | None, limit: int
    ) -> Page[Budget]:
        """Return a page of the limits that have a budget, and how each stands in this month."""
        period = period_of(self._clock.now_ms())
        ends_at_ms = period_end_ms(period)
        with self._db.read() as tx:
            found = _page(tx, principal, subject, has_budget=True, after=after, limit=limit)
            use = limits.budget_use(tx, [each.id for each in found.items], period)
        items = [Budget(each, use[each.id], period, ends_at_ms) for each in found.items]
        return Page(items, found.has_more)


_BOUNDS = (
    "requests_per_minute_max",
    "tokens_per_minute_max",
    "requests_in_flight_max",
    "budget_micro",
)


def _count_spent(tx: Transaction, limit: Limit, now_ms: int) -> None:
    period = period_of(now_ms)
    spent_nano = usage.cost_of(
        tx, limit, from_ms=period_start_ms(period), to_ms=period_end_ms(period)
    )
    limits.start_spending(tx, limit.id, period, spent_nano)


def _subject(
    tx: Transaction, principal: Principal, subject: Subject
) -> tuple[LimitScope, str, str | None]:
    """Return the scope, the id and the project of whom a new limit is to bind."""
    if subject.organization is not None:
        return LimitScope.ORGANIZATION, _organization_id(tx, principal, subject.organization), None
    if subject.api_key is not None:
        key = tenancy.get_api_key_for(tx, visible_project_id(principal), subject.api_key)
        if key is None:
            raise not_found("API key", subject.api_key, param="api_key")
        if key.revoked_at_ms is not None:
            message = f"the API key {key.name} is revoked: name another one"
            raise refuse(Code.CONFLICT, message, param="api_key")
        return LimitScope.API_KEY, key.id, key.project_id
    project = live_project_named(tx, principal, subject.project)
    return LimitScope.PROJECT, project.id, project.id


def _organization_id(tx: Transaction, principal: Principal, ref: str) -> str:
    found = tenancy.get_organization(tx, ref)
    if found is None or not (principal.is_operator or found.id == principal.organization_id):
        raise not_found("organization", ref, param="organization")
    return found.id


def _subject_id(tx: Transaction, principal: Principal, subject: Subject) -> str | None:
    """Return the id of the one subject to list, None for all that the principal may see."""
    if subject.organization is not None:
        return _organization_id(tx, principal, subject.organization)
    if subject.project is not None:
        return project_named(tx, principal, subject.project).id
    if subject.api_key is not None:
        key = tenancy.get_api_key_for(tx, visible_project_id(principal), subject.api_key)
        if key is None:
            raise not_found("API key", subject.api_key, param="api_key")
        return key.id
    return None


def _owner(principal: Principal) -> Owner | None:
    if principal.is_operator:
        return None
    return Owner(principal.organization_id, principal.project_id)


def _page(
    tx: Transaction,
    principal: Principal,
    subject: Subject,
    *,
    has_budget: bool,
    after: str | None,
    limit: int,
) -> Page[Limit]:
    found = limits.list_for(
        tx,
        _owner(principal),
        subject_id=_subject_id(tx, principal, subject),
        has_budget=has_budget,
        after=after,
        limit=limit + 1,
    )
    return Page(found[:limit], len(found) > limit)


def _get(tx: Transaction, principal: Principal, limit_id: str) -> Limit:
    found = limits.get_for(tx, _owner(principal), limit_id)
    if found is None:
        raise not_found("limit", limit_id)
    return found


def _project_id(tx: Transaction, limit: Limit) -> str | None:
    match limit.scope:
        case LimitScope.ORGANIZATION:
            return None
        case LimitScope.PROJECT:
            return limit.subject_id
        case LimitScope.API_KEY:
            key = tenancy.get_api_key_for(tx, None, limit.subject_id)
            return key.project_id if key else None


def _event(
    limit: Limit, principal: Principal, what: str, project_id: str | None, now_ms: int
) -> Event:
    given = {name: getattr(limit, name) for name in _BOUNDS}
    return Event(
        at_ms=now_ms,
        subject_id=limit.id,
        project_id=project_id,
        kind=f"limit.{what}",
        message=f"limit of {limit.subject_id} for {limit.model or 'all models'} {what}",
        actor=principal.key_id,
        data={name: value for name, value in given.items() if value is not None},
    )
