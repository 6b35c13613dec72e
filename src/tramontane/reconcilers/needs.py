"""What one more replica of each deployment needs, as its engine's recipe says."""

from collections.abc import Collection, Mapping

from tramontane.domain.catalog import ModelVersion
from tramontane.domain.deployment import Deployment
from tramontane.domain.launch import Tenancy
from tramontane.domain.planning.snapshot import KeptRack, Need
from tramontane.engines.recipe import EngineRecipe
from tramontane.store import catalog, tenancy
from tramontane.store.db import Transaction
from tramontane.store.quotas import reservations

Recipes = Mapping[str, EngineRecipe]
Versions = Mapping[str, ModelVersion]


def read_versions(
    tx: Transaction, deployments: Collection[Deployment], known: Versions
) -> dict[str, ModelVersion]:
    """Return the model versions that ``deployments`` want, those of adapters too, by id.

    A version never changes, so one that is ``known`` is not read again: a pass over a fleet at
    rest reads none.
    """
    versions: dict[str, ModelVersion] = {}
    wanted = {deployment.spec.model_version_id for deployment in deployments}
    wanted |= {it.model_version_id for each in deployments for it in each.spec.adapters}
    for version_id in wanted:
        version = known.get(version_id) or catalog.get_model_version(tx, version_id)
        if version is not None:
            versions[version_id] = version
    return versions


def need_of(deployment: Deployment, versions: Versions, recipes: Recipes) -> Need:
    """Return what one more replica needs, or in words why there can be none."""
    spec = deployment.spec
    version = versions.get(spec.model_version_id)
    if version is None:
        return Need(deployment.id, None, "its model version is not in the catalogue")
    recipe = recipes.get(spec.engine)
    if recipe is None:
        known = ", ".join(sorted(recipes))
        return Need(deployment.id, None, f"there is no engine {spec.engine!r}; known: {known}")
    adapters = adapters_of(deployment, versions)
    if len(adapters) < len(spec.adapters):
        return Need(deployment.id, None, "one of its adapters is not in the catalogue")
    refusal = recipe.check(spec, version, adapters)
    if refusal is not None:
        return Need(deployment.id, None, refusal.message)
    return Need(deployment.id, recipe.resources(spec, version, adapters))


def adapters_of(deployment: Deployment, versions: Versions) -> list[ModelVersion]:
    """Return the versions of the adapters that the deployment wants, as far as they exist."""
    found = (versions.get(adapter.model_version_id) for adapter in deployment.spec.adapters)
    return [version for version in found if version is not None]


def tenancy_of(tx: Transaction, project_id: str) -> Tenancy | None:
    """Return whose the project is, by name; None when it is gone."""
    project = tenancy.get_project(tx, project_id)
    owner = tenancy.get_organization(tx, project.organization_id) if project else None
    return Tenancy(owner.name, project.name) if project and owner else None


def read_kept_racks(tx: Transaction, live: Collection[Deployment]) -> tuple[KeptRack, ...]:
    """Return the racks that are reserved, each with those projects of ``live`` that may use it."""
    kept = reservations.ROWS.list_all(tx)
    if not kept:
        return ()
    projects = (tenancy.get_project(tx, it) for it in {each.project_id for each in live})
    owners = {project.id: project.organization_id for project in projects if project is not None}
    return tuple(
        KeptRack(
            it.cluster,
            it.rack,
            tuple(sorted(id_ for id_, owner in owners.items() if owner == it.organization_id)),
        )
        for it in kept
    )
