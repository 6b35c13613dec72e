"""API keys: made with their text shown once, listed without it, revoked for good."""

from collections.abc import Callable
from dataclasses import replace

from tramontane.domain import ids as kinds
from tramontane.domain.event import Event
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import ApiKey, Principal, Role, hash_key, make_key, redact_key
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.scope import (
    Page,
    list_scope,
    live_project_named,
    not_found,
    page_of,
    visible_project_id,
)
from tramontane.store import events, tenancy
from tramontane.store.db import Database, Transaction

_KEY_ENTROPY_BYTES = 24


class ApiKeys:
    """Use cases of API keys; ``hmac_key`` is the installation's secret.

    ``wake`` is called after a change, so that the gateways hear of it at once.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: IdSource,
        hmac_key: bytes,
        wake: Callable[[], None],
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._hmac_key = hmac_key
        self._wake = wake

    def create(
        self,
        principal: Principal,
        *,
        name: str,
        role: Role,
        expires_at_ms: int | None,
        project: str | None,
        requests_in_flight_max: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key and return it with its text, which is kept nowhere.

        Only an operator may make an operator key; an end in the past is refused.
        """
        now_ms = self._clock.now_ms()
        if role is Role.OPERATOR and not principal.is_operator:
            message = "only an operator key may make operator keys: leave `role` out or use member"
            raise refuse(Code.PERMISSION_DENIED, message, param="role")
        if expires_at_ms is not None and expires_at_ms <= now_ms:
            message = (
                f"expires_at_ms is {expires_at_ms}, which is past: "
                f"expected milliseconds since 1970 UTC after {now_ms}"
            )
            raise refuse(Code.INVALID_VALUE, message, param="expires_at_ms")
        text = make_key(self._ids.entropy(_KEY_ENTROPY_BYTES))
        key_id = self._ids.new(kinds.API_KEY)

        def write(tx: Transaction) -> ApiKey:
            owner = live_project_named(tx, principal, project)
            key = ApiKey(
                id=key_id,
                project_id=owner.id,
                name=name,
                role=role,
                key_hash=hash_key(self._hmac_key, text),
                redacted=redact_key(text),
                created_at_ms=now_ms,
                expires_at_ms=expires_at_ms,
                requests_in_flight_max=requests_in_flight_max,
            )
            tenancy.insert_api_key(tx, key)
            events.append(tx, _event(key, principal, "created", now_ms))
            return key

        key = self._db.write(write)
        self._wake()
        return key, text

    def get(self, principal: Principal, key_id: str) -> ApiKey:
        """Return one key, usable or not."""
        with self._db.read() as tx:
            return _get(tx, principal, key_id)

    def list(
        self, principal: Principal, *, project: str | None, after: str | None, limit: int
    ) -> Page[ApiKey]:
        """Return a page of the keys that the principal may see, revoked ones too."""
        with self._db.read() as tx:
            scope = list_scope(tx, principal, project)
            found = tenancy.list_api_keys(tx, scope, after=after, limit=limit + 1)
        return page_of(found, limit)

    def revoke(self, principal: Principal, key_id: str) -> ApiKey:
        """End a key for good; revoking a revoked key changes nothing.

        A member may not revoke an operator's key, although both belong to one project.
        """

        def write(tx: Transaction) -> ApiKey:
            seen = _get(tx, principal, key_id)
            if seen.role is Role.OPERATOR and not principal.is_operator:
                message = "only an operator key may revoke operator keys"
                raise refuse(Code.PERMISSION_DENIED, message)
            if seen.revoked_at_ms is not None:
                return seen
            now_ms = self._clock.now_ms()
            stored = tenancy.update_api_key(tx, seen, replace(seen, revoked_at_ms=now_ms))
            events.append(tx, _event(seen, principal, "revoked", now_ms))
            return stored

        key = self._db.write(write)
        self._wake()
        return key


def _get(tx: Transaction, principal: Principal, key_id: str) -> ApiKey:
    found = tenancy.get_api_key_for(tx, visible_project_id(principal), key_id)
    if found is None:
        raise not_found("API key", key_id)
    return found


def _event(key: ApiKey, principal: Principal, what: str, now_ms: int) -> Event:
    return Event(
        at_ms=now_ms,
        subject_id=key.id,
        project_id=key.project_id,
        kind=f"api_key.{what}",
        message=f"API key {key.name} ({key.redacted}, {key.role}) {what}",
        actor=principal.key_id,
    )
