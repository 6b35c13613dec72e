"""Prices: one row for each model that was ever given any; those of a free one are zero."""

from dataclasses import dataclass

from sqlalchemy import select

from tramontane.domain.spending.pricing import FREE, Prices
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.tables import model_versions, prices


@dataclass(frozen=True, slots=True)
class StoredPrices:
    """The prices of a model, and since when; None: it was always free."""

    prices: Prices = FREE
    changed_at_ms: int | None = None


def put(tx: Transaction, model_id: str, new: Prices, now_ms: int) -> None:
    """Give the model these prices from now on."""
    values = {
        "prompt_micro": new.prompt_micro,
        "completion_micro": new.completion_micro,
        "cached_micro": new.cached_micro,
        "request_micro": new.request_micro,
        "changed_at_ms": now_ms,
    }
    statement = tx.insert(prices).values({"model_id": model_id, **values})
    tx.execute(statement.on_conflict_do_update(index_elements=("model_id",), set_=values))


def get(tx: Transaction, model_id: str) -> StoredPrices:
    """Return the prices of the model."""
    row = tx.execute(select(prices).where(prices.c.model_id == model_id)).one_or_none()
    return StoredPrices(_prices(row), row.changed_at_ms) if row else StoredPrices()


def by_version(tx: Transaction) -> dict[str, Prices]:
    """Return the prices by the id of the model version, of all that have a row."""
    query = select(model_versions.c.id, prices).join(
        prices, prices.c.model_id == model_versions.c.model_id
    )
    return {row.id: _prices(row) for row in tx.execute(query)}


def _prices(row: AnyRow) -> Prices:
    return Prices(
        prompt_micro=row.prompt_micro,
        completion_micro=row.completion_micro,
        cached_micro=row.cached_micro,
        request_micro=row.request_micro,
    )
