"""Past facts about one object, written in the transaction that made them true."""

from collections.abc import Mapping
from dataclasses import dataclass, field

EventData = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of an object's story.

    ``subject_id`` is the object it happened to; ``project_id`` is None for what belongs to the
    operator alone. ``kind`` is ``<noun>.<past participle>`` such as ``replica.started``.
    ``actor`` is a key id or the name of a reconciler. ``sequence`` is 0 until the store numbers it.
    ``data`` never holds a secret or a prompt.
    """

    at_ms: int
    subject_id: str
    project_id: str | None
    kind: str
    message: str
    actor: str
    data: EventData = field(default_factory=dict[str, str | int | None])
    sequence: int = 0
