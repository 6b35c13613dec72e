"""Replicas and what they wrote: read only, for reconcilers alone change them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tramontane.domain.replica import Replica
from tramontane.domain.tenancy import Principal
from tramontane.services.scope import (
    Page,
    deployment_named,
    list_scope,
    not_found,
    page_of,
    visible_project_id,
)
from tramontane.store import replicas
from tramontane.store.db import Database

# One screen per replica is what a person reads; the newest tell what is wrong now.
REPLICAS_WITH_LOGS_MAX: Final = 16


class LogSource(Protocol):
    """Where the lines of a replica are: the driver of its cluster, wired in the composition."""

    def __call__(self, replica: Replica, lines_max: int) -> Sequence[str] | None:
        """Return the last lines, oldest first; None when the cluster does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class ReplicaLines:
    """The last lines of one replica, oldest first; None when its cluster did not answer."""

    replica: Replica
    lines: Sequence[str] | None


class Replicas:
    """Use cases of replicas."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, principal: Principal, replica_id: str) -> Replica:
        """Return one replica."""
        with self._db.read() as tx:
            found = replicas.get_for(tx, visible_project_id(principal), replica_id)
        if found is None:
            raise not_found("replica", replica_id)
        return found

    def list(
        self,
        principal: Principal,
        *,
        deployment: str | None,
        project: str | None,
        after: str | None,
        limit: int,
    ) -> Page[Replica]:
        """Return a page of replicas, of one deployment if given, ended ones too."""
        with self._db.read() as tx:
            scope = list_scope(tx, principal, project)
            owner = None
            if deployment is not None:
                owner = deployment_named(tx, principal, deployment, project).id
            found = replicas.list_for(tx, scope, deployment_id=owner, after=after, limit=limit + 1)
        return page_of(found, limit)


class DeploymentLogs:
    """What the replicas of a deployment wrote last."""

    def __init__(self, db: Database, source: LogSource) -> None:
        self._db = db
        self._source = source

    def read(
        self, principal: Principal, ref: str, project: str | None, lines_max: int
    ) -> tuple[str, list[ReplicaLines]]:
        """Return the deployment's id and the lines of its newest replicas, oldest replica first.

        A replica that ended and of which nothing is kept is left out.
        """
        with self._db.read() as tx:
            deployment = deployment_named(tx, principal, ref, project)
            newest = replicas.list_of(tx, deployment.id)[-REPLICAS_WITH_LOGS_MAX:]
        told = [ReplicaLines(replica, self._source(replica, lines_max)) for replica in newest]
        kept = [part for part in told if part.lines or part.replica.holds_capacity]
        return deployment.id, kept
