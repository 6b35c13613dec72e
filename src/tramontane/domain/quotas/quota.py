"""What an organization or a project may hold of accelerators, and racks that are kept for one."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tramontane.domain.launch import PriorityClass

SHARE_DEFAULT: Final = 1


class QuotaScope(StrEnum):
    """Whose use a quota bounds."""

    ORGANIZATION = "organization"
    PROJECT = "project"


@dataclass(frozen=True, slots=True)
class Quota:
    """What one subject may hold.

    ``devices_max`` counts whole accelerators in use at once, by jobs and replicas together; None
    leaves them open. ``share`` is the subject's part of a cluster that is full, as a whole number
    beside those of its siblings: projects of one organization, or all organizations.
    ``priority_classes`` are those that may be asked for, the highest first; None leaves it to
    what the organization may, and of an organization to `classes.of_organization`.
    """

    id: str
    scope: QuotaScope
    subject_id: str
    devices_max: int | None = None
    share: int = SHARE_DEFAULT
    priority_classes: tuple[PriorityClass, ...] | None = None


@dataclass(frozen=True, slots=True)
class RackReservation:
    """A rack of a cluster that only one organization may use. ``cluster`` is the cluster's name."""

    id: str
    organization_id: str
    cluster: str
    rack: str
