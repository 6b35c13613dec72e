"""Deployments: what a project wants to be served. The reconcilers make it so.

A request here changes the spec and nothing else; the answer is "pending" at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

from tramontane.domain import ids as kinds
from tramontane.domain.catalog import ModelVersion
from tramontane.domain.deployment import Deployment, DeploymentSpec, DeploymentStatus, SpecChange
from tramontane.domain.event import Event
from tramontane.domain.fleet import NodeStatus
from tramontane.domain.refusal import Code, RefusedError, refuse
from tramontane.domain.resources import Resources
from tramontane.domain.tenancy import Principal
from tramontane.engines.recipe import EngineRecipe
from tramontane.engines.recipes import default_engine
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.models import find_version
from tramontane.services.scope import (
    Page,
    deployment_named,
    list_scope,
    live_project_named,
)
from tramontane.store import catalog, deployments, events, fleet
from tramontane.store.db import Database, Transaction

# What a first deployment gets when it does not ask: memory for the context grows with its length,
# and 4096 tokens fit a conversation while a model's own 131,072 may not fit the machine.
CONTEXT_LENGTH_DEFAULT: Final = 4_096
PARALLEL_DEFAULT: Final = 4


@dataclass(frozen=True, slots=True)
class NewDeployment:
    """A wish for a deployment; None lets the model or the engine decide."""

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
    project: str | None = None


@dataclass(frozen=True, slots=True)
class DescribedDeployment:
    """A deployment with the name and version of its model, None once that is deleted."""

    deployment: Deployment
    model_name: str | None
    model_number: int | None


class Deployments:
    """Use cases of deployments. ``wake`` is called after a change, outside of transactions."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: IdSource,
        recipes: Mapping[str, EngineRecipe],
        wake: Callable[[], None],
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._recipes = recipes
        self._wake = wake

    def create(self, principal: Principal, wish: NewDeployment) -> DescribedDeployment:
        """Record a new deployment; refused when it could never run as it is wished."""
        if kinds.prefix_of(wish.name) is not None or not kinds.is_dns_label(wish.name):
            raise _bad_name(wish.name)
        deployment_id = self._ids.new(kinds.DEPLOYMENT)
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> DescribedDeployment:
            project = live_project_named(tx, principal, wish.project)
            version = find_version(tx, wish.model)
            spec = _spec(wish, version)
            self._check(tx, spec, version)
            deployment = Deployment(
                id=deployment_id,
                project_id=project.id,
                name=wish.name,
                spec=spec,
                generation=1,
                created_at_ms=now_ms,
            )
            deployments.insert(tx, deployment)
            message = f"deployment {wish.name} of {wish.model} created, {spec.replicas} wanted"
            events.append(tx, _event(deployment, principal, "created", message, now_ms))
            return _described(tx, deployment)

        created = self._db.write(write)
        self._wake()
        return created

    def get(self, principal: Principal, ref: str, project: str | None) -> DescribedDeployment:
        """Return one deployment; a deleted one too, by its id, until it has stopped."""
        with self._db.read() as tx:
            return _described(tx, deployment_named(tx, principal, ref, project))

    def list(
        self, principal: Principal, *, project: str | None, after: str | None, limit: int
    ) -> Page[DescribedDeployment]:
        """Return a page of the deployments that the principal may see."""
        with self._db.read() as tx:
            scope = list_scope(tx, principal, project)
            found = deployments.list_for(tx, scope, after=after, limit=limit + 1)
            described = [_described(tx, deployment) for deployment in found[:limit]]
        return Page(described, len(found) > limit)

    def change(
        self,
        principal: Principal,
        ref: str,
        change: SpecChange,
        *,
        model: str | None = None,
        project: str | None = None,
    ) -> DescribedDeployment:
        """Change what is wanted; ``model`` names another version as in `NewDeployment`.

        The generation grows when something besides the number of replicas changed. A change to
        what is wanted already changes nothing.
        """

        def write(tx: Transaction) -> tuple[DescribedDeployment, bool]:
            seen = _writable(tx, principal, ref, project)
            spec = _changed(tx, seen.spec, change, model)
            if spec == seen.spec:
                return _described(tx, seen), False
            needs_new = replace(spec, replicas=seen.spec.replicas) != seen.spec
            new = replace(seen, spec=spec)
            if needs_new:
                self._check(tx, spec, _version_of(tx, spec))
                # A corrected spec deserves a first try at once, not its predecessor's back-off.
                new = replace(
                    new, generation=seen.generation + 1, failures=0, retry_at_ms=0, reason=None
                )
            stored = deployments.update(tx, seen, new)
            kind = "changed" if needs_new else "scaled"
            message = f"deployment {seen.name} {kind}: {_difference(seen.spec, spec)}"
            events.append(tx, _event(stored, principal, kind, message, self._clock.now_ms()))
            return _described(tx, stored), True

        described, is_changed = self._db.write(write)
        if is_changed:
            self._wake()
        return described

    def delete(self, principal: Principal, ref: str, project: str | None) -> DescribedDeployment:
        """Want the deployment no more: its replicas drain and stop; its name is free at once."""

        def write(tx: Transaction) -> DescribedDeployment:
            seen = deployment_named(tx, principal, ref, project)
            if seen.deleted_at_ms is not None:
                return _described(tx, seen)
            now_ms = self._clock.now_ms()
            new = replace(seen, deleted_at_ms=now_ms, status=DeploymentStatus.STOPPING)
            stored = deployments.update(tx, seen, new)
            message = f"deployment {seen.name} deleted"
            events.append(tx, _event(stored, principal, "deleted", message, now_ms))
            return _described(tx, stored)

        deleted = self._db.write(write)
        self._wake()
        return deleted

    def _check(self, tx: Transaction, spec: DeploymentSpec, version: ModelVersion) -> None:
        """Refuse what the engine cannot do or no node could ever hold."""
        recipe = self._recipes.get(spec.engine)
        if recipe is None:
            message = f"there is no engine {spec.engine}: expected {_either(self._recipes)}"
            raise refuse(Code.INVALID_VALUE, message, param="engine")
        refusal = recipe.check(spec, version)
        if refusal is not None:
            raise RefusedError(refusal)
        _check_fits(tx, recipe.resources(spec, version))


