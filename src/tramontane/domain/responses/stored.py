"""A stored response: what it asked and answered, kept for its project until it is deleted.

    queued -> in_progress -> completed | incomplete | failed | cancelled

A response in the foreground is stored once, at its end. One in the background is stored before
it begins and belongs to a gateway, which says every second that it still works on it.
"""

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

# The input and the answer of one response, as JSON. A gateway's message holds both.
BYTES_MAX: Final = 3 * 1024 * 1024
# Of one project; beyond it the oldest go first.
PROJECT_BYTES_MAX: Final = 1024 * 1024 * 1024
# Of one conversation that is continued by `previous_response_id`: responses, and their bytes.
CHAIN_MAX: Final = 1_000
CHAIN_BYTES_MAX: Final = 16 * 1024 * 1024
# A gateway that says nothing of a response for this long has lost it.
SILENCE_MS_MAX: Final = 15_000


class ResponseStatus(StrEnum):
    """How far a response is."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Tell whether it will stay so."""
        return self not in {ResponseStatus.QUEUED, ResponseStatus.IN_PROGRESS}


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response. ``body`` is the object and ``input_items`` the list that the API shows, JSON.

    ``holder`` is the gateway process that works on it; ``seen_at_ms`` is when it last said so.
    """

    id: str
    organization_id: str
    project_id: str
    api_key_id: str
    status: ResponseStatus
    is_background: bool
    holder: str
    previous_id: str | None
    body: str
    input_items: str
    created_at_ms: int
    seen_at_ms: int
    revision: int = 1

    @property
    def size_bytes(self) -> int:
        """Return how much room it takes."""
        return len(self.body.encode()) + len(self.input_items.encode())


def text_of(value: object) -> str:
    """Return ``value`` as the JSON text that is stored."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def shown(response: StoredResponse) -> dict[str, Any]:
    """Return the object that clients see. While it is worked on, its body has an older status."""
    return {**json.loads(response.body), "status": response.status.value}


def lost(response: StoredResponse) -> StoredResponse:
    """Return the response as failed, because the gateway that worked on it is gone."""
    message = "the gateway that worked on the response ended before it did: ask again"
    error = {"code": "server_error", "message": message}
    failed = ResponseStatus.FAILED
    body = {**json.loads(response.body), "status": failed.value, "error": error}
    return replace(response, status=failed, body=text_of(body))
