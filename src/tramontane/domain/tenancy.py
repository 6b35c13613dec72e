"""Who may do what: organizations, projects, API keys, roles and permissions.

An organization is the unit of billing and residency; a project inside it is the unit of quota
and isolation; an API key speaks for one project with one role.
"""

import binascii
import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

API_KEY_PREFIX: Final = "tmt_"
_KEY_ENTROPY_BYTES: Final = 24


class Permission(StrEnum):
    """Every route of the management API names exactly one of these."""

    ORGANIZATIONS_READ = "organizations.read"
    ORGANIZATIONS_WRITE = "organizations.write"
    PROJECTS_READ = "projects.read"
    PROJECTS_WRITE = "projects.write"
    API_KEYS_READ = "api-keys.read"
    API_KEYS_WRITE = "api-keys.write"
    MODELS_READ = "models.read"
    MODELS_WRITE = "models.write"
    DEPLOYMENTS_READ = "deployments.read"
    DEPLOYMENTS_WRITE = "deployments.write"
    REPLICAS_READ = "replicas.read"
    JOBS_READ = "jobs.read"
    JOBS_WRITE = "jobs.write"
    CLUSTERS_READ = "clusters.read"
    CLUSTERS_WRITE = "clusters.write"
    USAGE_READ = "usage.read"
    LIMITS_READ = "limits.read"
    LIMITS_WRITE = "limits.write"
    QUOTAS_READ = "quotas.read"
    QUOTAS_WRITE = "quotas.write"
    PRICES_READ = "prices.read"
    PRICES_WRITE = "prices.write"
    EVENTS_READ = "events.read"
    PLAN_READ = "plan.read"
    INFERENCE = "inference.use"

    @property
    def is_read(self) -> bool:
        """Tell whether it changes nothing."""
        return self.value.endswith(".read")


class Role(StrEnum):
    """What an API key may do. ``operator`` runs the installation; ``member`` uses a project."""

    OPERATOR = "operator"
    MEMBER = "member"


ROLE_PERMISSIONS: Final[dict[Role, frozenset[Permission]]] = {
    # An operator manages everything but never spends a tenant's money: inference needs a member.
    Role.OPERATOR: frozenset(Permission) - {Permission.INFERENCE},
    Role.MEMBER: frozenset(
        {
            Permission.ORGANIZATIONS_READ,
            Permission.PROJECTS_READ,
            Permission.API_KEYS_READ,
            Permission.API_KEYS_WRITE,
            Permission.MODELS_READ,
            Permission.DEPLOYMENTS_READ,
            Permission.DEPLOYMENTS_WRITE,
            Permission.REPLICAS_READ,
            Permission.JOBS_READ,
            Permission.JOBS_WRITE,
            Permission.USAGE_READ,
            Permission.LIMITS_READ,
            Permission.QUOTAS_READ,
            Permission.PRICES_READ,
            Permission.EVENTS_READ,
            Permission.INFERENCE,
        }
    ),
}


@dataclass(frozen=True, slots=True)
class Organization:
    """The unit of billing, residency and keys.

    ``may_store_responses``: what its requests and answers hold may be kept where a client asks
    for it. While it is blocked, no key of it may call a model.
    """

    id: str
    name: str
    created_at_ms: int
    may_store_responses: bool = False
    blocked_at_ms: int | None = None
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Project:
    """The unit of quota and isolation inside an organization.

    ``is_strict``: a request with a field that no API has is refused. ``allowed_models`` are the
    names that its keys may call, None for all. While it is blocked, they may call none.
    """

    id: str
    organization_id: str
    name: str
    created_at_ms: int
    archived_at_ms: int | None = None
    blocked_at_ms: int | None = None
    is_strict: bool = False
    allowed_models: tuple[str, ...] | None = None
    revision: int = 1


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential of one project. The key's text is shown once and never stored.

    ``allowed_models`` are the names that it may call, None for all that its project allows. While
    it is blocked, it may call none; to revoke it is for good.
    """

    id: str
    project_id: str
    name: str
    role: Role
    key_hash: str
    redacted: str
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None
    blocked_at_ms: int | None = None
    allowed_models: tuple[str, ...] | None = None
    revision: int = 1

    def is_usable(self, now_ms: int) -> bool:
        """Tell whether the key is neither revoked nor expired at ``now_ms``."""
        expired = self.expires_at_ms is not None and self.expires_at_ms <= now_ms
        return self.revoked_at_ms is None and not expired


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking: the authenticated key, where it belongs and what it may do.

    ``blocked`` says who was blocked, "organization", "project" or "key": it may only read then.
    """

    key_id: str
    project_id: str
    organization_id: str
    role: Role
    blocked: str | None = None

    @property
    def is_operator(self) -> bool:
        """Tell whether the principal sees every project."""
        return self.role is Role.OPERATOR

    def may(self, permission: Permission) -> bool:
        """Tell whether the principal's role grants ``permission``."""
        return permission in ROLE_PERMISSIONS[self.role]


def blocked_by(key: ApiKey, project: Project, *, organization_is_blocked: bool) -> str | None:
    """Return who was blocked, so that ``key`` may call no model: the widest of the three."""
    if organization_is_blocked:
        return "organization"
    if project.blocked_at_ms is not None:
        return "project"
    return None if key.blocked_at_ms is None else "key"


def make_key(entropy: bytes) -> str:
    """Return the text of a new API key: ``tmt_`` + 48 hex digits + CRC-32 as 8 hex digits.

    The checksum lets secret scanners and the gateway drop a mistyped key without a look-up.
    """
    if len(entropy) < _KEY_ENTROPY_BYTES:
        msg = f"a key needs {_KEY_ENTROPY_BYTES} bytes of entropy, got {len(entropy)}"
        raise ValueError(msg)
    body = API_KEY_PREFIX + entropy[:_KEY_ENTROPY_BYTES].hex()
    return body + _checksum(body)


def is_key_shaped(key: str) -> bool:
    """Tell whether ``key`` has the form and the checksum of a Tramontane key."""
    if not key.isascii() or len(key) != len(API_KEY_PREFIX) + 2 * _KEY_ENTROPY_BYTES + 8:
        return False
    return key.startswith(API_KEY_PREFIX) and _checksum(key[:-8]) == key[-8:]


def hash_key(hmac_key: bytes, key: str) -> str:
    """Return the HMAC-SHA256 of ``key`` as hex: all that the store and the gateway keep of it."""
    return hmac.new(hmac_key, key.encode(), hashlib.sha256).hexdigest()


def redact_key(key: str) -> str:
    """Return a form of ``key`` that is safe to show: its prefix and last four characters."""
    return f"{key[:8]}...{key[-4:]}"


def _checksum(body: str) -> str:
    return f"{binascii.crc32(body.encode()):08x}"
