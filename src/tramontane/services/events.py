"""Stories: what happened to one object, as the principal may see it."""

from tramontane.domain.event import Event
from tramontane.domain.tenancy import Principal
from tramontane.services.scope import Page, deployment_named, page_of, visible_project_id
from tramontane.store import events
from tramontane.store.db import Database


class Events:
    """Use cases of events."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def story(
        self, principal: Principal, subject_id: str, *, after: int, limit: int
    ) -> Page[Event]:
        """Return a page of one object's events, oldest first; empty for what may not be seen.

        Objects that are gone keep their story.
        """
        with self._db.read() as tx:
            found = events.story(
                tx, subject_id, visible_project_id(principal), after=after, limit=limit + 1
            )
        return page_of(found, limit)

    def deployment_story(
        self, principal: Principal, ref: str, project: str | None, *, after: int, limit: int
    ) -> Page[Event]:
        """Return a page of the events of the deployment with the id or name ``ref``."""
        with self._db.read() as tx:
            deployment = deployment_named(tx, principal, ref, project)
            found = events.story(
                tx, deployment.id, deployment.project_id, after=after, limit=limit + 1
            )
        return page_of(found, limit)
