"""Any engine, with what a replica needs rounded up to what schedulers of clusters hand out.

Slurm gives whole processors and whole mebibytes. A planner that counted less would send more
replicas to a node than Slurm starts there, and the others would wait for ever.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tramontane.domain.catalog import Capabilities, ModelVersion
from tramontane.domain.deployment import DeploymentSpec
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.refusal import Refusal
from tramontane.domain.resources import Resources
from tramontane.engines.recipe import EngineRecipe

CPU_MILLICORES: Final = 1_000
MEMORY_BYTES: Final = 1 << 20


class InWholeUnits:
    """The recipe ``recipe``, whose replicas take whole processors and mebibytes."""

    def __init__(self, recipe: EngineRecipe) -> None:
        self._recipe = recipe
        self.name = recipe.name

    def check(
        self, spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion] = ()
    ) -> Refusal | None:
        """Return why the engine cannot serve this, or None."""
        return self._recipe.check(spec, version, adapters)

    def capabilities(self, spec: DeploymentSpec, version: ModelVersion) -> Capabilities:
        """Return what the engine can be asked with these weights, so configured."""
        return self._recipe.capabilities(spec, version)

    def resources(
        self, spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion] = ()
    ) -> Resources:
        """Return what one replica needs of its node, in whole units."""
        return in_whole_units(self._recipe.resources(spec, version, adapters))

    def launch(
        self,
        spec: DeploymentSpec,
        version: ModelVersion,
        *,
        served_name: str,
        secret: str,
        device_indexes: tuple[int, ...],
        adapters: Sequence[ModelVersion] = (),
    ) -> LaunchSpec:
        """Return what to start for one replica; it reserves whole units."""
        made = self._recipe.launch(
            spec,
            version,
            served_name=served_name,
            secret=secret,
            device_indexes=device_indexes,
            adapters=adapters,
        )
        return replace(made, resources=in_whole_units(made.resources))


def in_whole_units(need: Resources) -> Resources:
    """Return the least that schedulers hand out and that is no less than ``need``."""
    return replace(
        need,
        cpu_millicores=-(-need.cpu_millicores // CPU_MILLICORES) * CPU_MILLICORES,
        memory_bytes=-(-need.memory_bytes // MEMORY_BYTES) * MEMORY_BYTES,
    )
