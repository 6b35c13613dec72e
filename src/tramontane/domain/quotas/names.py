"""What accounts, classes and reservations are called in Slurm, and which names are ours.

Organizations and projects are DNS labels, which have no underscore: a name is read in one way.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from tramontane.domain.launch import PriorityClass

# Slurm writes its names in lower case; without an end, a prefix would claim others' names.
_PREFIX: Final = re.compile(r"[a-z][a-z0-9-]{0,14}_")
PREFIX_WORDS: Final = (
    "up to 15 of a-z, 0-9 and hyphens with one underscore at its end, such as tmt_"
)
# Slurm's database tells accounts apart by so many characters (22.05: the unique keys of its
# tables), and makes no second one whose name begins alike.
ACCOUNT_CHARS_MAX: Final = 42
_DIGEST_CHARS: Final = 12


def is_prefix(prefix: str) -> bool:
    """Tell whether names may begin with ``prefix``: see `PREFIX_WORDS`."""
    return _PREFIX.fullmatch(prefix) is not None


def account_of(prefix: str, organization: str, project: str | None = None) -> str:
    """Return the account of an organization, or of one of its projects.

    A long name is cut and ends in a dot, which no label has, and a digest of all of it.
    """
    name = f"{prefix}{organization}" if project is None else f"{prefix}{organization}_{project}"
    if len(name) <= ACCOUNT_CHARS_MAX:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{name[: ACCOUNT_CHARS_MAX - _DIGEST_CHARS - 1]}.{digest}"


def qos_of(prefix: str, priority_class: PriorityClass) -> str:
    """Return the QOS of a class."""
    return f"{prefix}{priority_class}"


def reservation_of(prefix: str, organization: str, rack: str) -> str:
    """Return the name of the reservation that keeps ``rack`` for an organization."""
    return f"{prefix}{organization}_{rack}"


def user_of(
    users: Mapping[str, str], default: str | None, organization: str, project: str
) -> str | None:
    """Return the Unix user of a project: its own, else its organization's, else ``default``.

    ``users`` has keys ``organization`` and ``organization/project``.
    """
    own = users.get(f"{organization}/{project}")
    return own or users.get(organization) or default
