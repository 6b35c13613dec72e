"""Writing a spec: what is checked before it may stand, and what is written beside it."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

from tramontane.domain.catalog import ModelVersion
from tramontane.domain.deployment import (
    AutoscaleSpec,
    Deployment,
    DeploymentSpec,
    DeploymentStatus,
    Scale,
    SpecChange,
)
from tramontane.domain.event import Event
from tramontane.domain.fleet import Node, NodeStatus
from tramontane.domain.planning.autoscale import first_scale
from tramontane.domain.refusal import Code, RefusedError, refuse
from tramontane.domain.resources import Resources
from tramontane.domain.tenancy import Principal
from tramontane.engines.recipe import EngineRecipe
from tramontane.runtime.clock import Clock
from tramontane.services.deployments import adapters
from tramontane.services.models import find_version
from tramontane.services.quotas.bounds import check_deployment
from tramontane.services.scope import deployment_named
from tramontane.store import catalog, deployments, events, fleet
from tramontane.store.db import Transaction


class SpecWriter:
    """Checks specs against the engines and the nodes, and writes those that pass."""

    def __init__(self, clock: Clock, recipes: Mapping[str, EngineRecipe]) -> None:
        self._clock = clock
        self._recipes = recipes

    def check(self, tx: Transaction, spec: DeploymentSpec, version: ModelVersion) -> None:
        """Refuse what the engine cannot do or no node could ever hold."""
        recipe = self._recipes.get(spec.engine)
        if recipe is None:
            message = f"there is no engine {spec.engine}: expected {_either(self._recipes)}"
            raise refuse(Code.INVALID_VALUE, message, param="engine")
        loaded = adapters.versions_of(tx, spec)
        refusal = recipe.check(spec, version, loaded)
        if refusal is not None:
            raise RefusedError(refusal)
        _check_fits(tx, spec, recipe.resources(spec, version, loaded))
        check_autoscale(spec.autoscale)

    def respecify(
        self,
        tx: Transaction,
        principal: Principal,
        seen: Deployment,
        spec: DeploymentSpec,
        kind: str,
    ) -> Deployment:
        """Write another spec; the generation grows when replicas of another kind are needed."""
        now_ms = self._clock.now_ms()
        check_deployment(tx, seen.project_id, spec, seen)
        new = replace(seen, spec=spec)
        if spec.autoscale != seen.spec.autoscale:
            new = replace(new, scale=scale_of(spec, now_ms))
        if spec.differs_in_kind(seen.spec):
            self.check(tx, spec, version_of(tx, spec))
            adapters.check_names(tx, new)
            # A corrected spec deserves a first try at once, not its predecessor's back-off.
            new = replace(
                new, generation=seen.generation + 1, failures=0, retry_at_ms=0, reason=None
            )
        check_autoscale(spec.autoscale)
        stored = deployments.update(tx, seen, new)
        message = f"deployment {seen.name} {kind.replace('_', ' ')}"
        message += f": {_difference(seen.spec, spec)}"
        events.append(tx, event(stored, principal, kind, message, now_ms))
        return stored


def scale_of(spec: DeploymentSpec, now_ms: int) -> Scale | None:
    """Return where autoscaling begins, None without it."""
    return None if spec.autoscale is None else first_scale(spec.autoscale, spec.replicas, now_ms)


def check_autoscale(autoscale: AutoscaleSpec | None) -> None:
    """Refuse bounds that are the wrong way round."""
    if autoscale is not None and autoscale.replicas_min > autoscale.replicas_max:
        message = (
            f"autoscale.replicas_min is {autoscale.replicas_min} and replicas_max is "
            f"{autoscale.replicas_max}: expected no more than that"
        )
        raise refuse(Code.INVALID_VALUE, message, param="autoscale.replicas_min")


def delete(tx: Transaction, principal: Principal, seen: Deployment, now_ms: int) -> Deployment:
    """Want it no more: its replicas drain, its name is free at once."""
    new = replace(seen, deleted_at_ms=now_ms, status=DeploymentStatus.STOPPING)
    stored = deployments.update(tx, seen, new)
    message = f"deployment {seen.name} deleted"
    events.append(tx, event(stored, principal, "deleted", message, now_ms))
    return stored


def changed(
    tx: Transaction, spec: DeploymentSpec, change: SpecChange, model: str | None
) -> DeploymentSpec:
    """Return ``spec`` with a change; ``model`` names another version."""
    named = {field.name: getattr(change, field.name) for field in fields(change)}
    if model is not None:
        named["model_version_id"] = find_version(tx, model).id
    if change.engine_options is not None:
        named["engine_options"] = tuple(sorted(change.engine_options))
    if change.adapters is not None:
        named["adapters"] = adapters.find(tx, change.adapters)
    changed = {name: value for name, value in named.items() if value is not None}
    if change.cluster is not None:
        changed["cluster"] = cluster_named(tx, change.cluster)
    return replace(spec, **changed)


def cluster_named(tx: Transaction, ref: str | None) -> str | None:
    """Return the name of the cluster ``ref`` (name or id), None for any."""
    if not ref:
        return None
    found = fleet.get_cluster(tx, ref)
    if found is not None:
        return found.name
    names = [cluster.name for cluster in fleet.list_clusters(tx)]
    near = difflib.get_close_matches(ref, names, n=1)
    hint = f"did you mean {near[0]}?" if near else "leave it out, to run on any"
    raise refuse(Code.INVALID_VALUE, f"there is no cluster {ref!a}: {hint}", param="cluster")


def writable(tx: Transaction, principal: Principal, ref: str, project: str | None) -> Deployment:
    """Return the deployment that may be changed; refused once it is being deleted."""
    seen = deployment_named(tx, principal, ref, project)
    if seen.deleted_at_ms is not None:
        message = f"the deployment {seen.name} is being deleted: create a new one instead"
        raise refuse(Code.CONFLICT, message)
    return seen


def version_of(tx: Transaction, spec: DeploymentSpec) -> ModelVersion:
    """Return the model version that ``spec`` wants; refused once it left the catalogue."""
    version = catalog.get_model_version(tx, spec.model_version_id)
    if version is None:
        message = "the deployment's model is no longer in the catalogue: name another `model`"
        raise refuse(Code.MODEL_NOT_FOUND, message, param="model")
    return version


def event(
    deployment: Deployment, principal: Principal, kind: str, message: str, now_ms: int
) -> Event:
    """Return an event about ``deployment`` that ``principal`` caused."""
    return Event(
        at_ms=now_ms,
        subject_id=deployment.id,
        project_id=deployment.project_id,
        kind=f"deployment.{kind}",
        message=message,
        actor=principal.key_id,
        data={"generation": deployment.generation, "replicas": deployment.spec.replicas},
    )


def bad_name(name: str) -> RefusedError:
    """Return the refusal of a name that is no DNS label."""
    message = (
        f"the name {name!a} is not a DNS label: expected 1 to 63 of a-z, 0-9 and inner "
        "hyphens, such as my-chat-1"
    )
    return refuse(Code.INVALID_VALUE, message, param="name")


def _check_fits(tx: Transaction, spec: DeploymentSpec, needed: Resources) -> None:
    """Refuse what is larger than every node. Without any node yet, it waits for one instead."""
    names = {cluster.id: cluster.name for cluster in fleet.list_clusters(tx)}
    nodes = [
        node
        for node in fleet.list_nodes(tx)
        if node.status is not NodeStatus.LOST and spec.cluster in {None, names[node.cluster_id]}
    ]
    large = [node for node in nodes if needed.fits_in(node.capacity)]
    if nodes and large:
        _check_rack(spec, needed, large)
    if not nodes or large:
        return
    nearest = min(nodes, key=lambda node: _distance(needed.shortfall(node.capacity)))
    lacking = needed.shortfall(nearest.capacity)
    message = (
        f"one replica needs {needed.describe()} and fits no node: the largest has "
        f"{nearest.capacity.describe()} and lacks {lacking.describe()}; ask for less "
        "(context_length, parallel, cpu_millicores, memory_bytes, devices) or add a larger node"
    )
    raise refuse(Code.DOES_NOT_FIT, message, param=_largest_lack(lacking))


def _check_rack(spec: DeploymentSpec, needed: Resources, large: Sequence[Node]) -> None:
    """Refuse more nodes of one rack than any rack has that are ``large`` enough."""
    counts = Counter(node.cluster_id for node in large)
    most = max(counts.values())
    if most < spec.nodes:
        message = (
            f"one replica needs {spec.nodes} nodes of one rack, each with {needed.describe()}, and "
            f"no rack has more than {most} such nodes: ask for fewer `nodes` or for less of each"
        )
        raise refuse(Code.DOES_NOT_FIT, message, param="nodes")


def _distance(shortfall: Resources) -> tuple[int, int, int]:
    """Order shortfalls: devices are the hardest to come by, then memory, then CPU."""
    return (shortfall.devices, shortfall.memory_bytes, shortfall.cpu_millicores)


def _largest_lack(lacking: Resources) -> str:
    if lacking.devices:
        return "devices"
    return "memory_bytes" if lacking.memory_bytes else "cpu_millicores"


def _difference(old: DeploymentSpec, new: DeploymentSpec) -> str:
    """Return what changed, such as ``replicas 1 -> 3``; options may be secret and stay out."""
    parts: list[str] = []
    for field in fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before != after:
            is_long = field.name in {"engine_options", "autoscale", "adapters"}
            parts.append(field.name if is_long else f"{field.name} {before} -> {after}")
    return ", ".join(parts)


def _either(names: Mapping[str, object]) -> str:
    return " or ".join(sorted(names))
