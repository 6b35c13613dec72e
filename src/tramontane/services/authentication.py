"""Whose key is this: from the text of an API key to a principal."""

from tramontane.domain.refusal import Code, refuse
from tramontane.domain.tenancy import (
    ApiKey,
    Principal,
    Project,
    Role,
    blocked_by,
    hash_key,
    is_key_shaped,
)
from tramontane.runtime.clock import Clock
from tramontane.store import tenancy
from tramontane.store.db import Database, Transaction

_MESSAGE = "the API key is {}: send `Authorization: Bearer <key>` with a key that is valid now"


class Authentication:
    """Reads who is asking; ``hmac_key`` is the installation's secret."""

    def __init__(self, db: Database, clock: Clock, hmac_key: bytes) -> None:
        self._db = db
        self._clock = clock
        self._hmac_key = hmac_key

    def principal(self, key: str) -> Principal:
        """Return the principal of ``key``; refused (invalid_api_key) unless it is usable now.

        A mistyped key is told by its checksum, without a look-up.
        """
        if not is_key_shaped(key):
            raise refuse(Code.INVALID_API_KEY, _MESSAGE.format("mistyped or of another system"))
        with self._db.read() as tx:
            found = tenancy.find_api_key_by_hash(tx, hash_key(self._hmac_key, key))
            blocked = _blocked(tx, *found) if found else None
        if found is None:
            raise refuse(Code.INVALID_API_KEY, _MESSAGE.format("unknown"))
        api_key, project = found
        if not api_key.is_usable(self._clock.now_ms()):
            word = "expired" if api_key.revoked_at_ms is None else "revoked"
            raise refuse(Code.INVALID_API_KEY, _MESSAGE.format(word))
        if project.archived_at_ms is not None:
            raise refuse(Code.INVALID_API_KEY, _MESSAGE.format("of an archived project"))
        return Principal(api_key.id, project.id, project.organization_id, api_key.role, blocked)


def _blocked(tx: Transaction, key: ApiKey, project: Project) -> str | None:
    """Return who was blocked. A blocked tenant does not lock its operators out."""
    if key.role is Role.OPERATOR:
        return None if key.blocked_at_ms is None else "key"
    owner = tenancy.get_organization(tx, project.organization_id)
    is_blocked = owner is not None and owner.blocked_at_ms is not None
    return blocked_by(key, project, organization_is_blocked=is_blocked)
