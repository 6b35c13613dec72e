"""Tokens for slurmrestd: what ``scontrol token`` makes, without asking the controller."""

import base64
import hashlib
import hmac
import json
import time


def sign(key: bytes, user: str, lifespan_s: int) -> str:
    """Return a JWT for a Unix user: HS256 over the key, claims ``sun``, ``iat`` and ``exp``."""
    now = int(time.time())
    claims = {"exp": now + lifespan_s, "iat": now, "sun": user}
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(claims)}"
    digest = hmac.new(key, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_encoded(digest)}"


def _part(content: dict[str, object]) -> str:
    return _encoded(json.dumps(content, separators=(",", ":")).encode())


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
