"""Organizations, projects and API keys."""

from dataclasses import replace
from typing import Final

from sqlalchemy import ColumnElement, or_, select

from tramontane.domain import ids
from tramontane.domain.tenancy import ApiKey, Organization, Project, Role
from tramontane.store.codec import decode_names, encode_names
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.statements import LIMIT_DEFAULT, insert_named, page, update_guarded
from tramontane.store.statements import insert as insert_row
from tramontane.store.tables import api_keys, organizations, projects

# The project's columns beside the key's, which have some of the same names.
_OWNER: Final = [column.label(f"owner_{column.name}") for column in projects.c]


def insert_organization(tx: Transaction, organization: Organization) -> None:
    """Insert it; `NameTakenError` when another organization has the name."""
    values = {
        "id": organization.id,
        "created_at_ms": organization.created_at_ms,
        "revision": organization.revision,
        **_organization_values(organization),
    }
    insert_named(tx, organizations, values, noun="organization")


def get_organization(tx: Transaction, ref: str) -> Organization | None:
    """Return the organization with the id or name ``ref``."""
    column = organizations.c.id if _is_id(ref, ids.ORGANIZATION) else organizations.c.name
    row = tx.execute(select(organizations).where(column == ref)).one_or_none()
    return _organization(row) if row else None


def update_organization(tx: Transaction, seen: Organization, new: Organization) -> Organization:
    """Write ``new`` over ``seen`` and return it with its revision; `StaleError` if it moved on."""
    revision = update_guarded(
        tx,
        organizations,
        noun="organization",
        seen_id=seen.id,
        seen_revision=seen.revision,
        values=_organization_values(new),
    )
    return replace(new, revision=revision)


def list_blocked_or_storing(tx: Transaction) -> list[Organization]:
    """Return the organizations that differ from the usual in what a gateway has to know."""
    unusual = or_(
        organizations.c.blocked_at_ms.is_not(None), organizations.c.may_store_responses == 1
    )
    query = select(organizations).where(unusual).order_by(organizations.c.id)
    return [_organization(row) for row in tx.execute(query)]


def list_organizations(
    tx: Transaction, *, after: str | None = None, limit: int = LIMIT_DEFAULT
) -> list[Organization]:
    """Return a page of all organizations, oldest first."""
    return [_organization(row) for row in page(tx, organizations, after=after, limit=limit)]


def insert_project(tx: Transaction, project: Project) -> None:
    """Insert it; `NameTakenError` when another project of the organization has the name."""
    values = {"id": project.id, "created_at_ms": project.created_at_ms} | _project_values(project)
    insert_named(
        tx,
        projects,
        values | {"revision": project.revision},
        noun="project",
        unique=("organization_id", "name"),
    )


def get_project(tx: Transaction, ref: str, *, organization_id: str | None = None) -> Project | None:
    """Return the project with the id or name ``ref``, of one organization if given.

    A name that projects of several organizations have belongs to none of them here: the caller
    must give the id.
    """
    column = projects.c.id if _is_id(ref, ids.PROJECT) else projects.c.name
    query = select(projects).where(column == ref, *_of_organization(organization_id)).limit(2)
    rows = tx.execute(query).all()
    return _project(rows[0]) if len(rows) == 1 else None


def list_projects(
    tx: Transaction,
    *,
    organization_id: str | None = None,
    after: str | None = None,
    limit: int = LIMIT_DEFAULT,
) -> list[Project]:
    """Return a page of projects, archived ones too, oldest first."""
    scope = _of_organization(organization_id)
    return [_project(row) for row in page(tx, projects, scope=scope, after=after, limit=limit)]


def update_project(tx: Transaction, seen: Project, new: Project) -> Project:
    """Write ``new`` over ``seen`` and return it with its revision; `StaleError` if it moved on."""
    revision = update_guarded(
        tx,
        projects,
        noun="project",
        seen_id=seen.id,
        seen_revision=seen.revision,
        values=_project_values(new),
    )
    return replace(new, revision=revision)


def insert_api_key(tx: Transaction, key: ApiKey) -> None:
    """Insert it; names of keys may repeat."""
    values = {"id": key.id, "project_id": key.project_id, "created_at_ms": key.created_at_ms}
    insert_row(tx, api_keys, values | _key_values(key) | {"revision": key.revision})


def get_api_key_for(tx: Transaction, project_id: str | None, key_id: str) -> ApiKey | None:
    """Return the key if ``project_id`` may see it; None sees all projects' keys."""
    query = select(api_keys).where(api_keys.c.id == key_id, *_of_project(project_id))
    row = tx.execute(query).one_or_none()
    return _key(row) if row else None


