"""What gateways last said of the demand: one row per life of a gateway and deployment."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import delete, select

from tramontane.domain.planning.demand import SILENT_MS_MAX, Demand
from tramontane.store.db import Transaction
from tramontane.store.tables import demands

_COLUMNS = tuple(field.name for field in fields(Demand))
_KEY = ("holder", "deployment_id")


def record(tx: Transaction, said: Sequence[Demand], now_ms: int) -> None:
    """Replace what the same gateways said of the same deployments; drop what fell silent."""
    for demand in said:
        values: dict[str, Any] = {name: getattr(demand, name) for name in _COLUMNS}
        news = {name: value for name, value in values.items() if name not in _KEY}
        statement = tx.insert(demands).values(values)
        tx.execute(statement.on_conflict_do_update(index_elements=_KEY, set_=news))
    tx.execute(delete(demands).where(demands.c.at_ms < now_ms - SILENT_MS_MAX))


def list_all(tx: Transaction) -> list[Demand]:
    """Return every row; those that fell silent may be among them."""
    query = select(demands).order_by(demands.c.deployment_id, demands.c.holder)
    return [Demand(**{name: getattr(row, name) for name in _COLUMNS}) for row in tx.execute(query)]
