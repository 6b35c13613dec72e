"""Paths of the two vendors' APIs that nothing serves here, and what is said of each.

A client that calls one is told that the path is right and the service is not there, which an
"unknown path" would not tell it. Who begins to serve one of them takes it out of the table.
"""

from typing import Final

from tramontane.domain.refusal import Code, Refusal

_NO_MODEL: Final = "no model here does that: deploy one that answers chats, and ask it"
_NOT_YET: Final = "it is not served here yet"
_NOT_HERE: Final = "it belongs to the vendor's own products and is not served here"

# The first one or two parts of a path below /v1 or /v2. What models would do is the gateway's.
MODELS_WORK: Final = frozenset(
    {
        "moderations",
        "chat/moderations",
        "classifications",
        "chat/classifications",
        "ocr",
        "audio",
        "images",
        "videos",
        "realtime",
    }
)
_OTHERS: Final[dict[str, str]] = {
    "files": _NOT_YET,
    "uploads": _NOT_YET,
    "batches": _NOT_YET,
    "batch": _NOT_YET,
    "fine_tuning": _NOT_YET,
    "agents": _NOT_YET,
    "conversations": _NOT_YET,
    "vector_stores": _NOT_YET,
    "libraries": _NOT_YET,
    "organization": _NOT_YET,
    "users": _NOT_YET,
    "whoami": _NOT_YET,
    "assistants": _NOT_HERE,
    "threads": _NOT_HERE,
    "evals": _NOT_HERE,
    "containers": _NOT_HERE,
    "skills": _NOT_HERE,
    "prompts": _NOT_HERE,
    "connectors": _NOT_HERE,
    "observability": _NOT_HERE,
    "workflows": _NOT_HERE,
    "rag": _NOT_HERE,
    "context": _NOT_HERE,
    "admin": _NOT_HERE,
}
_VERSIONS: Final = frozenset({"v1", "v2"})
_SHOWN_MAX: Final = 200  # characters of a path


def is_models_work(path: str) -> bool:
    """Tell whether ``path``, plain and without its mount, asks for what no model here does."""
    return not MODELS_WORK.isdisjoint(_names(path))


def refusal_at(method: str, path: str) -> Refusal:
    """Return what to say of a path below /v1 that nothing serves."""
    shown = f"{method} {path[:_SHOWN_MAX]}"
    for name in _names(path):
        why = _NO_MODEL if name in MODELS_WORK else _OTHERS.get(name)
        if why is not None:
            return Refusal(Code.NOT_FOUND, f"{shown} is part of the API, but {why}")
    return Refusal(Code.NOT_FOUND, f"Invalid URL ({shown}): the API has no such path")


def is_inference(path: str) -> bool:
    """Tell whether ``path`` is one of those that the vendors' clients call."""
    return path.startswith(("/v1/", "/v2/"))


def _names(path: str) -> list[str]:
    _, version, *parts = path.split("/")
    if version not in _VERSIONS or not parts:
        return []
    return ["/".join(parts[:2]), parts[0]]
