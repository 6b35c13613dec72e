"""The current route table: one row, replaced only when its content changes."""

from dataclasses import replace
from typing import Final

from sqlalchemy import select

from tramontane.domain.routing import RouteTable
from tramontane.store.codec import decode_route_table, encode_route_table
from tramontane.store.db import Transaction
from tramontane.store.tables import route_tables

_ROW_ID: Final = 1


def current(tx: Transaction) -> RouteTable | None:
    """Return the route table that gateways should have; None before the first."""
    content = tx.scalar(select(route_tables.c.content).where(route_tables.c.id == _ROW_ID))
    return None if content is None else decode_route_table(content)


def current_revision(tx: Transaction) -> int:
    """Return the current table's revision, 0 before the first; cheap enough to ask often."""
    query = select(route_tables.c.revision).where(route_tables.c.id == _ROW_ID)
    return tx.scalar(query) or 0


def publish(tx: Transaction, table: RouteTable) -> RouteTable:
    """Make ``table`` the current one and return it with its revision.

    ``table.revision`` is ignored: the store counts. Equal content keeps the revision. The order
    of ``routes`` is content, the order of ``keys`` is not.
    """
    revision = current_revision(tx)
    if revision:
        same = replace(table, revision=revision)
        stored = tx.scalar(select(route_tables.c.content).where(route_tables.c.id == _ROW_ID))
        if encode_route_table(same) == stored:
            return same
    published = replace(table, revision=revision + 1)
    values = {"revision": published.revision, "content": encode_route_table(published)}
    statement = tx.insert(route_tables).values({"id": _ROW_ID, **values})
    tx.execute(statement.on_conflict_do_update(index_elements=("id",), set_=values))
    return published
