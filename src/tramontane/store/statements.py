"""The statements that every aggregate needs: page of a list, insert, guarded update."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Table, select, tuple_, update

from tramontane.domain.refusal import Code, refuse
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.errors import NameTakenError, StaleError

LIMIT_DEFAULT: Final = 20
# The API allows 100 and asks for one more to know whether there is more; room for a reconciler.
LIMIT_MAX: Final = 1_000

Values = Mapping[str, Any]


def page(
    tx: Transaction,
    table: Table,
    *,
    scope: Sequence[ColumnElement[bool]] = (),
    filters: Sequence[ColumnElement[bool]] = (),
    after: str | None,
    limit: int,
    newest_first: bool = False,
) -> Sequence[AnyRow]:
    """Return up to ``limit`` rows after the row ``after``, in the order (created_at_ms, id).

    ``newest_first`` turns that order round.
    ``scope`` is what the caller may see: an ``after`` outside of it is refused like one that does
    not exist. ``filters`` narrow the list further, but the row ``after`` may have left them.
    """
    check_limit(limit)
    query = select(table).where(*scope, *filters)
    position = (table.c.created_at_ms, table.c.id)
    if after is not None:
        seen = tx.execute(select(*position).where(table.c.id == after, *scope)).one_or_none()
        if seen is None:
            raise unknown_cursor(after)
        here, there = tuple_(*position), tuple_(*seen)
        query = query.where(here < there if newest_first else here > there)
    order = [column.desc() for column in position] if newest_first else position
    return tx.execute(query.order_by(*order).limit(limit)).all()


def check_limit(limit: int) -> None:
    """Raise `ValueError` unless a list may have ``limit`` rows: the caller forgot to check."""
    if not 1 <= limit <= LIMIT_MAX:
        msg = f"a list has 1 to {LIMIT_MAX} items at a time, asked for {limit}"
        raise ValueError(msg)


def unknown_cursor(after: str) -> Exception:
    """Return the refusal of a page after an item that is not (or no longer) in the list."""
    return refuse(
        Code.INVALID_VALUE,
        f"'after' must be the id of an item of this list, and {after!r} is not, or no longer:"
        " start again without 'after'",
        param="after",
    )


def insert(tx: Transaction, table: Table, values: Values) -> None:
    """Insert one row whose keys cannot be taken; a taken one is a bug."""
    tx.execute(table.insert().values(values))


def insert_if_free(
    tx: Transaction,
    table: Table,
    values: Values,
    *,
    unique: Sequence[str],
    where: ColumnElement[bool] | None = None,
) -> bool:
    """Insert one row unless another has the same ``unique`` columns; tell whether it did.

    ``where`` repeats the condition of a partial unique index. The transaction stays usable.
    """
    statement = tx.insert(table).values(values)
    statement = statement.on_conflict_do_nothing(index_elements=unique, index_where=where)
    # The row count of an INSERT is not known on every driver; a returned row is.
    return tx.execute(statement.returning(table.c[unique[0]])).one_or_none() is not None


def insert_named(
    tx: Transaction,
    table: Table,
    values: Values,
    *,
    noun: str,
    unique: Sequence[str] = ("name",),
    where: ColumnElement[bool] | None = None,
) -> None:
    """Insert one row, or raise `NameTakenError` when another has the same ``unique`` columns."""
    if not insert_if_free(tx, table, values, unique=unique, where=where):
        raise NameTakenError(noun, str(values["name"]))


def update_guarded(
    tx: Transaction, table: Table, *, noun: str, seen_id: str, seen_revision: int, values: Values
) -> int:
    """Write ``values`` unless the row moved on from ``seen_revision``: then `StaleError`.

    Returns the row's new revision.
    """
    revision = seen_revision + 1
    statement = (
        update(table)
        .where(table.c.id == seen_id, table.c.revision == seen_revision)
        .values(dict(values) | {"revision": revision})
    )
    if tx.execute(statement).rowcount != 1:
        raise StaleError(noun, seen_id)
    return revision
