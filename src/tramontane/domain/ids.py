"""Typed, prefixed identifiers: ``<prefix>_<20 characters of base32>``.

The prefix names the kind of thing, so that an id in a log or an error explains itself.
"""

import base64
import re
from typing import Final

ENTROPY_BYTES: Final = 13  # 104 bits, of which 20 base32 characters keep 100

ORGANIZATION: Final = "org"
PROJECT: Final = "prj"
API_KEY: Final = "key"
MODEL: Final = "mdl"
MODEL_VERSION: Final = "mdv"
CLUSTER: Final = "clu"
NODE: Final = "nod"
DEPLOYMENT: Final = "dep"
REPLICA: Final = "rep"
JOB: Final = "job"
ATTEMPT: Final = "att"
USAGE_EVENT: Final = "evt"
REQUEST: Final = "req"
LIMIT: Final = "lim"
QUOTA: Final = "quo"
RESERVATION: Final = "rsv"
RESPONSE: Final = "resp"
INSTALLATION: Final = "ins"

_ID = re.compile(r"(?P<prefix>[a-z]{3,5})_[a-z2-7]{20}")
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def make_id(prefix: str, entropy: bytes) -> str:
    """Return the id of kind ``prefix`` made from ``entropy`` (at least `ENTROPY_BYTES` bytes)."""
    if len(entropy) < ENTROPY_BYTES:
        msg = f"an id needs {ENTROPY_BYTES} bytes of entropy, got {len(entropy)}"
        raise ValueError(msg)
    return f"{prefix}_{base64.b32encode(entropy)[:20].decode().lower()}"


def prefix_of(value: str) -> str | None:
    """Return the prefix of a well-formed id, or None when ``value`` is not one."""
    match = _ID.fullmatch(value)
    return match["prefix"] if match else None


def check(value: str, prefix: str) -> None:
    """Raise ValueError unless ``value`` is an id of this kind."""
    if prefix_of(value) != prefix:
        msg = f"{value!r} is no id that begins with {prefix}_"
        raise ValueError(msg)


def is_dns_label(name: str) -> bool:
    """Tell whether ``name`` is an RFC 1123 label: 1-63 of a-z, 0-9 and inner hyphens."""
    return _DNS_LABEL.fullmatch(name) is not None
