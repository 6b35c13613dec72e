"""Prices of classes, and what attempts cost by those that held when they were accounted."""

from dataclasses import dataclass

from sqlalchemy import select

from tramontane.domain.launch import PriorityClass
from tramontane.domain.spending.class_pricing import device_cost_nano
from tramontane.store.db import Transaction
from tramontane.store.quotas.tables import attempt_costs, class_prices
from tramontane.store.statements import insert_if_free


@dataclass(frozen=True, slots=True)
class ClassPrice:
    """What a device costs for an hour, in micro-euros, and since when; None: always free."""

    priority_class: PriorityClass
    device_hour_micro: int = 0
    changed_at_ms: int | None = None


def put(tx: Transaction, priority_class: PriorityClass, micro: int, now_ms: int) -> None:
    """Give the class this price from now on."""
    values = {"device_hour_micro": micro, "changed_at_ms": now_ms}
    statement = tx.insert(class_prices).values({"priority_class": priority_class.value, **values})
    tx.execute(statement.on_conflict_do_update(index_elements=("priority_class",), set_=values))


def get(tx: Transaction, priority_class: PriorityClass) -> ClassPrice:
    """Return what the class costs."""
    query = select(class_prices).where(class_prices.c.priority_class == priority_class.value)
    row = tx.execute(query).one_or_none()
    if row is None:
        return ClassPrice(priority_class)
    return ClassPrice(priority_class, row.device_hour_micro, row.changed_at_ms)


def charge(
    tx: Transaction,
    attempt_id: str,
    priority_class: PriorityClass,
    device_seconds: int,
    now_ms: int,
) -> None:
    """Record what an attempt cost, once for ever, in the transaction that accounts it.

    A second call changes nothing, whatever the price is by then.
    """
    micro = get(tx, priority_class).device_hour_micro
    values = {
        "attempt_id": attempt_id,
        "priority_class": priority_class.value,
        "device_seconds": device_seconds,
        "device_hour_micro": micro,
        "cost_nano": device_cost_nano(device_seconds, micro),
        "accounted_at_ms": now_ms,
    }
    insert_if_free(tx, attempt_costs, values, unique=("attempt_id",))
