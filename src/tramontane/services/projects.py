"""Projects: made, changed and archived by operators; a member sees its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tramontane.domain import ids as kinds
from tramontane.domain.event import Event
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import Principal, Project
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.scope import Page, organization_named, page_of, project_named, stored_names
from tramontane.store import deployments, events, tenancy
from tramontane.store.db import Database, Transaction
from tramontane.store.jobs import jobs

_NAMED_MAX = 5  # deployments that a refusal lists by name


@dataclass(frozen=True, slots=True)
class ProjectChange:
    """What to change of a project; None leaves it. `services.scope.ALL_MODELS` allows all."""

    is_blocked: bool | None = None
    is_strict: bool | None = None
    allowed_models: tuple[str, ...] | None = None


class Projects:
    """Use cases of projects.

    ``wake`` is called when gateways have to hear of a change, ``wake_accounts`` for clusters.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: IdSource,
        wake: Callable[[], None],
        wake_accounts: Callable[[], None] = lambda: None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._wake = wake
        self._wake_accounts = wake_accounts

    def create(self, principal: Principal, name: str, organization: str | None) -> Project:
        """Make a project in ``organization`` (id or name; None: the principal's own)."""
        project_id = self._ids.new(kinds.PROJECT)
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> Project:
            owner = organization_named(tx, principal, organization or principal.organization_id)
            project = Project(project_id, owner.id, name, now_ms)
            tenancy.insert_project(tx, project)
            events.append(tx, _event(project, principal, "created", now_ms))
            return project

        made = self._db.write(write)
        self._wake_accounts()
        return made

    def get(self, principal: Principal, ref: str) -> Project:
        """Return the project with the id or name ``ref``."""
        with self._db.read() as tx:
            return project_named(tx, principal, ref, param=None)

    def list(
        self, principal: Principal, *, organization: str | None, after: str | None, limit: int
    ) -> Page[Project]:
        """Return a page of the projects that the principal may see, archived ones too."""
        if not principal.is_operator:
            return self._own(principal, organization, after)
        with self._db.read() as tx:
            owner = organization and organization_named(tx, principal, organization).id
            found = tenancy.list_projects(tx, organization_id=owner, after=after, limit=limit + 1)
        return page_of(found, limit)

    def _own(
        self, principal: Principal, organization: str | None, after: str | None
    ) -> Page[Project]:
        with self._db.read() as tx:
            own = project_named(tx, principal, None)
            owner = organization_named(tx, principal, organization or principal.organization_id)
        is_listed = after is None and owner.id == own.organization_id
        return Page([own] if is_listed else [], has_more=False)

    def change(self, principal: Principal, ref: str, change: ProjectChange) -> Project:
        """Change the project; gateways hear of it at once."""
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> Project:
            seen = project_named(tx, principal, ref, param=None)
            new = seen
            whats: list[str] = []
            if change.is_blocked not in {None, seen.blocked_at_ms is not None}:
                new = replace(new, blocked_at_ms=now_ms if change.is_blocked else None)
                whats.append("blocked" if change.is_blocked else "unblocked")
            if change.is_strict not in {None, seen.is_strict}:
                new = replace(new, is_strict=bool(change.is_strict))
                whats.append("made strict" if change.is_strict else "made lenient")
            if change.allowed_models is not None:
                allowed = stored_names(change.allowed_models)
                if allowed != seen.allowed_models:
                    new = replace(new, allowed_models=allowed)
                    whats.append("given other models")
            for what in whats:
                events.append(tx, _event(seen, principal, what, now_ms))
            return tenancy.update_project(tx, seen, new) if whats else seen

        project = self._db.write(write)
        self._wake()
        return project

    def archive(self, principal: Principal, ref: str) -> Project:
        """Archive a project: its keys stop working, its records stay.

        Refused while it has deployments or jobs that go on, and for the project of the key that
        asks, which would lock itself out. Archiving an archived project changes nothing.
        """

        def write(tx: Transaction) -> Project:
            seen = project_named(tx, principal, ref, param=None)
            if seen.archived_at_ms is not None:
                return seen
            if seen.id == principal.project_id:
                message = (
                    f"your own key belongs to the project {seen.name} and would stop working: "
                    "archive it with an operator key of another project"
                )
                raise refuse(Code.IN_USE, message)
            _check_empty(tx, seen)
            now_ms = self._clock.now_ms()
            stored = tenancy.update_project(tx, seen, replace(seen, archived_at_ms=now_ms))
            events.append(tx, _event(seen, principal, "archived", now_ms))
            return stored

        project = self._db.write(write)
        self._wake()
        self._wake_accounts()
        return project


def _check_empty(tx: Transaction, project: Project) -> None:
    live = deployments.list_for(tx, project.id, limit=_NAMED_MAX + 1)
    if live:
        names = ", ".join(deployment.name for deployment in live[:_NAMED_MAX])
        names += " and more" if len(live) > _NAMED_MAX else ""
        message = (
            f"the project {project.name} still has deployments: {names}; "
            "delete them and wait until they have stopped"
        )
        raise refuse(Code.IN_USE, message)
    going = [job.name for job in jobs.list_live(tx) if job.project_id == project.id]
    if going:
        named = ", ".join(going[:_NAMED_MAX])
        message = (
            f"the project {project.name} has jobs that go on ({named}): cancel them, or wait for "
            "them, first"
        )
        raise refuse(Code.IN_USE, message)


def _event(project: Project, principal: Principal, what: str, now_ms: int) -> Event:
    return Event(
        at_ms=now_ms,
        subject_id=project.id,
        project_id=project.id,
        kind=f"project.{what.replace(' ', '_')}",
        message=f"project {project.name} {what}",
        actor=principal.key_id,
    )
