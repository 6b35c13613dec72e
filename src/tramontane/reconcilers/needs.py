"""What one more replica of each deployment needs, as its engine's recipe says."""

from collections.abc import Iterable, Mapping

from tramontane.domain.catalog import ModelVersion
from tramontane.domain.deployment import Deployment
from tramontane.domain.planning.snapshot import Need
from tramontane.engines.recipe import EngineRecipe
from tramontane.store import catalog
from tramontane.store.db import Transaction

Recipes = Mapping[str, EngineRecipe]
Versions = Mapping[str, ModelVersion]


def read_versions(
    tx: Transaction, deployments: Iterable[Deployment], known: Versions
) -> dict[str, ModelVersion]:
    """Return the model versions that ``deployments`` want, by id.

    A version never changes, so one that is ``known`` is not read again: a pass over a fleet at
    rest reads none.
    """
    versions: dict[str, ModelVersion] = {}
    for version_id in {deployment.spec.model_version_id for deployment in deployments}:
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
    refusal = recipe.check(spec, version)
    if refusal is not None:
        return Need(deployment.id, None, refusal.message)
    return Need(deployment.id, recipe.resources(spec, version))
