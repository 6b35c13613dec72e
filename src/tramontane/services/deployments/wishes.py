"""What is asked of deployments, and how they are described in answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tramontane.domain.deployment import AdapterSpec, AutoscaleSpec, Deployment, SpecChange
from tramontane.domain.launch import PriorityClass
from tramontane.store import catalog, deployments
from tramontane.store.db import Transaction

# What a first deployment gets when it does not ask: memory for the context grows with its length,
# and 4096 tokens fit a conversation while a model's own 131,072 may not fit the machine.
CONTEXT_LENGTH_DEFAULT: Final = 4_096
PARALLEL_DEFAULT: Final = 4


@dataclass(frozen=True, slots=True)
class NewDeployment:
    """A wish for a deployment; None lets the model or the engine decide.

    ``adapters`` are names, each with a reference to a model.
    """

    name: str
    model: str
    replicas: int = 1
    engine: str | None = None
    context_length: int | None = None
    parallel: int = PARALLEL_DEFAULT
    devices: int = 0
    cpu_millicores: int | None = None
    memory_bytes: int | None = None
    engine_options: tuple[tuple[str, str], ...] = ()
    autoscale: AutoscaleSpec | None = None
    adapters: tuple[tuple[str, str], ...] = ()
    cluster: str | None = None
    nodes: int = 1
    priority_class: PriorityClass = PriorityClass.STANDARD
    project: str | None = None


@dataclass(frozen=True, slots=True)
class CanaryWish:
    """A wish for a canary, or for a change of one; None leaves things as they are.

    ``percent`` of the requests go to it. ``name`` is its own, by which it can be called alone.
    ``model`` and ``change`` say how it differs from what it is a canary of.
    """

    percent: int | None = None
    name: str | None = None
    model: str | None = None
    change: SpecChange = SpecChange()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class DescribedAdapter:
    """An adapter of a deployment, with the name and version of its model if they still exist."""

    spec: AdapterSpec
    model_name: str | None
    model_number: int | None


@dataclass(frozen=True, slots=True)
class DescribedDeployment:
    """A deployment with the name and version of its model, None once that is deleted.

    ``canary`` is its canary, if it has one; ``adapters`` are those that it loads.
    """

    deployment: Deployment
    model_name: str | None
    model_number: int | None
    canary: Deployment | None = None
    adapters: tuple[DescribedAdapter, ...] = ()


def described(
    tx: Transaction, deployment: Deployment, canaries: Mapping[str, Deployment] | None = None
) -> DescribedDeployment:
    """Return ``deployment`` with its model and canary; ``canaries`` of all, if they are known."""
    if canaries is None:
        canaries = deployments.list_canaries(tx)
    spec = deployment.spec
    return DescribedDeployment(
        deployment,
        *_named(tx, spec.model_version_id),
        canaries.get(deployment.id),
        tuple(DescribedAdapter(it, *_named(tx, it.model_version_id)) for it in spec.adapters),
    )


def _named(tx: Transaction, version_id: str) -> tuple[str | None, int | None]:
    version = catalog.get_model_version(tx, version_id)
    model = catalog.get_model(tx, version.model_id) if version else None
    return model.name if model else None, version.number if version else None
