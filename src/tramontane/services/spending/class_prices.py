"""Prices of priority classes: set by operators, read by everybody who may submit."""

from collections.abc import Sequence

from tramontane.domain.event import Event
from tramontane.domain.launch import PriorityClass
from tramontane.domain.tenancy import Principal
from tramontane.runtime.clock import Clock
from tramontane.store import events
from tramontane.store.db import Database, Transaction
from tramontane.store.quotas import class_prices
from tramontane.store.quotas.class_prices import ClassPrice


class ClassPrices:
    """Use cases of prices of classes. A price holds for attempts that are accounted later."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def set(
        self, principal: Principal, priority_class: PriorityClass, device_hour_micro: int
    ) -> ClassPrice:
        """Let a device of that class cost this for an hour; 0: it is free."""
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> ClassPrice:
            if class_prices.get(tx, priority_class).device_hour_micro != device_hour_micro:
                class_prices.put(tx, priority_class, device_hour_micro, now_ms)
                events.append(tx, _event(priority_class, principal, device_hour_micro, now_ms))
            return class_prices.get(tx, priority_class)

        return self._db.write(write)

    def list(self) -> Sequence[ClassPrice]:
        """Return what each class costs, the free ones too, the highest first."""
        with self._db.read() as tx:
            return [class_prices.get(tx, each) for each in PriorityClass]


def _event(
    priority_class: PriorityClass, principal: Principal, device_hour_micro: int, now_ms: int
) -> Event:
    return Event(
        at_ms=now_ms,
        subject_id=f"class_{priority_class}",
        project_id=None,
        kind="class.priced",
        message=f"class {priority_class}: {device_hour_micro} micro-euros per device and hour",
        actor=principal.key_id,
        data={"device_hour_micro": device_hour_micro},
    )
