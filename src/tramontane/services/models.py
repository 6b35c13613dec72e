"""The catalogue: weights are imported by operators and visible to every project."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tramontane.domain import ids as kinds
from tramontane.domain.catalog import Model, ModelVersion, VersionKind
from tramontane.domain.event import Event
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import Principal
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.scope import Page, not_found
from tramontane.services.weights_files import InspectedWeights, check_adapter, inspect
from tramontane.store import catalog, deployments, events
from tramontane.store.db import Database, Transaction

# Hashing keeps a core and the disk busy; two at a time leave the control plane responsive.
IMPORTS_MAX: Final = 2
_BUSY_RETRY_S: Final = 30


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model with its versions, newest first; there is always at least one."""

    model: Model
    versions: tuple[ModelVersion, ...]

    @property
    def latest(self) -> ModelVersion:
        """Return the newest version."""
        return self.versions[0]


class Models:
    """Use cases of models; ``root`` is the folder that models must lie in, None for anywhere."""

    def __init__(self, db: Database, clock: Clock, ids: IdSource, root: Path | None) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._root = root
        self._imports = threading.BoundedSemaphore(IMPORTS_MAX)

    def import_weights(
        self,
        principal: Principal,
        *,
        name: str,
        path: str,
        digest: str | None = None,
        licence: str | None = None,
        base: str | None = None,
        is_shipped: bool = False,
    ) -> CatalogueEntry:
        """Read the weights at ``path`` and make them the newest version of the model ``name``.

        A LoRA adapter needs ``base``, a reference to the model that it was made for.

        The same weights again change nothing, unless the files of the known version are gone:
        then the new place is a new version. Refused unless the licence is in the files or given.
        Weights that ship with us (``is_shipped``) may lie outside of the models' folder.
        """
        if kinds.prefix_of(name) is not None:
            message = f"the name {name} has the form of an id: choose another name"
            raise refuse(Code.INVALID_VALUE, message, param="name")
        if not self._imports.acquire(blocking=False):
            message = f"{IMPORTS_MAX} imports are running, which is the limit: try again later"
            raise refuse(Code.UNAVAILABLE, message, retry_after_s=_BUSY_RETRY_S)
        try:
            weights = inspect(path, None if is_shipped else self._root)
        finally:
            self._imports.release()
        if digest is not None and digest != weights.digest:
            message = (
                f"the weights at {path} have the digest {weights.digest}, expected {digest}: "
                "copy them again, or give the digest that you trust"
            )
            raise refuse(Code.DIGEST_MISMATCH, message, param="digest")
        adapted = self._base_of(path, weights, base)
        agreed = licence or weights.facts.licence
        if agreed is None:
            message = (
                "the files do not name a licence: give it as `licence`, such as Apache-2.0 "
                "(tramontane models import --licence)"
            )
            raise refuse(Code.MISSING_REQUIRED_PARAMETER, message, param="licence")
        moved = self._moved(name, weights)
        return self._db.write(
            self._recording(principal, name, weights, licence=agreed, moved=moved, base=adapted)
        )

    def get(self, ref: str) -> CatalogueEntry:
        """Return the model with the id or name ``ref``."""
        with self._db.read() as tx:
            return _entry(tx, _get(tx, ref))

    def list(self, *, after: str | None, limit: int) -> Page[CatalogueEntry]:
        """Return a page of the catalogue."""
        with self._db.read() as tx:
            found = catalog.list_models(tx, after=after, limit=limit + 1)
            entries = [_entry(tx, model) for model in found[:limit]]
        return Page(entries, len(found) > limit)

    def delete(self, principal: Principal, ref: str) -> Model:
        """Take the model out of the catalogue; the files stay. Refused while it is deployed."""

        def write(tx: Transaction) -> Model:
            model = _get(tx, ref)
            if deployments.uses_model_version(tx, model.id):
                message = f"the model {model.name} is deployed: delete its deployments first"
                raise refuse(Code.IN_USE, message)
            adapters = catalog.adapters_of(tx, model.id)
            if adapters:
                message = f"{adapters[0]} is an adapter of {model.name}: delete it first"
                raise refuse(Code.IN_USE, message)
            catalog.delete_model(tx, model)
            now_ms = self._clock.now_ms()
            events.append(tx, _event(model, principal, "deleted", "deleted", now_ms))
            return model

        return self._db.write(write)

    def _base_of(
        self, path: str, weights: InspectedWeights, base: str | None
    ) -> ModelVersion | None:
        """Return the version that an adapter was made for and fits; None for a model."""
        if weights.facts.adapts is None:
            if base is None:
                return None
            message = f"the weights at {path} are a model, no adapter: leave `base` out"
            raise refuse(Code.INVALID_VALUE, message, param="base")
        if base is None:
            message = (
                f"the weights at {path} are an adapter: name the model that it was made for as "
                "`base` (tramontane models import --base)"
            )
            raise refuse(Code.MISSING_REQUIRED_PARAMETER, message, param="base")
        with self._db.read() as tx:
            adapted = find_version(tx, base, param="base")
        if adapted.kind is VersionKind.ADAPTER:
            message = f"the base {base} is an adapter itself: name the model that it is for"
            raise refuse(Code.INVALID_VALUE, message, param="base")
        check_adapter(weights, adapted)
        return adapted

    def _moved(self, name: str, weights: InspectedWeights) -> frozenset[str]:
        """Return the ids of versions with these weights whose files are no longer there."""
        with self._db.read() as tx:
            model = catalog.get_model(tx, name)
            known = catalog.list_model_versions(tx, model.id) if model else []
        return frozenset(
            version.id
            for version in known
            if version.digest == weights.digest and not os.path.lexists(version.path)
        )

    def _recording(
        self,
        principal: Principal,
        name: str,
        weights: InspectedWeights,
        *,
        licence: str,
        moved: frozenset[str],
        base: ModelVersion | None,
    ) -> "Callable[[Transaction], CatalogueEntry]":
        model_id, version_id = self._ids.new(kinds.MODEL), self._ids.new(kinds.MODEL_VERSION)
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> CatalogueEntry:
            model = catalog.get_model(tx, name)
            if model is None:
                model = Model(model_id, name, now_ms)
                catalog.insert_model(tx, model)
                events.append(tx, _event(model, principal, "created", "created", now_ms))
            known = catalog.list_model_versions(tx, model.id)
            _check_kind(model, known, base)
            same = [item for item in known if item.digest == weights.digest]
            for item in same:
                told = weights.facts.capabilities
                if base is None and item.capabilities != told:  # read by an older version
                    catalog.set_capabilities(tx, item.id, told)
            if all(item.id in moved for item in same):
                number = known[-1].number + 1 if known else 1
                version = _version(
                    version_id=version_id,
                    model_id=model.id,
                    number=number,
                    weights=weights,
                    licence=licence,
                    now_ms=now_ms,
                    base=base,
                )
                catalog.insert_model_version(tx, version)
                what = f"version {number} imported, {weights.digest}"
                events.append(tx, _event(model, principal, "imported", what, now_ms))
            return _entry(tx, model)

        return write


