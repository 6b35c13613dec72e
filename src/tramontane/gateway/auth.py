"""Tells who is asking, from the Authorization header and the route table's hashes.

A small cache in memory maps the header to the key found, so that a busy key is hashed once per
revision. Only keys that the table knows are cached: guesses cannot push them out.
"""

from typing import Final

from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.routing import RouteKey
from tramontane.domain.tenancy import ROLE_PERMISSIONS, Permission, hash_key, is_key_shaped
from tramontane.gateway import refusals

_CACHE_MAX: Final = 4_096
_CACHED_BYTES_MAX: Final = 128  # of a header; spaces around a key would make it as many again
_SCHEME: Final = b"bearer "

_NO_KEY: Final = Refusal(
    Code.INVALID_API_KEY,
    "no API key was sent; send one as 'Authorization: Bearer tmt_...'",
)
_WRONG_KEY: Final = Refusal(
    Code.INVALID_API_KEY,
    "the API key is unknown or was revoked; check it, or ask your project for a new one",
)
_EXPIRED_KEY: Final = Refusal(
    Code.INVALID_API_KEY, "the API key has expired; ask your project for a new one"
)
_NO_INFERENCE: Final = Refusal(
    Code.PERMISSION_DENIED,
    "this key manages the installation and cannot call models; use the key of a project member",
)


class Authenticator:
    """Looks keys up in one revision of the route table."""

    __slots__ = ("_cache", "_hmac_key", "_keys")

    def __init__(self, hmac_key: str, keys: dict[str, RouteKey]) -> None:
        """``hmac_key`` is hex; ``keys`` is keyed by the HMAC of the key's text."""
        self._hmac_key = bytes.fromhex(hmac_key)
        self._keys = keys
        self._cache: dict[bytes, RouteKey] = {}

    def identify(self, authorization: bytes | None, now_ms: int) -> RouteKey | Refusal:
        """Return the key that the header's value names, or why there is none."""
        if authorization is None:
            return _NO_KEY
        cached = self._cache.get(authorization)
        found = cached if cached is not None else self._look_up(authorization)
        if isinstance(found, Refusal):
            return found
        if found.expires_at_ms is not None and found.expires_at_ms <= now_ms:
            return _EXPIRED_KEY
        if found.blocked is not None:
            return refusals.blocked(found.blocked)
        return found

    def may_infer(self, authorization: bytes | None, now_ms: int) -> RouteKey | Refusal:
        """Like `identify`, for calls to models: operator keys are refused."""
        found = self.identify(authorization, now_ms)
        if isinstance(found, Refusal) or Permission.INFERENCE in ROLE_PERMISSIONS[found.role]:
            return found
        return _NO_INFERENCE

    def _look_up(self, authorization: bytes) -> RouteKey | Refusal:
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return _NO_KEY
        text = authorization[len(_SCHEME) :].strip().decode("latin-1")
        if not text:
            return _NO_KEY
        if not is_key_shaped(text):
            return _WRONG_KEY
        found = self._keys.get(hash_key(self._hmac_key, text))
        if found is None:
            return _WRONG_KEY
        if len(authorization) <= _CACHED_BYTES_MAX:
            if len(self._cache) >= _CACHE_MAX:
                self._cache.clear()
            self._cache[authorization] = found
        return found
