"""Slices: the books of `domain.slices` in rows, of which a report loads and writes its part.

Reports are answered one at a time: on SQLite as every write is, on PostgreSQL by a lock that is
taken before anything is read, so that no report is answered twice only because two crossed.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    literal_column,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from tramontane.domain.spending.limits import LimitMeter
from tramontane.domain.spending.slices import (
    Books,
    Charge,
    Hold,
    Holder,
    HoldKey,
    Outdated,
    Reply,
    Report,
    Window,
    WindowKey,
    exchange,
    period_of,
    settle,
)
from tramontane.store.codec import decode_slices, encode_slices
from tramontane.store.db import Transaction
from tramontane.store.spending import limits
from tramontane.store.tables import budget_spending, slice_holders, slice_holds, slice_windows

_METERS: Final = {meter.value: meter for meter in LimitMeter}

# Statements are built once: building them anew took more time than running them.
_HOLDERS: Final = select(*(column for column in slice_holders.c if column.name != "gateway"))
_WINDOWS: Final = select(slice_windows).where(
    slice_windows.c.limit_id.in_(bindparam("ids", expanding=True))
)
_IS_BUDGET: Final = slice_holds.c.meter == literal_column(f"'{LimitMeter.BUDGET.value}'")
_HOLDS: Final = select(slice_holds).where(
    or_(
        and_(
            slice_holds.c.limit_id.in_(bindparam("in_flight", expanding=True)),
            slice_holds.c.meter == literal_column(f"'{LimitMeter.IN_FLIGHT.value}'"),
        ),
        and_(
            slice_holds.c.limit_id.in_(bindparam("budgets", expanding=True)),
            _IS_BUDGET,
            slice_holds.c.period == bindparam("period"),
        ),
    )
)
_SPENT: Final = select(budget_spending).where(
    budget_spending.c.limit_id.in_(bindparam("budgets", expanding=True)),
    budget_spending.c.period == bindparam("period"),
)
_PLACES: Final[BindParameter[Any]] = bindparam("places", expanding=True)
_HOLDS_CHARGED: Final = select(slice_holds).where(
    tuple_(slice_holds.c.limit_id, slice_holds.c.period).in_(_PLACES), _IS_BUDGET
)
_SPENT_CHARGED: Final = select(budget_spending).where(
    tuple_(budget_spending.c.limit_id, budget_spending.c.period).in_(_PLACES)
)
_HOLDS_KEY: Final = ("limit_id", "meter", "period", "holder")


def _upserts(table: Table, key: tuple[str, ...], columns: tuple[str, ...]) -> tuple[Any, Any]:
    """Return the upsert for SQLite and the one for PostgreSQL."""
    made: list[Any] = []
    for insert in (sqlite.insert(table), postgresql.insert(table)):
        changes = {name: insert.excluded[name] for name in columns}
        made.append(insert.on_conflict_do_update(index_elements=key, set_=changes))
    return made[0], made[1]


_UPSERTS: Final = {
    "holder": _upserts(
        slice_holders,
        ("holder",),
        ("gateway", "sequence", "seen_ms", "awake_ms", "lease", "is_lapsed", "reply"),
    ),
    "other_holders": _upserts(slice_holders, ("holder",), ("seen_ms", "lease", "is_lapsed")),
    "windows": _upserts(
        slice_windows,
        ("limit_id", "meter"),
        ("number", "start_ms", "end_ms", "granted", "lent_until_ms"),
    ),
    "holds": _upserts(slice_holds, _HOLDS_KEY, ("lease", "amount")),
    "spending": _upserts(budget_spending, ("limit_id", "period"), ("spent_nano",)),
}


def answer(tx: Transaction, gateway: str, report: Report, now_ms: int) -> Reply | Outdated:
    """Answer a gateway's report and record what it holds now."""
    lock(tx)
    asked = {ask.limit_id for ask in report.asks}
    before = _load(tx, report, period_of(now_ms))
    reply, after = exchange(before, limits.get_each(tx, asked) if asked else {}, report, now_ms)
    if after is not before:
        _save(tx, before, after, report, gateway)
    return reply


def charge(tx: Transaction, charges: Collection[Charge]) -> None:
    """Record that accepted usage events cost this; who calls it has taken the `lock` first."""
    places = sorted({(each.limit_id, each.period) for each in charges})
    values = {"places": places}
    before = Books(
        holds=_holds(tx, _HOLDS_CHARGED, values), spent_nano=_spent(tx, _SPENT_CHARGED, values)
    )
    after = settle(before, charges)
    rows = [
        {"limit_id": limit_id, "period": period, "spent_nano": nano}
        for (limit_id, period), nano in after.spent_nano.items()
    ]
    _upsert(tx, "spending", rows)
    _save_holds(tx, before, after)


def lock(tx: Transaction) -> None:
    """Wait for the turn to change the books; to be called before anything is read."""
    if tx.is_postgresql:
        tx.execute(text("LOCK TABLE slice_holders IN EXCLUSIVE MODE"))