def find_version(tx: Transaction, ref: str, *, param: str = "model") -> ModelVersion:
    """Return the version that ``ref`` means: NAME or id (the newest), NAME:NUMBER, or its id."""
    if kinds.prefix_of(ref) == kinds.MODEL_VERSION:
        version = catalog.get_model_version(tx, ref)
    else:
        name, _, number = ref.partition(":")
        model = catalog.get_model(tx, name)
        if model is None:
            version = None
        elif number:
            known = catalog.list_model_versions(tx, model.id)
            version = next((item for item in known if str(item.number) == number), None)
        else:
            version = catalog.latest_version(tx, model.id)
    if version is None:
        message = (
            f"there is no model {ref} in the catalogue: "
            "`tramontane models list` names those that are; an operator imports new ones"
        )
        raise refuse(Code.MODEL_NOT_FOUND, message, param=param)
    return version


def _check_kind(model: Model, known: list[ModelVersion], base: ModelVersion | None) -> None:
    """Refuse a version that is another kind of thing than those before it."""
    wanted = None if base is None else base.model_id
    if all(version.base_model_id == wanted for version in known):
        return
    was = "a model" if known[-1].base_model_id is None else "an adapter of its base model"
    message = f"{model.name} is {was}: import this under another name"
    raise refuse(Code.CONFLICT, message, param="name")


def _get(tx: Transaction, ref: str) -> Model:
    model = catalog.get_model(tx, ref)
    if model is None:
        raise not_found("model", ref)
    return model


def _entry(tx: Transaction, model: Model) -> CatalogueEntry:
    return CatalogueEntry(model, tuple(reversed(catalog.list_model_versions(tx, model.id))))


def _version(
    *,
    version_id: str,
    model_id: str,
    number: int,
    weights: InspectedWeights,
    licence: str,
    now_ms: int,
    base: ModelVersion | None,
) -> ModelVersion:
    facts = weights.facts
    told = facts if base is None else base
    return ModelVersion(
        id=version_id,
        model_id=model_id,
        number=number,
        format=facts.format,
        path=weights.path,
        digest=weights.digest,
        size_bytes=weights.size_bytes,
        architecture=told.architecture,
        context_length=told.context_length,
        precision=facts.precision,
        licence=licence,
        created_at_ms=now_ms,
        parameters=facts.parameters,
        capabilities=told.capabilities,
        base_model_id=base.model_id if base else None,
        adapter_rank=max(pair.rank for pair in facts.adapts) if facts.adapts else None,
    )


def _event(model: Model, principal: Principal, kind: str, what: str, now_ms: int) -> Event:
    return Event(
        at_ms=now_ms,
        subject_id=model.id,
        project_id=None,
        kind=f"model.{kind}",
        message=f"model {model.name}: {what}",
        actor=principal.key_id,
    )
