"""Which of the two dialects a caller speaks: OpenAI's or Mistral's.

The answer shapes replies only (the status of a validation error, the form of a list). No security
decision may depend on it: a caller chooses it freely.
"""

from enum import StrEnum
from typing import Final


class Dialect(StrEnum):
    """The two families of clients that one origin serves."""

    OPENAI = "openai"
    MISTRAL = "mistral"


_MOUNTS: Final = (("/openai/v1", Dialect.OPENAI), ("/mistral/v1", Dialect.MISTRAL))
_MISTRAL_AGENTS: Final = ("mistral-client-", "langchain-mistral")


def mount_of(path: str) -> Dialect | None:
    """Return the dialect that the path names by its explicit mount, or None at plain ``/v1``."""
    for prefix, dialect in _MOUNTS:
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}:
            return dialect
    return None


def dialect_of(path: str, user_agent: str | None) -> Dialect:
    """Decide by explicit mount, then by User-Agent, else OpenAI (rule of wire.md 1.3).

    The official Mistral clients call themselves ``mistral-client-python/<version>`` and
    ``mistral-client-typescript/<version>``.
    """
    mount = mount_of(path)
    if mount is not None:
        return mount
    if user_agent is not None and user_agent.lower().startswith(_MISTRAL_AGENTS):
        return Dialect.MISTRAL
    return Dialect.OPENAI