def list_api_keys(
    tx: Transaction,
    project_id: str | None,
    *,
    after: str | None = None,
    limit: int = LIMIT_DEFAULT,
) -> list[ApiKey]:
    """Return a page of the project's keys (None: all keys), revoked ones too, oldest first."""
    scope = _of_project(project_id)
    return [_key(row) for row in page(tx, api_keys, scope=scope, after=after, limit=limit)]


def list_usable_api_keys(tx: Transaction, now_ms: int) -> list[tuple[ApiKey, Project]]:
    """Return every key that is neither revoked nor expired, of every project not archived."""
    query = (
        select(api_keys, *_OWNER)
        .join(projects, projects.c.id == api_keys.c.project_id)
        .where(
            api_keys.c.revoked_at_ms.is_(None),
            or_(api_keys.c.expires_at_ms.is_(None), api_keys.c.expires_at_ms > now_ms),
            projects.c.archived_at_ms.is_(None),
        )
        .order_by(api_keys.c.created_at_ms, api_keys.c.id)
    )
    return [(_key(row), _owner(row)) for row in tx.execute(query)]


def update_api_key(tx: Transaction, seen: ApiKey, new: ApiKey) -> ApiKey:
    """Write ``new`` over ``seen`` and return it with its revision; `StaleError` if it moved on."""
    revision = update_guarded(
        tx,
        api_keys,
        noun="api key",
        seen_id=seen.id,
        seen_revision=seen.revision,
        values=_key_values(new),
    )
    return replace(new, revision=revision)


def find_api_key_by_hash(tx: Transaction, key_hash: str) -> tuple[ApiKey, Project] | None:
    """Return the key with that hash and its project, usable or not: the caller checks that."""
    query = (
        select(api_keys, *_OWNER)
        .join(projects, projects.c.id == api_keys.c.project_id)
        .where(api_keys.c.key_hash == key_hash)
    )
    row = tx.execute(query).one_or_none()
    return (_key(row), _owner(row)) if row else None


def _is_id(ref: str, prefix: str) -> bool:
    """Tell an id from a name: names are DNS labels and have no underscore."""
    return ids.prefix_of(ref) == prefix


def _of_organization(organization_id: str | None) -> list[ColumnElement[bool]]:
    return [] if organization_id is None else [projects.c.organization_id == organization_id]


def _of_project(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [api_keys.c.project_id == project_id]


def _organization_values(organization: Organization) -> dict[str, object]:
    return {
        "name": organization.name,
        "may_store_responses": int(organization.may_store_responses),
        "blocked_at_ms": organization.blocked_at_ms,
    }


def _organization(row: AnyRow) -> Organization:
    return Organization(
        id=row.id,
        name=row.name,
        created_at_ms=row.created_at_ms,
        may_store_responses=bool(row.may_store_responses),
        blocked_at_ms=row.blocked_at_ms,
        revision=row.revision,
    )


def _project_values(project: Project) -> dict[str, object]:
    return {
        "organization_id": project.organization_id,
        "name": project.name,
        "archived_at_ms": project.archived_at_ms,
        "blocked_at_ms": project.blocked_at_ms,
        "is_strict": int(project.is_strict),
        "allowed_models": encode_names(project.allowed_models),
    }


def _project(row: AnyRow) -> Project:
    return Project(
        id=row.id,
        organization_id=row.organization_id,
        name=row.name,
        created_at_ms=row.created_at_ms,
        archived_at_ms=row.archived_at_ms,
        blocked_at_ms=row.blocked_at_ms,
        is_strict=bool(row.is_strict),
        allowed_models=decode_names(row.allowed_models),
        revision=row.revision,
    )


def _owner(row: AnyRow) -> Project:
    return Project(
        id=row.owner_id,
        organization_id=row.owner_organization_id,
        name=row.owner_name,
        created_at_ms=row.owner_created_at_ms,
        archived_at_ms=row.owner_archived_at_ms,
        blocked_at_ms=row.owner_blocked_at_ms,
        is_strict=bool(row.owner_is_strict),
        allowed_models=decode_names(row.owner_allowed_models),
        revision=row.owner_revision,
    )


def _key_values(key: ApiKey) -> dict[str, object]:
    return {
        "name": key.name,
        "role": key.role.value,
        "key_hash": key.key_hash,
        "redacted": key.redacted,
        "expires_at_ms": key.expires_at_ms,
        "revoked_at_ms": key.revoked_at_ms,
        "blocked_at_ms": key.blocked_at_ms,
        "allowed_models": encode_names(key.allowed_models),
    }


def _key(row: AnyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        project_id=row.project_id,
        name=row.name,
        role=Role(row.role),
        key_hash=row.key_hash,
        redacted=row.redacted,
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms,
        revoked_at_ms=row.revoked_at_ms,
        blocked_at_ms=row.blocked_at_ms,
        allowed_models=decode_names(row.allowed_models),
        revision=row.revision,
    )
