"""Rows that operators write and those whom they bind may read: limits, quotas, reserved racks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from sqlalchemy import ColumnElement, Table, delete, select, update

from tramontane.store.db import AnyRow, Transaction
from tramontane.store.statements import LIMIT_DEFAULT, page
from tramontane.store.statements import insert as insert_row


class HasId(Protocol):
    """A value that is one row."""

    @property
    def id(self) -> str:
        """Its id."""
        ...


T = TypeVar("T", bound=HasId)


@dataclass(frozen=True, slots=True)
class Owner:
    """A project and its organization: who may see what binds them, and nothing else."""

    organization_id: str
    project_id: str


class OwnedRows(Generic[T]):
    """The rows of one table; ``binding`` is the condition on those that bind an owner."""

    def __init__(
        self,
        table: Table,
        *,
        values_of: Callable[[T], Mapping[str, object]],
        value_of: Callable[[AnyRow], T],
        binding: Callable[[Owner], ColumnElement[bool]],
    ) -> None:
        self._table = table
        self._values_of = values_of
        self._value_of = value_of
        self._binding = binding

    def one(self, tx: Transaction, *where: ColumnElement[bool]) -> T | None:
        """Return the only value for which ``where`` holds."""
        row = tx.execute(select(self._table).where(*where)).one_or_none()
        return self._value_of(row) if row else None

    def insert(self, tx: Transaction, value: T, now_ms: int) -> None:
        """Insert it; that there is none like it is known from a look before."""
        insert_row(tx, self._table, {"created_at_ms": now_ms} | dict(self._values_of(value)))

    def update(self, tx: Transaction, value: T) -> None:
        """Write it over the row with its id."""
        values = dict(self._values_of(value))
        tx.execute(update(self._table).where(self._table.c.id == value.id).values(values))

    def remove(self, tx: Transaction, value_id: str) -> None:
        """Remove the row with that id."""
        tx.execute(delete(self._table).where(self._table.c.id == value_id))

    def get_for(self, tx: Transaction, owner: Owner | None, value_id: str) -> T | None:
        """Return the value with that id if ``owner`` may see it; None sees all."""
        return self.one(tx, self._table.c.id == value_id, *self._scope(owner))

    def list_for(
        self,
        tx: Transaction,
        owner: Owner | None,
        *,
        subject_id: str | None = None,
        filters: Sequence[ColumnElement[bool]] = (),
        after: str | None = None,
        limit: int = LIMIT_DEFAULT,
    ) -> list[T]:
        """Return a page of what ``owner`` may see (None: all), oldest first.

        ``subject_id`` narrows it to what binds that one, and ``filters`` as in `page`.
        """
        scope = self._scope(owner)
        if subject_id is not None:
            scope.append(self._table.c.subject_id == subject_id)
        rows = page(tx, self._table, scope=scope, filters=filters, after=after, limit=limit)
        return [self._value_of(row) for row in rows]

    def list_all(self, tx: Transaction) -> list[T]:
        """Return every value, by id."""
        query = select(self._table).order_by(self._table.c.id)
        return [self._value_of(row) for row in tx.execute(query)]

    def _scope(self, owner: Owner | None) -> list[ColumnElement[bool]]:
        return [] if owner is None else [self._binding(owner)]
