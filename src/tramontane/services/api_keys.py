"""API keys: made with their text shown once, listed without it, blocked, revoked for good."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tramontane.domain import ids as kinds
from tramontane.domain.event import Event
from tramontane.domain.refusal import Code, refuse
from tramontane.domain.spending.limits import Limit, LimitScope
from tramontane.domain.tenancy import ApiKey, Principal, Role, hash_key, make_key, redact_key
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.scope import (
    ALL_MODELS,
    Page,
    list_scope,
    live_project_named,
    not_found,
    stored_names,
    visible_project_id,
)
from tramontane.store import events, tenancy
from tramontane.store.db import Database, Transaction
from tramontane.store.spending import limits

_KEY_ENTROPY_BYTES = 24


@dataclass(frozen=True, slots=True)
class DescribedApiKey:
    """A key, and how many requests it may have open by its limit for all models."""

    key: ApiKey
    requests_in_flight_max: int | None = None


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """What a new key is to be. `services.scope.ALL_MODELS` allows all models."""

    name: str
    role: Role = Role.MEMBER
    expires_at_ms: int | None = None
    project: str | None = None
    requests_in_flight_max: int | None = None
    allowed_models: tuple[str, ...] = (ALL_MODELS,)


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

    def create(self, principal: Principal, new: NewApiKey) -> tuple[DescribedApiKey, str]:
        """Make a key and return it with its text, which is kept nowhere.

        Only an operator may make an operator key; an end in the past is refused.
        """
        now_ms = self._clock.now_ms()
        _check_new(principal, new, now_ms)
        text = make_key(self._ids.entropy(_KEY_ENTROPY_BYTES))
        key_id, limit_id = self._ids.new(kinds.API_KEY), self._ids.new(kinds.LIMIT)

        def write(tx: Transaction) -> ApiKey:
            owner = live_project_named(tx, principal, new.project)
            key = ApiKey(
                id=key_id,
                project_id=owner.id,
                name=new.name,
                role=new.role,
                key_hash=hash_key(self._hmac_key, text),
                redacted=redact_key(text),
                created_at_ms=now_ms,
                expires_at_ms=new.expires_at_ms,
                allowed_models=stored_names(new.allowed_models),
            )
            tenancy.insert_api_key(tx, key)
            if new.requests_in_flight_max is not None:
                bound = Limit(
                    id=limit_id,
                    scope=LimitScope.API_KEY,
                    subject_id=key_id,
                    requests_in_flight_max=new.requests_in_flight_max,
                )
                limits.ROWS.insert(tx, bound, now_ms)
            events.append(tx, _event(key, principal, "created", now_ms))
            return key

        key = self._db.write(write)
        self._wake()
        return DescribedApiKey(key, new.requests_in_flight_max), text

    def get(self, principal: Principal, key_id: str) -> DescribedApiKey:
        """Return one key, usable or not."""
        with self._db.read() as tx:
            return _described(tx, [_get(tx, principal, key_id)])[0]

    def list(
        self, principal: Principal, *, project: str | None, after: str | None, limit: int
    ) -> Page[DescribedApiKey]:
        """Return a page of the keys that the principal may see, revoked ones too."""
        with self._db.read() as tx:
            scope = list_scope(tx, principal, project)
            found = tenancy.list_api_keys(tx, scope, after=after, limit=limit + 1)
            return Page(_described(tx, found[:limit]), len(found) > limit)

    def change(
        self,
        principal: Principal,
        key_id: str,
        *,
        is_blocked: bool | None,
        allowed_models: tuple[str, ...] | None,
    ) -> DescribedApiKey:
        """Block or unblock a key, or change what it may call; None leaves a thing as it is.

        Refused for the key that asks, which would lock itself out.
        """
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> DescribedApiKey:
            seen = _get(tx, principal, key_id)
            new = seen
            whats: list[str] = []
            if is_blocked not in {None, seen.blocked_at_ms is not None}:
                if seen.id == principal.key_id:
                    message = (
                        "this is your own key, which would stop working: block it with another"
                    )
                    raise refuse(Code.IN_USE, message)
                new = replace(new, blocked_at_ms=now_ms if is_blocked else None)
                whats.append("blocked" if is_blocked else "unblocked")
            if allowed_models is not None:
                allowed = stored_names(allowed_models)
                if allowed != seen.allowed_models:
                    new = replace(new, allowed_models=allowed)
                    whats.append("given other models")
            for what in whats:
                events.append(tx, _event(seen, principal, what, now_ms))
            stored = tenancy.update_api_key(tx, seen, new) if whats else seen
            return _described(tx, [stored])[0]

        key = self._db.write(write)
        self._wake()
        return key

    def revoke(self, principal: Principal, key_id: str) -> DescribedApiKey:
        """End a key for good; revoking a revoked key changes nothing.

        A member may not revoke an operator's key, although both belong to one project.
        """

        def write(tx: Transaction) -> DescribedApiKey:
            seen = _get(tx, principal, key_id)
            if seen.role is Role.OPERATOR and not principal.is_operator:
                message = "only an operator key may revoke operator keys"
                raise refuse(Code.PERMISSION_DENIED, message)
            if seen.revoked_at_ms is None:
                now_ms = self._clock.now_ms()
                events.append(tx, _event(seen, principal, "revoked", now_ms))
                seen = tenancy.update_api_key(tx, seen, replace(seen, revoked_at_ms=now_ms))
            return _described(tx, [seen])[0]

        key = self._db.write(write)
        self._wake()
        return key


def _check_new(principal: Principal, new: NewApiKey, now_ms: int) -> None:
    if new.role is Role.OPERATOR and not principal.is_operator:
        message = "only an operator key may make operator keys: leave `role` out or use member"
        raise refuse(Code.PERMISSION_DENIED, message, param="role")
    if new.expires_at_ms is not None and new.expires_at_ms <= now_ms:
        message = (
            f"expires_at_ms is {new.expires_at_ms}, which is past: "
            f"expected milliseconds since 1970 UTC after {now_ms}"
        )
        raise refuse(Code.INVALID_VALUE, message, param="expires_at_ms")


def _described(tx: Transaction, keys: Sequence[ApiKey]) -> list[DescribedApiKey]:
    bounds = limits.requests_in_flight(tx, [key.id for key in keys])
    return [DescribedApiKey(key, bounds.get(key.id)) for key in keys]


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
        kind=f"api_key.{what.replace(' ', '_')}",
        message=f"API key {key.name} ({key.redacted}, {key.role}) {what}",
        actor=principal.key_id,
    )
