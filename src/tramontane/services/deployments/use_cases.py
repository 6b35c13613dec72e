"""Deployments: what a project wants to be served. The reconcilers make it so.

A request here changes the spec and nothing else; the answer is "pending" at once.
"""

from collections.abc import Callable
from dataclasses import replace

from tramontane.domain import ids as kinds
from tramontane.domain.catalog import ModelVersion
from tramontane.domain.deployment import AutoscaleSpec, Deployment, DeploymentSpec, SpecChange
from tramontane.domain.refusal import Code, RefusedError, refuse
from tramontane.domain.tenancy import Principal
from tramontane.engines.recipes import default_engine
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.deployments import adapters, specs, wishes
from tramontane.services.deployments.specs import SpecWriter
from tramontane.services.deployments.wishes import (
    CONTEXT_LENGTH_DEFAULT,
    DescribedDeployment,
    NewDeployment,
)
from tramontane.services.models import find_version
from tramontane.services.quotas.bounds import check_deployment
from tramontane.services.scope import Page, deployment_named, list_scope, live_project_named
from tramontane.store import deployments, events
from tramontane.store.db import Database, Transaction


class Deployments:
    """Use cases of deployments. ``wake`` is called after a change, outside of transactions."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: IdSource,
        writer: SpecWriter,
        wake: Callable[[], None],
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._writer = writer
        self._wake = wake

    def create(self, principal: Principal, wish: NewDeployment) -> DescribedDeployment:
        """Record a new deployment; refused when it could never run as it is wished."""
        if kinds.prefix_of(wish.name) is not None or not kinds.is_dns_label(wish.name):
            raise specs.bad_name(wish.name)
        deployment_id = self._ids.new(kinds.DEPLOYMENT)
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> DescribedDeployment:
            project = live_project_named(tx, principal, wish.project)
            version = find_version(tx, wish.model)
            spec = replace(
                _spec(wish, version),
                adapters=adapters.find(tx, wish.adapters),
                cluster=specs.cluster_named(tx, wish.cluster),
            )
            self._writer.check(tx, spec, version)
            check_deployment(tx, project.id, spec)
            deployment = Deployment(
                id=deployment_id,
                project_id=project.id,
                name=wish.name,
                spec=spec,
                generation=1,
                created_at_ms=now_ms,
                scale=specs.scale_of(spec, now_ms),
            )
            adapters.check_names(tx, deployment)
            deployments.insert(tx, deployment)
            message = f"deployment {wish.name} of {wish.model} created, {spec.replicas} wanted"
            events.append(tx, specs.event(deployment, principal, "created", message, now_ms))
            return wishes.described(tx, deployment)

        created = self._db.write(write)
        self._wake()
        return created

    def get(self, principal: Principal, ref: str, project: str | None) -> DescribedDeployment:
        """Return one deployment; a deleted one too, by its id, until it has stopped."""
        with self._db.read() as tx:
            return wishes.described(tx, deployment_named(tx, principal, ref, project))

    def list(
        self, principal: Principal, *, project: str | None, after: str | None, limit: int
    ) -> Page[DescribedDeployment]:
        """Return a page of the deployments that the principal may see."""
        with self._db.read() as tx:
            scope = list_scope(tx, principal, project)
            found = deployments.list_for(tx, scope, after=after, limit=limit + 1)
            canaries = deployments.list_canaries(tx)
            described = [wishes.described(tx, deployment, canaries) for deployment in found[:limit]]
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
            seen = specs.writable(tx, principal, ref, project)
            if change.replicas is not None and seen.spec.autoscale is not None:
                raise _scales_itself(seen, seen.spec.autoscale)
            spec = specs.changed(tx, seen.spec, change, model)
            if spec == seen.spec:
                return wishes.described(tx, seen), False
            kind = "changed" if spec.differs_in_kind(seen.spec) else "scaled"
            return wishes.described(
                tx, self._writer.respecify(tx, principal, seen, spec, kind)
            ), True

        described, is_changed = self._db.write(write)
        if is_changed:
            self._wake()
        return described

    def delete(self, principal: Principal, ref: str, project: str | None) -> DescribedDeployment:
        """Want the deployment no more: its replicas drain and stop; its name is free at once."""

        def write(tx: Transaction) -> DescribedDeployment:
            seen = deployment_named(tx, principal, ref, project)
            if seen.deleted_at_ms is not None:
                return wishes.described(tx, seen)
            now_ms = self._clock.now_ms()
            canary = deployments.list_canaries(tx).get(seen.id)
            if canary is not None:
                specs.delete(tx, principal, canary, now_ms)
            return wishes.described(tx, specs.delete(tx, principal, seen, now_ms))

        deleted = self._db.write(write)
        self._wake()
        return deleted

    def autoscale(
        self,
        principal: Principal,
        ref: str,
        autoscale: AutoscaleSpec | None,
        project: str | None = None,
    ) -> DescribedDeployment:
        """Let the number of replicas follow the demand, or no more (None): it then stays as it is.

        No replica is replaced, and none ends before the rule says so.
        """

        def write(tx: Transaction) -> tuple[DescribedDeployment, bool]:
            seen = specs.writable(tx, principal, ref, project)
            if autoscale == seen.spec.autoscale:
                return wishes.described(tx, seen), False
            spec = replace(seen.spec, replicas=seen.wanted_replicas, autoscale=autoscale)
            kind = "scales_itself" if autoscale else "scales_no_more"
            new = self._writer.respecify(tx, principal, seen, spec, kind)
            return wishes.described(tx, new), True

        described, is_changed = self._db.write(write)
        if is_changed:
            self._wake()
        return described


def _scales_itself(seen: Deployment, autoscale: AutoscaleSpec) -> RefusedError:
    message = (
        f"the deployment {seen.name} scales by itself, from {autoscale.replicas_min} to "
        f"{autoscale.replicas_max} replicas: change those bounds, or end autoscaling first"
    )
    return refuse(Code.CONFLICT, message, param="replicas")


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
        autoscale=wish.autoscale,
        nodes=wish.nodes,
        priority_class=wish.priority_class,
    )
