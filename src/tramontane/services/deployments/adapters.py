"""The adapters of deployments: finding their versions, and names that are each taken once.

Requests call an adapter by its name, as they call a deployment by its own: in a project no two of
all these may be the same. So a canary, which serves under the name of another, has none.
"""

from collections.abc import Iterable, Iterator

from tramontane.domain import ids as kinds
from tramontane.domain.catalog import ModelVersion
from tramontane.domain.deployment import AdapterSpec, Deployment, DeploymentSpec
from tramontane.domain.refusal import Code, RefusedError, refuse
from tramontane.services.models import find_version
from tramontane.store import catalog, deployments
from tramontane.store.db import Transaction


def find(tx: Transaction, wanted: Iterable[tuple[str, str]]) -> tuple[AdapterSpec, ...]:
    """Return the adapters that are ``wanted``, names with references to models, by name."""
    found: list[AdapterSpec] = []
    for name, ref in sorted(wanted):
        if kinds.prefix_of(name) is not None or not kinds.is_dns_label(name):
            message = (
                f"the name {name!a} of an adapter is not a DNS label: expected 1 to 63 of a-z, 0-9 "
                "and inner hyphens, such as legal-1"
            )
            raise refuse(Code.INVALID_VALUE, message, param="adapters")
        version = find_version(tx, ref, param="adapters")
        found.append(AdapterSpec(name, version.id))
    return tuple(found)


def versions_of(tx: Transaction, spec: DeploymentSpec) -> list[ModelVersion]:
    """Return the versions of the adapters; refused once one of them left the catalogue."""
    versions: list[ModelVersion] = []
    for adapter in spec.adapters:
        version = catalog.get_model_version(tx, adapter.model_version_id)
        if version is None:
            message = f"the model of the adapter {adapter.name} is no longer in the catalogue"
            raise refuse(Code.MODEL_NOT_FOUND, message, param="adapters")
        versions.append(version)
    return versions


def check_names(tx: Transaction, deployment: Deployment) -> None:
    """Refuse names that another deployment of the project, or an adapter of one, has."""
    own = {adapter.name for adapter in deployment.spec.adapters}
    if deployment.canary is not None and own:
        message = f"{deployment.name} is a canary, which serves no adapters: leave them out"
        raise refuse(Code.CONFLICT, message, param="adapters")
    if deployment.name in own:
        raise _taken(deployment.name, "the deployment itself", "adapters")
    for other in deployments.list_live(tx):
        if (
            other.project_id != deployment.project_id
            or other.deleted_at_ms is not None
            or other.id == deployment.id
        ):
            continue
        for name, holder in _names(other):
            if name in own:
                raise _taken(name, holder, "adapters")
            if name == deployment.name and name != other.name:  # equal ones the store refuses
                raise _taken(name, holder, "name")


def _names(deployment: Deployment) -> Iterator[tuple[str, str]]:
    yield deployment.name, f"the deployment {deployment.name}"
    for adapter in deployment.spec.adapters:
        yield adapter.name, f"an adapter of the deployment {deployment.name}"


def _taken(name: str, holder: str, param: str) -> RefusedError:
    message = f"the name {name} is taken by {holder}: choose another"
    return refuse(Code.NAME_TAKEN, message, param=param)
