"""Deployments: the desired state and what became of it."""

from dataclasses import replace

from sqlalchemy import ColumnElement, select

from tramontane.domain import ids
from tramontane.domain.deployment import Deployment, DeploymentStatus
from tramontane.store.codec import (
    decode_canary,
    decode_scale,
    decode_spec,
    encode_canary,
    encode_scale,
    encode_spec,
)
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.statements import LIMIT_DEFAULT, insert_named, page, update_guarded
from tramontane.store.tables import (
    DEPLOYMENT_IS_LIVE,
    DEPLOYMENT_IS_NAMED,
    deployments,
    model_versions,
)


def insert(tx: Transaction, deployment: Deployment) -> None:
    """Insert it; `NameTakenError` when another one of the project, not deleted, has the name."""
    values = _values(deployment) | {
        "id": deployment.id,
        "project_id": deployment.project_id,
        "created_at_ms": deployment.created_at_ms,
        "revision": deployment.revision,
    }
    insert_named(
        tx,
        deployments,
        values,
        noun="deployment",
        unique=("project_id", "name"),
        where=DEPLOYMENT_IS_NAMED,
    )


def get_for(tx: Transaction, project_id: str | None, ref: str) -> Deployment | None:
    """Return the deployment with the id or name ``ref`` if ``project_id`` may see it.

    None sees all projects; a name that several projects use then belongs to none of them: the
    caller must give the id. An id finds a deleted deployment too (see ``deleted_at_ms``), a name
    only one that is not deleted.
    """
    if ids.prefix_of(ref) == ids.DEPLOYMENT:
        wanted = [deployments.c.id == ref]
    else:
        wanted = [deployments.c.name == ref, DEPLOYMENT_IS_NAMED]
    query = select(deployments).where(*wanted, *_of_project(project_id)).limit(2)
    rows = tx.execute(query).all()
    return _deployment(rows[0]) if len(rows) == 1 else None


def list_for(
    tx: Transaction,
    project_id: str | None,
    *,
    after: str | None = None,
    limit: int = LIMIT_DEFAULT,
) -> list[Deployment]:
    """Return a page of the project's live deployments (None: of all projects), oldest first."""
    rows = page(
        tx,
        deployments,
        scope=_of_project(project_id),
        filters=[DEPLOYMENT_IS_LIVE],
        after=after,
        limit=limit,
    )
    return [_deployment(row) for row in rows]


def list_live(tx: Transaction) -> list[Deployment]:
    """Return every deployment but those that are deleted and fully stopped, oldest first."""
    query = (
        select(deployments)
        .where(DEPLOYMENT_IS_LIVE)
        .order_by(deployments.c.created_at_ms, deployments.c.id)
    )
    return [_deployment(row) for row in tx.execute(query)]


def list_canaries(tx: Transaction) -> dict[str, Deployment]:
    """Return the canaries that are not deleted, each by the id of what it is a canary of."""
    query = select(deployments).where(deployments.c.canary.is_not(None), DEPLOYMENT_IS_NAMED)
    found = [_deployment(row) for row in tx.execute(query)]
    return {it.canary.of_id: it for it in found if it.canary is not None}


def autoscaled_ids(tx: Transaction) -> frozenset[str]:
    """Return the ids of the deployments that scale by themselves; cheap enough to ask often."""
    query = select(deployments.c.id).where(deployments.c.scale.is_not(None), DEPLOYMENT_IS_NAMED)
    return frozenset(tx.execute(query).scalars())


def update(tx: Transaction, seen: Deployment, new: Deployment) -> Deployment:
    """Write ``new`` over ``seen`` and return it with its revision; `StaleError` if it moved on."""
    revision = update_guarded(
        tx,
        deployments,
        noun="deployment",
        seen_id=seen.id,
        seen_revision=seen.revision,
        values=_values(new),
    )
    return replace(new, revision=revision)


def uses_model_version(tx: Transaction, model_id: str) -> bool:
    """Tell whether a live deployment wants any version of the model, as an adapter too."""
    query = select(model_versions.c.id).where(model_versions.c.model_id == model_id)
    versions = frozenset(tx.execute(query).scalars())
    specs = (deployment.spec for deployment in list_live(tx))
    return any(
        spec.model_version_id in versions
        or any(adapter.model_version_id in versions for adapter in spec.adapters)
        for spec in specs
    )


def _of_project(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [deployments.c.project_id == project_id]


def _values(deployment: Deployment) -> dict[str, object]:
    return {
        "name": deployment.name,
        "model_version_id": deployment.spec.model_version_id,
        "spec": encode_spec(deployment.spec),
        "generation": deployment.generation,
        "observed_generation": deployment.observed_generation,
        "status": deployment.status.value,
        "ready_replicas": deployment.ready_replicas,
        "reason": deployment.reason,
        "failures": deployment.failures,
        "retry_at_ms": deployment.retry_at_ms,
        "start_ms": deployment.start_ms,
        "deleted_at_ms": deployment.deleted_at_ms,
        "scale": None if deployment.scale is None else encode_scale(deployment.scale),
        "canary": None if deployment.canary is None else encode_canary(deployment.canary),
    }


def _deployment(row: AnyRow) -> Deployment:
    return Deployment(
        id=row.id,
        project_id=row.project_id,
        name=row.name,
        spec=decode_spec(row.spec),
        generation=row.generation,
        created_at_ms=row.created_at_ms,
        observed_generation=row.observed_generation,
        status=DeploymentStatus(row.status),
        ready_replicas=row.ready_replicas,
        reason=row.reason,
        failures=row.failures,
        retry_at_ms=row.retry_at_ms,
        start_ms=row.start_ms,
        deleted_at_ms=row.deleted_at_ms,
        scale=None if row.scale is None else decode_scale(row.scale),
        canary=None if row.canary is None else decode_canary(row.canary),
        revision=row.revision,
    )
