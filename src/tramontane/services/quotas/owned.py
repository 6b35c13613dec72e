"""What limits, quotas and reserved racks share: operators write them, whom they bind reads them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from tramontane.domain.event import Event, EventData
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import ApiKey, Principal
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.scope import (
    Page,
    live_project_named,
    not_found,
    organization_named,
    page_of,
    project_named,
    visible_project_id,
)
from tramontane.store import events, tenancy
from tramontane.store.db import Database, Transaction
from tramontane.store.quotas.owned import HasId, OwnedRows, Owner

T = TypeVar("T", bound=HasId)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom something binds: one of them, by id or, but for a key, by name."""

    organization: str | None = None
    project: str | None = None
    api_key: str | None = None


@dataclass(frozen=True, slots=True)
class NamedSubject:
    """A subject that was found. ``project_id`` is where it belongs, None for an organization."""

    scope: str
    id: str
    project_id: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """What the story of an item says: whose it is, what it is in words, and its values."""

    project_id: str | None
    words: str
    data: EventData


class OwnedItems(ABC, Generic[T]):
    """Use cases of items that bind tenants. ``wake`` is called after a change, so that it holds."""

    noun: ClassVar[str]
    gone: ClassVar[str] = "removed"
    rows: OwnedRows[T]

    def __init__(self, db: Database, clock: Clock, ids: IdSource, wake: Callable[[], None]) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._wake = wake

    def get(self, principal: Principal, item_id: str) -> T:
        """Return one that the principal may see."""
        with self._db.read() as tx:
            return self._seen(tx, principal, item_id)

    def list(
        self, principal: Principal, subject: Subject, *, after: str | None, limit: int
    ) -> Page[T]:
        """Return a page of those that the principal may see, or of those of one subject."""
        with self._db.read() as tx:
            subject_id = listed_subject_id(tx, principal, subject)
            found = self.rows.list_for(
                tx, owner_of(principal), subject_id=subject_id, after=after, limit=limit + 1
            )
        return page_of(found, limit)

    def remove(self, principal: Principal, item_id: str) -> T:
        """Take it away: what it bounds or keeps is open again."""

        def write(tx: Transaction) -> T:
            seen = self._seen(tx, principal, item_id)
            self.rows.remove(tx, seen.id)
            self._record(tx, principal, seen, self.gone)
            return seen

        return self._change(write)

    @abstractmethod
    def _told(self, tx: Transaction, item: T, /) -> Told: ...

    def _change(self, write: Callable[[Transaction], T]) -> T:
        changed = self._db.write(write)
        self._wake()
        return changed

    def _put(self, tx: Transaction, principal: Principal, seen: T | None, new: T) -> T:
        """Write ``new`` in place of ``seen``, which has its id; equal ones change nothing."""
        if seen == new:
            return new
        if seen is None:
            self.rows.insert(tx, new, self._clock.now_ms())
        else:
            self.rows.update(tx, new)
        self._record(tx, principal, new, "set")
        return new

    def _record(self, tx: Transaction, principal: Principal, item: T, what: str) -> None:
        told = self._told(tx, item)
        event = Event(
            at_ms=self._clock.now_ms(),
            subject_id=item.id,
            project_id=told.project_id,
            kind=f"{self.noun}.{what}",
            message=f"{told.words} {what}",
            actor=principal.key_id,
            data=told.data,
        )
        events.append(tx, event)

    def _seen(self, tx: Transaction, principal: Principal, item_id: str) -> T:
        found = self.rows.get_for(tx, owner_of(principal), item_id)
        if found is None:
            raise not_found(self.noun, item_id)
        return found


def owner_of(principal: Principal) -> Owner | None:
    """Return whose items the principal may see, None for all."""
    if principal.is_operator:
        return None
    return Owner(principal.organization_id, principal.project_id)


def bound_subject(tx: Transaction, principal: Principal, subject: Subject) -> NamedSubject:
    """Return whom something new is to bind; refused for what is archived or revoked."""
    if subject.organization is not None:
        found = organization_named(tx, principal, subject.organization)
        return NamedSubject("organization", found.id, None)
    if subject.api_key is not None:
        key = _key(tx, principal, subject.api_key)
        if key.revoked_at_ms is not None:
            message = f"the API key {key.name} is revoked: name another one"
            raise refuse(Code.CONFLICT, message, param="api_key")
        return NamedSubject("api_key", key.id, key.project_id)
    project = live_project_named(tx, principal, subject.project)
    return NamedSubject("project", project.id, project.id)


def listed_subject_id(tx: Transaction, principal: Principal, subject: Subject) -> str | None:
    """Return the id of the one subject to list, None for all that the principal may see."""
    if subject.organization is not None:
        return organization_named(tx, principal, subject.organization).id
    if subject.project is not None:
        return project_named(tx, principal, subject.project).id
    return None if subject.api_key is None else _key(tx, principal, subject.api_key).id


def _key(tx: Transaction, principal: Principal, key_id: str) -> ApiKey:
    key = tenancy.get_api_key_for(tx, visible_project_id(principal), key_id)
    if key is None:
        raise not_found("API key", key_id, param="api_key")
    return key
