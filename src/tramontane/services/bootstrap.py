"""The first start: an organization, a project, two keys and a deployed demo model.

Every step is taken only if what it makes is missing, and the whole only once: a marker in the
story of the installation ends it, so that what an operator deletes later does not come back. A
`kill -9` between two steps is made good by the next run.
"""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tramontane.domain import ids as kinds
from tramontane.domain.event import Event
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import (
    ApiKey,
    Organization,
    Principal,
    Project,
    Role,
    hash_key,
    make_key,
    redact_key,
)
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.deployments.use_cases import Deployments
from tramontane.services.deployments.wishes import NewDeployment
from tramontane.services.models import Models
from tramontane.store import events, tenancy
from tramontane.store.db import Database, NameTakenError, Transaction

DEFAULT_NAME: Final = "default"  # of the first organization and of its first project
DEMO_NAME: Final = "tramontane-demo"  # of the demo's model and of its deployment
MEMBER_KEY_NAME: Final = "first-member"
OPERATOR_KEY_NAME: Final = "first-operator"
ACTOR: Final = "bootstrap"
SUBJECT: Final = "installation"
DONE: Final = "installation.bootstrapped"

_KEY_ENTROPY_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class FirstKeys:
    """The texts of the first two keys: shown this once and kept nowhere."""

    api_key: str
    admin_key: str


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """What the installation begins with. ``keys`` is None when they were made before."""

    organization: Organization
    project: Project
    keys: FirstKeys | None


class Bootstrap:
    """Brings an empty installation to its first answer. ``demo_model`` is a GGUF file or None."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: IdSource,
        hmac_key: bytes,
        models: Models,
        deployments: Deployments,
        demo_model: Path | None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._hmac_key = hmac_key
        self._models = models
        self._deployments = deployments
        self._demo_model = demo_model

    def run(self) -> Bootstrapped:
        """Take the steps that are missing; a second run changes nothing.

        The demo model is read while no transaction is open. Raises `RefusedError` when it cannot
        be imported; what was made before stays and the next run goes on from there.
        """
        now_ms = self._clock.now_ms()
        organization = Organization(self._ids.new(kinds.ORGANIZATION), DEFAULT_NAME, now_ms)
        project = Project(self._ids.new(kinds.PROJECT), organization.id, DEFAULT_NAME, now_ms)
        fresh = self._make_keys()

        def begin(tx: Transaction) -> Bootstrapped | None:
            if any(event.kind == DONE for event in events.last_of(tx, SUBJECT)):
                return None
            owner = tenancy.get_organization(tx, DEFAULT_NAME)
            if owner is None:
                owner = organization
                tenancy.insert_organization(tx, owner)
            home = tenancy.get_project(tx, DEFAULT_NAME, organization_id=owner.id)
            if home is None:
                home = replace(project, organization_id=owner.id)
                tenancy.insert_project(tx, home)
            if any(key.name in fresh for key in tenancy.list_api_keys(tx, home.id)):
                return Bootstrapped(owner, home, None)
            self._insert_keys(tx, home, fresh, now_ms)
            return Bootstrapped(owner, home, _texts(fresh))

        started = self._db.write(begin)
        if started is None:
            return self._found()
        if self._demo_model is not None:
            self._deploy(started.project, self._demo_model)
        self._db.write(self._finish)
        return started

    def reissue_keys(self) -> FirstKeys:
        """Revoke the first two keys and make new ones, for when their texts were lost."""
        fresh = self._make_keys()
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> FirstKeys:
            _, project = _defaults(tx)
            for key, owner in tenancy.list_usable_api_keys(tx, now_ms):
                if owner.id == project.id and key.name in fresh:
                    tenancy.update_api_key(tx, key, replace(key, revoked_at_ms=now_ms))
                    events.append(tx, _key_event(key, "revoked", now_ms))
            self._insert_keys(tx, project, fresh, now_ms)
            return _texts(fresh)

        return self._db.write(write)

    def _found(self) -> Bootstrapped:
        with self._db.read() as tx:
            organization, project = _defaults(tx)
        return Bootstrapped(organization, project, None)

    def _make_keys(self) -> "dict[str, _FreshKey]":
        return {
            name: _FreshKey(
                self._ids.new(kinds.API_KEY), role, make_key(self._ids.entropy(_KEY_ENTROPY_BYTES))
            )
            for name, role in _ROLES.items()
        }

    def _insert_keys(
        self, tx: Transaction, project: Project, fresh: "dict[str, _FreshKey]", now_ms: int
    ) -> None:
        for name, made in fresh.items():
            key = ApiKey(
                id=made.id,
                project_id=project.id,
                name=name,
                role=made.role,
                key_hash=hash_key(self._hmac_key, made.text),
                redacted=redact_key(made.text),
                created_at_ms=now_ms,
            )
            tenancy.insert_api_key(tx, key)
            events.append(tx, _key_event(key, "created", now_ms))

    def _deploy(self, project: Project, demo_model: Path) -> None:
        actor = Principal(ACTOR, project.id, project.organization_id, Role.OPERATOR)
        path = str(demo_model.absolute())
        self._models.import_weights(actor, name=DEMO_NAME, path=path, is_shipped=True)
        # Taken: the last run got this far and no further.
        with contextlib.suppress(NameTakenError):
            self._deployments.create(actor, NewDeployment(name=DEMO_NAME, model=DEMO_NAME))

    def _finish(self, tx: Transaction) -> None:
        message = "the first start is complete"
        events.append(tx, Event(self._clock.now_ms(), SUBJECT, None, DONE, message, ACTOR))


@dataclass(frozen=True, slots=True)
class _FreshKey:
    id: str
    role: Role
    text: str


_ROLES: Final = {MEMBER_KEY_NAME: Role.MEMBER, OPERATOR_KEY_NAME: Role.OPERATOR}


def _texts(fresh: dict[str, _FreshKey]) -> FirstKeys:
    return FirstKeys(fresh[MEMBER_KEY_NAME].text, fresh[OPERATOR_KEY_NAME].text)


def _defaults(tx: Transaction) -> tuple[Organization, Project]:
    organization = tenancy.get_organization(tx, DEFAULT_NAME)
    if organization is not None:
        project = tenancy.get_project(tx, DEFAULT_NAME, organization_id=organization.id)
        if project is not None and project.archived_at_ms is None:
            return organization, project
    message = "the project default of the organization default is gone or archived"
    raise refuse(Code.CONFLICT, message)


def _key_event(key: ApiKey, what: str, now_ms: int) -> Event:
    return Event(
        at_ms=now_ms,
        subject_id=key.id,
        project_id=key.project_id,
        kind=f"api_key.{what}",
        message=f"API key {key.name} ({key.redacted}, {key.role}) {what}",
        actor=ACTOR,
    )