def _spec(wish: NewDeployment, version: ModelVersion) -> DeploymentSpec:
    length = wish.context_length
    return DeploymentSpec(
        model_version_id=version.id,
        engine=wish.engine or default_engine(version),
        replicas=wish.replicas,
        context_length=length or min(version.context_length, CONTEXT_LENGTH_DEFAULT),
        parallel=wish.parallel,
        devices=wish.devices,
        cpu_millicores=wish.cpu_millicores,
        memory_bytes=wish.memory_bytes,
        engine_options=tuple(sorted(wish.engine_options)),
    )


def _changed(
    tx: Transaction, spec: DeploymentSpec, change: SpecChange, model: str | None
) -> DeploymentSpec:
    named = {field.name: getattr(change, field.name) for field in fields(change)}
    if model is not None:
        named["model_version_id"] = find_version(tx, model).id
    if change.engine_options is not None:
        named["engine_options"] = tuple(sorted(change.engine_options))
    return replace(spec, **{name: value for name, value in named.items() if value is not None})


def _check_fits(tx: Transaction, needed: Resources) -> None:
    """Refuse what is larger than every node. Without any node yet, it waits for one instead."""
    nodes = [node for node in fleet.list_nodes(tx) if node.status is not NodeStatus.LOST]
    if not nodes or any(needed.fits_in(node.capacity) for node in nodes):
        return
    nearest = min(nodes, key=lambda node: _distance(needed.shortfall(node.capacity)))
    lacking = needed.shortfall(nearest.capacity)
    message = (
        f"one replica needs {needed.describe()} and fits no node: the largest has "
        f"{nearest.capacity.describe()} and lacks {lacking.describe()}; ask for less "
        "(context_length, parallel, cpu_millicores, memory_bytes, devices) or add a larger node"
    )
    raise refuse(Code.DOES_NOT_FIT, message, param=_largest_lack(lacking))


def _distance(shortfall: Resources) -> tuple[int, int, int]:
    """Order shortfalls: devices are the hardest to come by, then memory, then CPU."""
    return (shortfall.devices, shortfall.memory_bytes, shortfall.cpu_millicores)


def _largest_lack(lacking: Resources) -> str:
    if lacking.devices:
        return "devices"
    return "memory_bytes" if lacking.memory_bytes else "cpu_millicores"


def _writable(tx: Transaction, principal: Principal, ref: str, project: str | None) -> Deployment:
    seen = deployment_named(tx, principal, ref, project)
    if seen.deleted_at_ms is not None:
        message = f"the deployment {seen.name} is being deleted: create a new one instead"
        raise refuse(Code.CONFLICT, message)
    return seen


def _version_of(tx: Transaction, spec: DeploymentSpec) -> ModelVersion:
    version = catalog.get_model_version(tx, spec.model_version_id)
    if version is None:
        message = "the deployment's model is no longer in the catalogue: name another `model`"
        raise refuse(Code.MODEL_NOT_FOUND, message, param="model")
    return version


def _described(tx: Transaction, deployment: Deployment) -> DescribedDeployment:
    version = catalog.get_model_version(tx, deployment.spec.model_version_id)
    model = catalog.get_model(tx, version.model_id) if version else None
    return DescribedDeployment(
        deployment, model.name if model else None, version.number if version else None
    )


def _difference(old: DeploymentSpec, new: DeploymentSpec) -> str:
    """Return what changed, such as ``replicas 1 -> 3``; options may be secret and stay out."""
    parts: list[str] = []
    for field in fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before != after:
            is_option = field.name == "engine_options"
            parts.append(field.name if is_option else f"{field.name} {before} -> {after}")
    return ", ".join(parts)


def _bad_name(name: str) -> RefusedError:
    message = (
        f"the name {name!a} is not a DNS label: expected 1 to 63 of a-z, 0-9 and inner "
        "hyphens, such as my-chat-1"
    )
    return refuse(Code.INVALID_VALUE, message, param="name")


def _either(names: Mapping[str, object]) -> str:
    return " or ".join(sorted(names))


def _event(
    deployment: Deployment, principal: Principal, kind: str, message: str, now_ms: int
) -> Event:
    return Event(
        at_ms=now_ms,
        subject_id=deployment.id,
        project_id=deployment.project_id,
        kind=f"deployment.{kind}",
        message=message,
        actor=principal.key_id,
        data={"generation": deployment.generation, "replicas": deployment.spec.replicas},
    )
