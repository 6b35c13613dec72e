"""Usage: every event once and for ever, and hourly totals that are exact at any moment.

Events are numbered in the order in which they are accepted, and every event up to the number in
`usage_roll_up` is in `usage_totals`. So a total is what was rolled up plus what came later, read
in one transaction. That holds only if numbers become visible in their order: `accept` lets one
transaction at a time number events.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    func,
    literal_column,
    select,
    text,
    union_all,
)

from tramontane.domain.spending.limits import Limit, LimitScope
from tramontane.domain.spending.slices import Charge, period_of
from tramontane.domain.usage import Outcome, TokenSource, UsageEvent, UsageTotal
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.spending import limits, slices
from tramontane.store.statements import LIMIT_DEFAULT, check_limit, unknown_cursor
from tramontane.store.tables import projects, usage_events, usage_roll_up, usage_totals

HOUR_MS: Final = 3_600_000

GroupBy = Literal["hour", "project", "api_key", "model"]
_GROUP_COLUMNS: Final[dict[GroupBy, str]] = {
    "hour": "hour_ms",
    "project": "project_id",
    "api_key": "api_key_id",
    "model": "model",
}
_SUMS: Final = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano")
_ROW_ID: Final = 1

# A literal: as a bound parameter, PostgreSQL could not tell that what is selected is grouped by.
_hour: Final = usage_events.c.started_at_ms - usage_events.c.started_at_ms % literal_column(
    str(HOUR_MS)
)


def accept(tx: Transaction, events: Sequence[UsageEvent], now_ms: int) -> int:
    """Store the events that are new by their id and return how many those were.

    An id that was ever accepted is ignored, whatever the event says now. What the new ones cost
    is charged to the budgets that bind them.
    """
    if not events:
        return 0
    if tx.is_postgresql:
        # One numbering transaction at a time, readers undisturbed; LOCK TABLE takes no snapshot,
        # so a transaction that waited here sees what it waited for.
        tx.execute(text("LOCK TABLE usage_roll_up IN EXCLUSIVE MODE"))
    charges: list[Charge] = []
    if any(event.cost_nano for event in events):
        slices.lock(tx)
        charges = _charges(tx, events)
    if charges:
        slices.charge(tx, charges)
    statement = tx.insert(usage_events).on_conflict_do_nothing(index_elements=("id",))
    rows = [_values(event) | {"accepted_at_ms": now_ms} for event in events]
    return tx.insert_each(statement, rows)


def cost_of(tx: Transaction, limit: Limit, *, from_ms: int, to_ms: int) -> int:
    """Return what the requests that ``limit`` binds cost, in nano-euros; whole hours only."""
    hour, started = usage_totals.c.hour_ms, usage_events.c.started_at_ms
    rolled = [hour >= from_ms, hour < to_ms]
    later = [usage_events.c.sequence > _rolled_sequence(tx), started >= from_ms, started < to_ms]
    if limit.model is not None:
        rolled.append(usage_totals.c.model == limit.model)
        later.append(usage_events.c.model == limit.model)
    match limit.scope:
        case LimitScope.ORGANIZATION:
            own = select(projects.c.id).where(projects.c.organization_id == limit.subject_id)
            rolled.append(usage_totals.c.project_id.in_(own))
            later.append(usage_events.c.organization_id == limit.subject_id)
        case LimitScope.PROJECT:
            rolled.append(usage_totals.c.project_id == limit.subject_id)
            later.append(usage_events.c.project_id == limit.subject_id)
        case LimitScope.API_KEY:
            rolled.append(usage_totals.c.api_key_id == limit.subject_id)
            later.append(usage_events.c.api_key_id == limit.subject_id)
    parts = (
        tx.scalar(select(func.sum(table.c.cost_nano)).where(*conditions))
        for table, conditions in ((usage_totals, rolled), (usage_events, later))
    )
    return sum(int(part or 0) for part in parts)


def list_events(
    tx: Transaction,
    project_id: str | None,
    *,
    after: str | None = None,
    limit: int = LIMIT_DEFAULT,
) -> tuple[list[UsageEvent], bool]:
    """Return a page of events in the order of acceptance, and whether there are more now.

    ``after`` is the id of the last event seen: who goes on from there, even days later, misses
    none. ``project_id`` sees its own events, None sees all.
    """
    check_limit(limit)
    scope = [] if project_id is None else [usage_events.c.project_id == project_id]
    query = select(usage_events).where(*scope)
    if after is not None:
        seen = select(usage_events.c.sequence).where(usage_events.c.id == after, *scope)
        position = tx.scalar(seen)
        if position is None:
            raise unknown_cursor(after)
        query = query.where(usage_events.c.sequence > position)
    rows = tx.execute(query.order_by(usage_events.c.sequence).limit(limit + 1)).all()
    return [_event(row) for row in rows[:limit]], len(rows) > limit


def unrolled(tx: Transaction, limit: int = LIMIT_DEFAULT) -> list[UsageEvent]:
    """Return the oldest events that are not in the hourly totals yet."""
    check_limit(limit)
    query = (
        select(usage_events)
        .where(usage_events.c.sequence > _rolled_sequence(tx))
        .order_by(usage_events.c.sequence)
        .limit(limit)
    )
    return [_event(row) for row in tx.execute(query)]


def roll_up(tx: Transaction, now_ms: int, limit: int) -> int:
    """Add up to ``limit`` further events to the hourly totals; return how many."""
    rolled = _rolled_sequence(tx)
    further = (
        select(usage_events.c.sequence)
        .where(usage_events.c.sequence > rolled)
        .order_by(usage_events.c.sequence)
        .limit(limit)
        .subquery()
    )
    last, count = tx.execute(
        select(func.max(further.c.sequence), func.count(further.c.sequence))
    ).one()
    if not count:
        return 0
    chosen = and_(usage_events.c.sequence > rolled, usage_events.c.sequence <= last)
    columns = [*_GROUP_COLUMNS.values(), *_SUMS]
    fresh = _grouped_events(chosen, tuple(_GROUP_COLUMNS.values()))
    statement = tx.insert(usage_totals).from_select(columns, fresh)
    sums = {name: usage_totals.c[name] + statement.excluded[name] for name in _SUMS}
    tx.execute(
        statement.on_conflict_do_update(index_elements=tuple(_GROUP_COLUMNS.values()), set_=sums)
    )
    position = {"rolled_sequence": last, "rolled_at_ms": now_ms}
    marker = tx.insert(usage_roll_up).values({"id": _ROW_ID, **position})
    tx.execute(marker.on_conflict_do_update(index_elements=("id",), set_=position))
    return count


def totals(
    tx: Transaction,
    project_id: str | None,
    *,
    from_ms: int,
    to_ms: int,
    group_by: Sequence[GroupBy] = ("hour", "project", "api_key", "model"),
) -> list[UsageTotal]:
    """Return exact sums over the events that started in ``from_ms <= t < to_ms``, by group.

    A field that is not grouped by is empty: ``hour_ms`` 0, the others "". Ordered by hour,
    project, key and model. Whole hours come from the totals, the rest from the events themselves.
    """
    first_hour = -(-from_ms // HOUR_MS) * HOUR_MS  # the first hour that begins in the range
    end_hour = to_ms // HOUR_MS * HOUR_MS  # where the last whole hour ends
    if first_hour <= end_hour:
        edges = [(from_ms, first_hour), (end_hour, to_ms)]
    else:
        edges = [(from_ms, to_ms)]  # within one hour
    hour, started = usage_totals.c.hour_ms, usage_events.c.started_at_ms
    # Few events are not rolled up: to be found by their numbers, not by their time, which an
    # expression hides from the index.
    hidden = started + literal_column("0")
    later = and_(
        usage_events.c.sequence > _rolled_sequence(tx), hidden >= first_hour, hidden < end_hour
    )
    events = [later, *(and_(started >= a, started < b) for a, b in edges if a < b)]
    hours = and_(hour >= first_hour, hour < end_hour)
    if project_id is not None:
        hours = and_(hours, usage_totals.c.project_id == project_id)
        events = [and_(each, usage_events.c.project_id == project_id) for each in events]
    names = tuple(column for key, column in _GROUP_COLUMNS.items() if key in group_by)
    parts = union_all(
        _grouped_totals(hours, names), *(_grouped_events(each, names) for each in events)
    ).subquery()
    group = [parts.c[name] for name in names]
    sums = [func.sum(parts.c[name]).label(name) for name in _SUMS]
    rows = tx.execute(select(*group, *sums).group_by(*group).order_by(*group))
    return [_total(row, names) for row in rows if row.requests]


def _charges(tx: Transaction, events: Sequence[UsageEvent]) -> list[Charge]:
    """Return what the new ones of ``events`` cost, by budget, holder and month."""
    subjects = {
        subject
        for event in events
        for subject in (event.organization_id, event.project_id, event.api_key_id)
    }
    budgets: dict[str, list[Limit]] = {}
    for limit in limits.budgets_of(tx, subjects):
        budgets.setdefault(limit.subject_id, []).append(limit)
    if not budgets:
        return []
    ids = [event.id for event in events]
    known = set(tx.execute(select(usage_events.c.id).where(usage_events.c.id.in_(ids))).scalars())
    sums = Counter[tuple[str, str, int]]()
    for event in events:
        if event.id in known or not event.cost_nano:
            continue
        known.add(event.id)
        for subject in (event.organization_id, event.project_id, event.api_key_id):
            for limit in budgets.get(subject, ()):
                if limit.model in {None, event.model}:
                    period = period_of(event.started_at_ms)
                    sums[limit.id, event.holder, period] += event.cost_nano
    return [Charge(*place, cost_nano) for place, cost_nano in sorted(sums.items())]


def _rolled_sequence(tx: Transaction) -> int:
    query = select(usage_roll_up.c.rolled_sequence).where(usage_roll_up.c.id == _ROW_ID)
    return tx.scalar(query) or 0


def _grouped_totals(
    condition: ColumnElement[bool], names: Sequence[str]
) -> Select[*tuple[Any, ...]]:
    group = [usage_totals.c[name] for name in names]
    sums = [func.sum(usage_totals.c[name]).label(name) for name in _SUMS]
    return select(*group, *sums).where(condition).group_by(*group)


def _grouped_events(
    condition: ColumnElement[bool], names: Sequence[str]
) -> Select[*tuple[Any, ...]]:
    """Return the sums over the events of ``condition``, with the columns of the hourly totals."""
    group = [
        _hour.label("hour_ms") if name == "hour_ms" else usage_events.c[name] for name in names
    ]
    requests = func.count(usage_events.c.sequence).label("requests")
    amounts = [func.sum(usage_events.c[name]).label(name) for name in _SUMS[1:]]
    return select(*group, requests, *amounts).where(condition).group_by(*group)


def _total(row: AnyRow, names: Sequence[str]) -> UsageTotal:
    return UsageTotal(
        hour_ms=row.hour_ms if "hour_ms" in names else 0,
        project_id=row.project_id if "project_id" in names else "",
        api_key_id=row.api_key_id if "api_key_id" in names else "",
        model=row.model if "model" in names else "",
        requests=int(row.requests),
        prompt_tokens=int(row.prompt_tokens),
        completion_tokens=int(row.completion_tokens),
        cached_tokens=int(row.cached_tokens),
        cost_nano=int(row.cost_nano),
    )


def _values(event: UsageEvent) -> dict[str, object]:
    return {
        "id": event.id,
        "request_id": event.request_id,
        "organization_id": event.organization_id,
        "project_id": event.project_id,
        "api_key_id": event.api_key_id,
        "deployment_id": event.deployment_id,
        "replica_id": event.replica_id,
        "model": event.model,
        "endpoint": event.endpoint,
        "outcome": event.outcome.value,
        "status": event.status,
        "is_stream": int(event.is_stream),
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.completion_tokens,
        "cached_tokens": event.cached_tokens,
        "token_source": event.token_source.value,
        "started_at_ms": event.started_at_ms,
        "duration_ms": event.duration_ms,
        "first_byte_ms": event.first_byte_ms,
        "gateway": event.gateway,
        "cost_nano": event.cost_nano,
        "holder": event.holder,
    }


def _event(row: AnyRow) -> UsageEvent:
    return UsageEvent(
        id=row.id,
        request_id=row.request_id,
        organization_id=row.organization_id,
        project_id=row.project_id,
        api_key_id=row.api_key_id,
        deployment_id=row.deployment_id,
        replica_id=row.replica_id,
        model=row.model,
        endpoint=row.endpoint,
        outcome=Outcome(row.outcome),
        status=row.status,
        is_stream=bool(row.is_stream),
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cached_tokens=row.cached_tokens,
        token_source=TokenSource(row.token_source),
        started_at_ms=row.started_at_ms,
        duration_ms=row.duration_ms,
        first_byte_ms=row.first_byte_ms,
        gateway=row.gateway,
        cost_nano=row.cost_nano,
        holder=row.holder,
    )
