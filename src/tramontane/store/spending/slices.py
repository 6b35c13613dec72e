"""Slices: the books of `domain.slices` in rows, of which a report loads and writes its part.

Reports are answered one at a time: on SQLite as every write is, on PostgreSQL by a lock that is
taken before anything is read, so that no report is answered twice only because two crossed.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy import delete, select, text, tuple_

from tramontane.domain.limits import LimitMeter
from tramontane.domain.slices import (
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

_NO_PERIOD: Final = 0  # of what is held in flight


def answer(tx: Transaction, gateway: str, report: Report, now_ms: int) -> Reply | Outdated:
    """Answer a gateway's report and record what it holds now."""
    lock(tx)
    asked = {ask.limit_id for ask in report.asks}
    before = _load(tx, report, asked, period_of(now_ms))
    reply, after = exchange(before, limits.get_each(tx, asked) if asked else {}, report, now_ms)
    if after is not before:
        _save(tx, before, after, report, gateway)
    return reply


def charge(tx: Transaction, charges: Collection[Charge]) -> None:
    """Record that accepted usage events cost this; who calls it has taken the `lock` first."""
    places = sorted({(each.limit_id, each.period) for each in charges})
    spending = tuple_(budget_spending.c.limit_id, budget_spending.c.period).in_(places)
    holding = tuple_(slice_holds.c.limit_id, slice_holds.c.period).in_(places)
    before = Books(
        holds=_holds(tx, holding & (slice_holds.c.meter == LimitMeter.BUDGET.value)),
        spent_nano=_spent(tx, spending),
    )
    after = settle(before, charges)
    rows = [
        {"limit_id": limit_id, "period": period, "spent_nano": nano}
        for (limit_id, period), nano in after.spent_nano.items()
    ]
    _upsert(tx, budget_spending, rows, ("limit_id", "period"), ("spent_nano",))
    _save_holds(tx, before, after)


def lock(tx: Transaction) -> None:
    """Wait for the turn to change the books; to be called before anything is read."""
    if tx.is_postgresql:
        tx.execute(text("LOCK TABLE slice_holders IN EXCLUSIVE MODE"))


def _load(tx: Transaction, report: Report, asked: Collection[str], period: int) -> Books:
    holders = {
        row.holder: Holder(
            sequence=row.sequence,
            seen_ms=row.seen_ms,
            awake_ms=row.awake_ms,
            lease=row.lease,
            is_lapsed=bool(row.is_lapsed),
            reply=_reply(row, report),
        )
        for row in tx.execute(select(slice_holders))
    }
    if not asked:
        return Books(holders)
    ids = sorted(asked)
    held = slice_holds.c.limit_id.in_(ids) & slice_holds.c.period.in_((_NO_PERIOD, period))
    spent = budget_spending.c.limit_id.in_(ids) & (budget_spending.c.period == period)
    windows = {
        (row.limit_id, LimitMeter(row.meter)): Window(
            number=row.number,
            start_ms=row.start_ms,
            end_ms=row.end_ms,
            granted=row.granted,
            lent_until_ms=row.lent_until_ms,
        )
        for row in tx.execute(select(slice_windows).where(slice_windows.c.limit_id.in_(ids)))
    }
    return Books(holders, windows, _holds(tx, held), _spent(tx, spent))


def _reply(row: Any, report: Report) -> Reply | None:
    """Return the last reply of the one holder that may have to be answered with it again."""
    is_again = row.holder == report.holder and row.sequence == report.sequence
    return decode_slices(row.reply) if is_again and row.reply else None


def _holds(tx: Transaction, condition: Any) -> dict[HoldKey, dict[str, Hold]]:
    found: dict[HoldKey, dict[str, Hold]] = {}
    for row in tx.execute(select(slice_holds).where(condition)):
        key = (row.limit_id, LimitMeter(row.meter), row.period)
        found.setdefault(key, {})[row.holder] = (row.lease, row.amount)
    return found


def _spent(tx: Transaction, condition: Any) -> dict[tuple[str, int], int]:
    rows = tx.execute(select(budget_spending).where(condition))
    return {(row.limit_id, row.period): row.spent_nano for row in rows}


def _save(tx: Transaction, before: Books, after: Books, report: Report, gateway: str) -> None:
    changed = [
        {"gateway": gateway, **_holder_values(name, holder)}
        for name, holder in after.holders.items()
        if name == report.holder or holder != before.holders.get(name)
    ]
    mine = [row for row in changed if row["holder"] == report.holder]
    others = [row for row in changed if row["holder"] != report.holder]
    _upsert(tx, slice_holders, mine, ("holder",), tuple(mine[0])[2:])
    _upsert(tx, slice_holders, others, ("holder",), ("seen_ms", "lease", "is_lapsed"))
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
    columns = ("number", "start_ms", "end_ms", "granted", "lent_until_ms")
    _upsert(tx, slice_windows, rows, ("limit_id", "meter"), columns)


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
    key = ("limit_id", "meter", "period", "holder")
    _upsert(tx, slice_holds, rows, key, ("lease", "amount"))
    if gone:
        columns = tuple_(*(slice_holds.c[name] for name in key))
        tx.execute(delete(slice_holds).where(columns.in_(gone)))


def _upsert(
    tx: Transaction,
    table: Any,
    rows: list[dict[str, Any]],
    key: tuple[str, ...],
    columns: tuple[str, ...],
) -> None:
    if not rows:
        return
    statement = tx.insert(table)
    changes = {name: statement.excluded[name] for name in columns}
    tx.insert_each(statement.on_conflict_do_update(index_elements=key, set_=changes), rows)
