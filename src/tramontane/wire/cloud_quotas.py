"""Quotas, reserved racks, prices of classes and the bill of attempts as they travel."""

from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tramontane.domain.launch import PriorityClass
from tramontane.wire import cloud_types as types
from tramontane.wire.cloud_replies import Page, Time, TimeOrNull
from tramontane.wire.cloud_requests import PageQuery, ProjectPageQuery
from tramontane.wire.cloud_types import Reply, Strict

DEVICES_MAX: Final = 1_000_000  # of one tenant at once; the largest sites have a hundred thousand
SHARE_MAX: Final = 1_000_000
DEVICE_HOUR_MICRO_MAX: Final = 10**9  # a thousand euros; a year of a rack then fits in 64 bits

_ORGANIZATION = "Id or name of an organization."
_PROJECT = "Id or name of a project."
Class = Literal["reserved", "standard", "spot"]


class SetQuota(Strict):
    """What one subject may hold; replaces what it had."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"organization": "acme", "devices_max": 16, "share": 3}]}
    )

    organization: Annotated[types.Ref | None, Field(description=_ORGANIZATION)] = None
    project: Annotated[types.Ref | None, Field(description=_PROJECT)] = None
    devices_max: Annotated[
        int | None,
        Field(ge=0, le=DEVICES_MAX, description="Accelerators in use at once; null: any number."),
    ] = None
    share: Annotated[
        int,
        Field(
            ge=1,
            le=SHARE_MAX,
            description="Its part of a full cluster beside those of its siblings.",
        ),
    ] = 1
    priority_classes: Annotated[
        list[Class] | None,
        Field(
            min_length=1,
            max_length=len(PriorityClass),
            description="Classes that may be asked for; a project has no more than its "
            "organization. Null: what the organization has; of an organization standard and spot, "
            "and reserved if a rack is reserved for it.",
        ),
    ] = None

    @model_validator(mode="after")
    def _check_subject(self) -> Self:
        if (self.organization is None) is (self.project is None):
            msg = "name whom the quota binds: exactly one of organization and project"
            raise ValueError(msg)
        return self


class QuotaPageQuery(PageQuery):
    """A page of quotas: all that the key may see, or that of one subject."""

    organization: Annotated[types.Ref | None, Field(description=_ORGANIZATION)] = None
    project: Annotated[types.Ref | None, Field(description=_PROJECT)] = None

    @model_validator(mode="after")
    def _check_subject(self) -> Self:
        if self.organization is not None and self.project is not None:
            msg = "name at most one of organization and project"
            raise ValueError(msg)
        return self


class CreateReservation(Strict):
    """A rack that is kept for one organization."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"organization": "acme", "cluster": "alps", "rack": "rack1"}]
        }
    )

    organization: Annotated[types.Ref, Field(description=_ORGANIZATION)]
    cluster: Annotated[types.Ref, Field(description="Id or name of a cluster.")]
    rack: Annotated[types.Rack, Field(description="Name of a rack, as its nodes tell it.")]


class SetClassPrice(Strict):
    """What a class costs from now on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"device_hour_micro": 1_200_000}]})

    device_hour_micro: Annotated[
        int,
        Field(
            ge=0,
            le=DEVICE_HOUR_MICRO_MAX,
            description="Micro-euros for one accelerator and hour; 0: free.",
        ),
    ]


class AttemptBillQuery(ProjectPageQuery):
    """Which attempts; the range counts when an attempt started."""

    job: Annotated[types.Ref | None, Field(description="Id or name of a job.")] = None
    from_ms: Annotated[types.TimeMs, Field(description="From this millisecond since 1970 UTC.")] = 0
    to_ms: Annotated[types.TimeMs, Field(description="Up to, but without, this millisecond.")] = (
        types.TIME_MS_MAX
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.from_ms > self.to_ms:
            msg = "from_ms must not be after to_ms"
            raise ValueError(msg)
        return self


class Quota(Reply):
    """What one subject may hold of accelerators."""

    object: Literal["quota"] = "quota"
    id: str
    scope: Annotated[str, Field(description="organization or project.")]
    subject_id: Annotated[str, Field(description="Id of the organization or project.")]
    devices_max: Annotated[
        int | None, Field(description="Accelerators in use at once; null: any number.")
    ]
    share: int
    priority_classes: Annotated[
        list[Class] | None, Field(description="Classes that may be asked for; null: none is named.")
    ]


class Reservation(Reply):
    """A rack that only one organization may use."""

    object: Literal["reservation"] = "reservation"
    id: str
    organization_id: str
    cluster: Annotated[str, Field(description="Name of the cluster.")]
    rack: str


class ClassPrice(Reply):
    """What a priority class costs."""

    object: Literal["class_price"] = "class_price"
    priority_class: Class
    device_hour_micro: Annotated[
        int, Field(description="Micro-euros for one accelerator and hour.")
    ]
    changed_at_ms: TimeOrNull


class ClassPrices(Reply):
    """What every class costs."""

    object: Literal["list"] = "list"
    data: list[ClassPrice]
    has_more: bool = False


class BilledAttempt(Reply):
    """One attempt at a job: what it held, for how long, and what that costs."""

    object: Literal["attempt"] = "attempt"
    id: str
    job_id: str
    job: Annotated[str, Field(description="Name of the job.")]
    project_id: str
    array_index: int
    number: Annotated[int, Field(description="Counts the attempts at its index from 1.")]
    status: Annotated[str, Field(description="How it ended, or running.")]
    priority_class: Class
    devices: Annotated[int, Field(description="Accelerators on all of its nodes.")]
    seconds: Annotated[
        int | None, Field(description="From its start to its end, rounded; null: it runs.")
    ]
    device_seconds: Annotated[
        int, Field(description="Seconds of one accelerator; so far, until it is accounted.")
    ]
    device_hour_micro: Annotated[
        int | None, Field(description="The price that held when it was accounted; null: not yet.")
    ]
    cost_nano: Annotated[
        int | None, Field(description="Nano-euros, rounded up once; null: not accounted yet.")
    ]
    started_at_ms: Time
    ended_at_ms: TimeOrNull


class AttemptTotal(Reply):
    """A sum over the accounted attempts of one project in one class."""

    project_id: str
    priority_class: Class
    attempts: int
    device_seconds: int
    cost_nano: Annotated[int, Field(description="Nano-euros: the sum of the single costs.")]


class AttemptBill(Page[BilledAttempt]):
    """A page of attempts, and sums over all that were asked for."""

    totals: list[AttemptTotal]
    open_attempts: Annotated[
        int, Field(description="Attempts that are not accounted yet: they are in no sum.")
    ]
