"""Limits, budgets and prices as they travel: what clients send to /cloud/v1 and what they get.

Amounts of money are whole numbers: micro-euros in what is set (a millionth of a euro), nano-euros
in what is counted (a thousandth of that), so that nothing is ever rounded on the way.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tramontane.wire import cloud_types as types
from tramontane.wire.cloud_replies import Time, TimeOrNull
from tramontane.wire.cloud_requests import PageQuery
from tramontane.wire.cloud_types import Reply, Strict

RATE_MAX: Final = 10**12  # per minute; more than all accelerators together produce
IN_FLIGHT_MAX: Final = 100_000
BUDGET_MICRO_MAX: Final = 10**15  # a milliard euros a month; its nano-euros fit in 64 bits
PRICE_MICRO_MAX: Final = 10**12  # a million euros per million tokens

_Rate = Annotated[int, Field(ge=1, le=RATE_MAX)]
_Price = Annotated[int, Field(ge=0, le=PRICE_MICRO_MAX)]

_ORGANIZATION = "Id or name of an organization."
_PROJECT = "Id or name of a project."
_API_KEY = "Id of an API key."


class SetLimit(Strict):
    """What one subject may use, of one model or of all together; replaces what it had."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"project": "web", "requests_per_minute_max": 100, "budget_micro": 10_000_000}
            ]
        }
    )

    organization: Annotated[types.Ref | None, Field(description=_ORGANIZATION)] = None
    project: Annotated[types.Ref | None, Field(description=_PROJECT)] = None
    api_key: Annotated[types.Ref | None, Field(description=_API_KEY)] = None
    model: Annotated[
        types.CalledModel | None,
        Field(description="The name that requests ask for; null: all models together."),
    ] = None
    requests_per_minute_max: Annotated[
        _Rate | None, Field(description="Requests in a window of a minute; null: any number.")
    ] = None
    tokens_per_minute_max: Annotated[
        _Rate | None,
        Field(description="Tokens of prompts and answers in a window of a minute; null: any."),
    ] = None
    requests_in_flight_max: Annotated[
        int | None,
        Field(ge=1, le=IN_FLIGHT_MAX, description="Requests open at a time; null: any number."),
    ] = None
    budget_micro: Annotated[
        int | None,
        Field(
            ge=0,
            le=BUDGET_MICRO_MAX,
            description="Micro-euros in a calendar month, UTC; null: any amount.",
        ),
    ] = None

    @model_validator(mode="after")
    def _check_subject(self) -> Self:
        if [self.organization, self.project, self.api_key].count(None) != 2:
            msg = "name whom the limit binds: exactly one of organization, project and api_key"
            raise ValueError(msg)
        return self


class LimitPageQuery(PageQuery):
    """A page of limits: all that the key may see, or those of one subject."""

    organization: Annotated[types.Ref | None, Field(description=_ORGANIZATION)] = None
    project: Annotated[types.Ref | None, Field(description=_PROJECT)] = None
    api_key: Annotated[types.Ref | None, Field(description=_API_KEY)] = None

    @model_validator(mode="after")
    def _check_subject(self) -> Self:
        if [self.organization, self.project, self.api_key].count(None) < 2:
            msg = "name at most one of organization, project and api_key"
            raise ValueError(msg)
        return self


class SetPrices(Strict):
    """What a model costs from now on; what is left out is free."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt_micro": 150_000, "completion_micro": 600_000}]}
    )

    prompt_micro: Annotated[
        _Price, Field(description="Micro-euros per million tokens of prompts.")
    ] = 0
    completion_micro: Annotated[
        _Price, Field(description="Micro-euros per million tokens of answers.")
    ] = 0
    cached_micro: Annotated[
        _Price | None,
        Field(
            description="Micro-euros per million tokens of prompts that the engine found in its "
            "cache; null: as other tokens of prompts."
        ),
    ] = None
    request_micro: Annotated[_Price, Field(description="Micro-euros per request.")] = 0


class Limit(Reply):
    """What one subject may use."""

    object: Literal["limit"] = "limit"
    id: str
    scope: Annotated[str, Field(description="organization, project or api_key.")]
    subject_id: Annotated[str, Field(description="Id of the organization, project or key.")]
    model: Annotated[str | None, Field(description="Null: all models together.")]
    requests_per_minute_max: int | None
    tokens_per_minute_max: int | None
    requests_in_flight_max: int | None
    budget_micro: Annotated[int | None, Field(description="Micro-euros in a calendar month.")]


class Budget(Reply):
    """How the budget of a limit stands in the month that runs."""

    object: Literal["budget"] = "budget"
    id: Annotated[str, Field(description="Id of the limit.")]
    scope: Annotated[str, Field(description="organization, project or api_key.")]
    subject_id: str
    model: str | None
    budget_micro: Annotated[int, Field(description="Micro-euros in a calendar month.")]
    spent_nano: Annotated[int, Field(description="Nano-euros that recorded requests cost.")]
    held_nano: Annotated[
        int, Field(description="Nano-euros that gateways hold for requests under way.")
    ]
    remaining_nano: Annotated[
        int, Field(description="Nano-euros that are neither spent nor held; never below 0.")
    ]
    period: Annotated[str, Field(description="The month, such as 2026-11, UTC.")]
    ends_at_ms: Annotated[Time, Field(description="When the budget is whole again.")]


class ModelPrices(Reply):
    """What a model costs."""

    object: Literal["prices"] = "prices"
    id: Annotated[str, Field(description="Id of the model.")]
    model: Annotated[str, Field(description="Name of the model.")]
    prompt_micro: Annotated[int, Field(description="Micro-euros per million tokens.")]
    completion_micro: Annotated[int, Field(description="Micro-euros per million tokens.")]
    cached_micro: Annotated[
        int | None, Field(description="Micro-euros per million tokens; null: as for prompts.")
    ]
    request_micro: Annotated[int, Field(description="Micro-euros per request.")]
    changed_at_ms: TimeOrNull
