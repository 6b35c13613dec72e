"""Tokens for slurmrestd, one per Unix user: HS256 over the cluster's key (slurm: jwt).

The key is read whenever a token is made, so a new key needs no restart. It is never logged, and
neither is a token.
"""

import base64
import hashlib
import hmac
import json
import threading
from pathlib import Path
from typing import Final

from tramontane.drivers.base import DriverUnavailableError
from tramontane.runtime.clock import Clock

LIFETIME_S: Final = 600
RENEW_S: Final = 300  # before its end: longer than any call takes, and than clocks differ
EARLY_S: Final = 60  # a cluster whose clock is behind by less accepts it as well


class TokenSource:
    """Makes tokens and keeps them until they are about to end; for any number of threads."""

    def __init__(self, key_path: Path, clock: Clock) -> None:
        self._key_path = key_path
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[int, str]] = {}  # user: end in seconds, token

    def token(self, user: str) -> str:
        """Return a token for ``user`` that is good for `RENEW_S` at least.

        Raises `DriverUnavailableError` when the key cannot be read.
        """
        now_s = self._clock.now_ms() // 1000
        with self._lock:
            ends_s, token = self._tokens.get(user, (0, ""))
            if ends_s - now_s < RENEW_S:
                ends_s = now_s + LIFETIME_S
                claims = {"exp": ends_s, "iat": now_s - EARLY_S, "sun": user}
                token = sign(self._read_key(), claims)
                self._tokens[user] = (ends_s, token)
            return token

    def discard(self, user: str) -> None:
        """Make a new token next time: this one was refused, and the key may be another by now."""
        with self._lock:
            self._tokens.pop(user, None)

    def _read_key(self) -> bytes:
        try:
            key = self._key_path.read_bytes()
        except OSError as error:
            msg = f"cannot read jwt_key {self._key_path}: {error.strerror}"
            raise DriverUnavailableError(msg) from error
        if not key:
            msg = f"jwt_key {self._key_path} is empty"
            raise DriverUnavailableError(msg)
        return key


def sign(key: bytes, claims: dict[str, object]) -> str:
    """Return the compact form of a token (RFC 7515, HMAC with SHA-256) of ``claims``."""
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(claims)}"
    digest = hmac.new(key, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_encoded(digest)}"


def _part(content: dict[str, object]) -> str:
    return _encoded(json.dumps(content, separators=(",", ":")).encode())


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
