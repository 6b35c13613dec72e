"""Prices of models: set by operators, read by everybody who may call models."""

from collections.abc import Callable
from dataclasses import dataclass

from tramontane.domain.catalog import Model
from tramontane.domain.event import Event
from tramontane.domain.spending.pricing import FREE
from tramontane.domain.spending.pricing import Prices as PriceValues
from tramontane.domain.tenancy import Principal
from tramontane.runtime.clock import Clock
from tramontane.services.scope import Page, not_found
from tramontane.store import catalog, events
from tramontane.store.db import Database, Transaction
from tramontane.store.spending import prices
from tramontane.store.spending.prices import StoredPrices


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A model of the catalogue and what it costs."""

    model: Model
    stored: StoredPrices


class Prices:
    """Use cases of prices. ``wake`` is called after a change, so that gateways hear of it.

    A price holds for the requests that a gateway admits after it heard of it.
    """

    def __init__(self, db: Database, clock: Clock, wake: Callable[[], None]) -> None:
        self._db = db
        self._clock = clock
        self._wake = wake

    def set(self, principal: Principal, ref: str, new: PriceValues) -> PricedModel:
        """Give the model these prices, in place of those that it had; all zero: it is free."""
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> PricedModel:
            model = _model(tx, ref)
            if prices.get(tx, model.id).prices != new:
                prices.put(tx, model.id, new, now_ms)
                events.append(tx, _event(model, principal, new, now_ms))
            return PricedModel(model, prices.get(tx, model.id))

        priced = self._db.write(write)
        self._wake()
        return priced

    def get(self, ref: str) -> PricedModel:
        """Return what the model costs."""
        with self._db.read() as tx:
            model = _model(tx, ref)
            return PricedModel(model, prices.get(tx, model.id))

    def list(self, *, after: str | None, limit: int) -> Page[PricedModel]:
        """Return a page of the catalogue with prices, free models too."""
        with self._db.read() as tx:
            found = catalog.list_models(tx, after=after, limit=limit + 1)
            items = [PricedModel(each, prices.get(tx, each.id)) for each in found[:limit]]
        return Page(items, len(found) > limit)

    def remove(self, principal: Principal, ref: str) -> PricedModel:
        """Make the model free."""
        return self.set(principal, ref, FREE)


def _model(tx: Transaction, ref: str) -> Model:
    model = catalog.get_model(tx, ref)
    if model is None:
        raise not_found("model", ref)
    return model


def _event(model: Model, principal: Principal, new: PriceValues, now_ms: int) -> Event:
    return Event(
        at_ms=now_ms,
        subject_id=model.id,
        project_id=None,
        kind="model.priced",
        message=f"model {model.name}: {'free' if new.are_zero else 'given new prices'}",
        actor=principal.key_id,
        data={
            "prompt_micro": new.prompt_micro,
            "completion_micro": new.completion_micro,
            "cached_micro": new.cached_micro,
            "request_micro": new.request_micro,
        },
    )