def _load(tx: Transaction, report: Report, period: int) -> Books:
    """Return the part of the books that ``report`` touches, in at most four queries."""
    holders = {
        name: Holder(
            sequence=sequence,
            seen_ms=seen_ms,
            awake_ms=awake_ms,
            lease=lease,
            is_lapsed=bool(is_lapsed),
            reply=(
                decode_slices(reply)
                if reply and (name, sequence) == (report.holder, report.sequence)
                else None
            ),
        )
        for name, sequence, seen_ms, awake_ms, lease, is_lapsed, reply in tx.execute(_HOLDERS)
    }
    asked: dict[LimitMeter, list[str]] = {meter: [] for meter in LimitMeter}
    for ask in report.asks:
        asked[ask.meter].append(ask.limit_id)
    of_windows = asked[LimitMeter.REQUESTS] + asked[LimitMeter.TOKENS]
    in_flight, of_budgets = asked[LimitMeter.IN_FLIGHT], asked[LimitMeter.BUDGET]
    values = {"in_flight": in_flight, "budgets": of_budgets, "period": period}
    return Books(
        holders=holders,
        windows=_windows(tx, of_windows) if of_windows else {},
        holds=_holds(tx, _HOLDS, values) if in_flight or of_budgets else {},
        spent_nano=_spent(tx, _SPENT, values) if of_budgets else {},
    )


def _windows(tx: Transaction, limit_ids: list[str]) -> dict[WindowKey, Window]:
    found = tx.execute(_WINDOWS, {"ids": limit_ids})
    return {(limit_id, _METERS[meter]): Window(*values) for limit_id, meter, *values in found}


def _holds(
    tx: Transaction, query: Select[Any], values: Mapping[str, Any]
) -> dict[HoldKey, dict[str, Hold]]:
    found: dict[HoldKey, dict[str, Hold]] = {}
    for limit_id, meter, period, holder, lease, amount in tx.execute(query, values):
        found.setdefault((limit_id, _METERS[meter], period), {})[holder] = (lease, amount)
    return found


def _spent(
    tx: Transaction, query: Select[Any], values: Mapping[str, Any]
) -> dict[tuple[str, int], int]:
    return {
        (limit_id, period): spent_nano for limit_id, period, spent_nano in tx.execute(query, values)
    }


def _save(tx: Transaction, before: Books, after: Books, report: Report, gateway: str) -> None:
    changed = [
        {"gateway": gateway, **_holder_values(name, holder)}
        for name, holder in after.holders.items()
        if name == report.holder or holder != before.holders.get(name)
    ]
    mine = [row for row in changed if row["holder"] == report.holder]
    others = [row for row in changed if row["holder"] != report.holder]
    _upsert(tx, "holder", mine)
    _upsert(tx, "other_holders", others)
    forgotten = sorted(set(before.holders) - set(after.holders))
    if forgotten:
        tx.execute(delete(slice_holders).where(slice_holders.c.holder.in_(forgotten)))
    if forgotten or report.settled_holders:
        gone = [*forgotten, *report.settled_holders]
        tx.execute(delete(slice_holds).where(slice_holds.c.holder.in_(gone)))
    _save_windows(tx, before.windows, after.windows)
    _save_holds(tx, before, after)


def _holder_values(name: str, holder: Holder) -> dict[str, Any]:
    return {
        "holder": name,
        "sequence": holder.sequence,
        "seen_ms": holder.seen_ms,
        "awake_ms": holder.awake_ms,
        "lease": holder.lease,
        "is_lapsed": int(holder.is_lapsed),
        "reply": None if holder.reply is None else encode_slices(holder.reply),
    }


def _save_windows(
    tx: Transaction,
    before: Mapping[WindowKey, Window],
    after: Mapping[WindowKey, Window],
) -> None:
    rows = [
        {
            "limit_id": limit_id,
            "meter": meter.value,
            "number": window.number,
            "start_ms": window.start_ms,
            "end_ms": window.end_ms,
            "granted": window.granted,
            "lent_until_ms": window.lent_until_ms,
        }
        for (limit_id, meter), window in after.items()
        if window != before.get((limit_id, meter))
    ]
    _upsert(tx, "windows", rows)


def _save_holds(tx: Transaction, before: Books, after: Books) -> None:
    rows: list[dict[str, Any]] = []
    gone: list[tuple[str, str, int, str]] = []
    for (limit_id, meter, period), held in after.holds.items():
        known = before.holds.get((limit_id, meter, period), {})
        place = {"limit_id": limit_id, "meter": meter.value, "period": period}
        rows += [
            {**place, "holder": holder, "lease": lease, "amount": amount}
            for holder, (lease, amount) in held.items()
            if known.get(holder) != (lease, amount)
        ]
        gone += [(limit_id, meter.value, period, name) for name in known if name not in held]
    _upsert(tx, "holds", rows)
    if gone:
        columns = tuple_(*(slice_holds.c[name] for name in _HOLDS_KEY))
        tx.execute(delete(slice_holds).where(columns.in_(gone)))


def _upsert(tx: Transaction, name: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        tx.insert_each(_UPSERTS[name][tx.is_postgresql], rows)
