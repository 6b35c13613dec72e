"""What an engine recipe is: pure answers about a deployment's spec and a model version."""

from collections.abc import Sequence
from typing import Protocol

from tramontane.domain.catalog import Capabilities, ModelVersion
from tramontane.domain.deployment import DeploymentSpec
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.refusal import Refusal
from tramontane.domain.resources import Resources


class EngineRecipe(Protocol):
    """One engine. It knows neither the node nor the time; what it returns depends on nothing else.

    `resources` and `launch` may only be asked after `check` returned None; else they raise
    ValueError, which is a bug of the caller.
    """

    @property
    def name(self) -> str:
        """The word for it in a deployment's spec."""
        ...

    def check(
        self, spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion] = ()
    ) -> Refusal | None:
        """Return why the engine cannot serve this, or None.

        ``adapters`` are the versions of ``spec.adapters``, in their order.
        """
        ...

    def capabilities(self, spec: DeploymentSpec, version: ModelVersion) -> Capabilities:
        """Return what the engine can be asked with these weights, so configured."""
        ...

    def resources(
        self, spec: DeploymentSpec, version: ModelVersion, adapters: Sequence[ModelVersion] = ()
    ) -> Resources:
        """Return what one replica needs of its node, rather too much than too little."""
        ...

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
        """Return what to start for one replica. ``secret`` stands in its environment only."""
        ...
