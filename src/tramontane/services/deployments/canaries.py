"""Canaries: a second version of a deployment that gets a part of its requests.

A canary is a deployment of its own, linked to the one that it stands beside: it has replicas, logs
and usage of its own, and ends like any other.
"""

from collections.abc import Callable
from dataclasses import replace

from tramontane.domain import ids as kinds
from tramontane.domain.deployment import Canary, Deployment
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import Principal
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.deployments import adapters, specs, wishes
from tramontane.services.deployments.specs import SpecWriter
from tramontane.services.deployments.wishes import CanaryWish, DescribedDeployment
from tramontane.services.quotas.bounds import check_deployment
from tramontane.store import deployments, events
from tramontane.store.db import Database, Transaction


class Canaries:
    """Use cases of canaries. ``wake`` is called after a change, outside of transactions."""

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

    def set(
        self, principal: Principal, ref: str, wish: CanaryWish, project: str | None = None
    ) -> DescribedDeployment:
        """Start a canary of a deployment, or change the one that it has; return the deployment."""
        canary_id = self._ids.new(kinds.DEPLOYMENT)

        def write(tx: Transaction) -> DescribedDeployment:
            seen = specs.writable(tx, principal, ref, project)
            if seen.canary is not None:
                message = f"{seen.name} is itself a canary: name the deployment that it belongs to"
                raise refuse(Code.CONFLICT, message)
            canary = deployments.list_canaries(tx).get(seen.id)
            if canary is None:
                self._start_canary(tx, principal, seen, wish, canary_id)
            else:
                self._change_canary(tx, principal, canary, wish)
            return wishes.described(tx, seen)

        told = self._db.write(write)
        self._wake()
        return told

    def end(
        self, principal: Principal, ref: str, project: str | None = None, *, promote: bool
    ) -> DescribedDeployment:
        """End a deployment's canary; with ``promote`` the deployment becomes what the canary was.

        Its replicas are then replaced one by one, and the canary's drain: no request is lost.
        """

        def write(tx: Transaction) -> DescribedDeployment:
            seen = specs.writable(tx, principal, ref, project)
            canary = deployments.list_canaries(tx).get(seen.id)
            if canary is None:
                message = f"the deployment {seen.name} has no canary: start one first"
                raise refuse(Code.CONFLICT, message)
            specs.delete(tx, principal, canary, self._clock.now_ms())
            if not promote:
                return wishes.described(tx, seen)
            spec = replace(
                canary.spec,
                replicas=seen.spec.replicas,
                autoscale=seen.spec.autoscale,
                adapters=seen.spec.adapters,
            )
            return wishes.described(
                tx, self._writer.respecify(tx, principal, seen, spec, "promoted")
            )

        told = self._db.write(write)
        self._wake()
        return told

    def _start_canary(
        self,
        tx: Transaction,
        principal: Principal,
        seen: Deployment,
        wish: CanaryWish,
        canary_id: str,
    ) -> None:
        name = wish.name or f"{seen.name}-canary"
        if not kinds.is_dns_label(name):
            raise specs.bad_name(name)
        if wish.percent is None:
            message = f"percent is missing: say how many percent of {seen.name}'s requests it gets"
            raise refuse(Code.MISSING_REQUIRED_PARAMETER, message, param="percent")
        # Adapters keep their names in the project, so a canary serves the plain name only.
        single = replace(seen.spec, replicas=1, autoscale=None, adapters=())
        spec = specs.changed(tx, single, wish.change, wish.model)
        self._writer.check(tx, spec, specs.version_of(tx, spec))
        check_deployment(tx, seen.project_id, spec)
        now_ms = self._clock.now_ms()
        canary = Deployment(
            id=canary_id,
            project_id=seen.project_id,
            name=name,
            spec=spec,
            generation=1,
            created_at_ms=now_ms,
            start_ms=seen.start_ms,
            canary=Canary(seen.id, wish.percent),
        )
        adapters.check_names(tx, canary)
        deployments.insert(tx, canary)
        message = f"deployment {name} created, the canary of {seen.name} for {wish.percent} %"
        events.append(tx, specs.event(canary, principal, "created", message, now_ms))
        told = f"canary {name} started for {wish.percent} % of the requests"
        events.append(tx, specs.event(seen, principal, "canary_started", told, now_ms))

    def _change_canary(
        self, tx: Transaction, principal: Principal, canary: Deployment, wish: CanaryWish
    ) -> None:
        if wish.name not in {None, canary.name}:
            message = f"its canary is {canary.name}: end it before you start one of another name"
            raise refuse(Code.CONFLICT, message, param="name")
        spec = specs.changed(tx, canary.spec, wish.change, wish.model)
        if spec != canary.spec:
            canary = self._writer.respecify(tx, principal, canary, spec, "changed")
        link = canary.canary
        if link is None or wish.percent in {None, link.percent}:
            return
        now_ms = self._clock.now_ms()
        new = replace(canary, canary=replace(link, percent=wish.percent))
        stored = deployments.update(tx, canary, new)
        message = f"canary {canary.name}: {link.percent} % -> {wish.percent} % of the requests"
        events.append(tx, specs.event(stored, principal, "canary_changed", message, now_ms))
