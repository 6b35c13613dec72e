"""The catalogue: models and their immutable versions."""

from sqlalchemy import delete, select, update

from tramontane.domain import ids
from tramontane.domain.catalog import Capabilities, Model, ModelVersion, WeightsFormat
from tramontane.store.codec import decode_capabilities, encode_capabilities
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.errors import StaleError
from tramontane.store.statements import LIMIT_DEFAULT, insert_if_free, insert_named, page
from tramontane.store.tables import model_versions, models, prices


def insert_model(tx: Transaction, model: Model) -> None:
    """Insert it; `NameTakenError` when another model has the name."""
    values = {
        "id": model.id,
        "name": model.name,
        "created_at_ms": model.created_at_ms,
        "revision": model.revision,
    }
    insert_named(tx, models, values, noun="model")


def get_model(tx: Transaction, ref: str) -> Model | None:
    """Return the model with the id or name ``ref``."""
    column = models.c.id if ids.prefix_of(ref) == ids.MODEL else models.c.name
    row = tx.execute(select(models).where(column == ref)).one_or_none()
    return _model(row) if row else None


def list_models(
    tx: Transaction, *, after: str | None = None, limit: int = LIMIT_DEFAULT
) -> list[Model]:
    """Return a page of the catalogue, oldest first."""
    return [_model(row) for row in page(tx, models, after=after, limit=limit)]


def delete_model(tx: Transaction, model: Model) -> None:
    """Remove the model, its versions and prices; `StaleError` if it moved on since it was read.

    The caller checks in the same transaction that no deployment uses it.
    """
    tx.execute(delete(prices).where(prices.c.model_id == model.id))
    tx.execute(delete(model_versions).where(model_versions.c.model_id == model.id))
    guarded = delete(models).where(models.c.id == model.id, models.c.revision == model.revision)
    if tx.execute(guarded).rowcount != 1:
        raise StaleError("model", model.id)


def insert_model_version(tx: Transaction, version: ModelVersion) -> None:
    """Insert it; `StaleError` when the model already has a version of that number."""
    values = {
        "id": version.id,
        "model_id": version.model_id,
        "number": version.number,
        "format": version.format.value,
        "path": version.path,
        "digest": version.digest,
        "size_bytes": version.size_bytes,
        "architecture": version.architecture,
        "context_length": version.context_length,
        "precision": version.precision,
        "licence": version.licence,
        "created_at_ms": version.created_at_ms,
        "parameters": version.parameters,
        "capabilities": encode_capabilities(version.capabilities),
        "base_model_id": version.base_model_id,
        "adapter_rank": version.adapter_rank,
    }
    if not insert_if_free(tx, model_versions, values, unique=("model_id", "number")):
        raise StaleError("model", version.model_id)


def set_capabilities(tx: Transaction, version_id: str, capabilities: Capabilities) -> None:
    """Write what is now known of the version: all else of it never changes."""
    values = {"capabilities": encode_capabilities(capabilities)}
    tx.execute(update(model_versions).where(model_versions.c.id == version_id).values(values))


def get_model_version(tx: Transaction, version_id: str) -> ModelVersion | None:
    """Return the version with that id."""
    query = select(model_versions).where(model_versions.c.id == version_id)
    row = tx.execute(query).one_or_none()
    return _version(row) if row else None


def list_model_versions(tx: Transaction, model_id: str) -> list[ModelVersion]:
    """Return every version of the model, lowest number first."""
    query = (
        select(model_versions)
        .where(model_versions.c.model_id == model_id)
        .order_by(model_versions.c.number)
    )
    return [_version(row) for row in tx.execute(query)]


def latest_version(tx: Transaction, model_id: str) -> ModelVersion | None:
    """Return the model's version of the highest number."""
    query = (
        select(model_versions)
        .where(model_versions.c.model_id == model_id)
        .order_by(model_versions.c.number.desc())
        .limit(1)
    )
    row = tx.execute(query).one_or_none()
    return _version(row) if row else None


def adapters_of(tx: Transaction, model_id: str) -> list[str]:
    """Return the names of the models that are adapters of ``model_id``."""
    query = (
        select(models.c.name)
        .join(model_versions, model_versions.c.model_id == models.c.id)
        .where(model_versions.c.base_model_id == model_id)
        .distinct()
        .order_by(models.c.name)
    )
    return list(tx.execute(query).scalars())


def _model(row: AnyRow) -> Model:
    return Model(id=row.id, name=row.name, created_at_ms=row.created_at_ms, revision=row.revision)


def _version(row: AnyRow) -> ModelVersion:
    return ModelVersion(
        id=row.id,
        model_id=row.model_id,
        number=row.number,
        format=WeightsFormat(row.format),
        path=row.path,
        digest=row.digest,
        size_bytes=row.size_bytes,
        architecture=row.architecture,
        context_length=row.context_length,
        precision=row.precision,
        licence=row.licence,
        created_at_ms=row.created_at_ms,
        parameters=row.parameters,
        capabilities=decode_capabilities(row.capabilities),
        base_model_id=row.base_model_id,
        adapter_rank=row.adapter_rank,
    )
