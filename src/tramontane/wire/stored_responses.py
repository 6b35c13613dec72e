"""Stored responses on the wire: what gateways bring and report, what clients ask and get."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tramontane.wire.cloud_types import PAGE_LIMIT_DEFAULT, PAGE_LIMIT_MAX, Query, Reply, Strict

RUNNING_MAX = 4_096  # as many requests as a gateway serves at a time

_Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
_ResponseId = Annotated[str, Field(pattern=r"^resp_[a-z2-7]{20}$")]
_Holder = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
_Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
_Running = Annotated[list[_ResponseId], Field(max_length=RUNNING_MAX)]


class ResponseBody(BaseModel):
    """A response object; only what the control plane relies on is named."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    id: _ResponseId
    status: _Status
    output: list[dict[str, Any]]
    background: bool = False
    previous_response_id: _Id | None = None


class _InputItem(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    id: _Id
    type: str


class KeepResponse(Strict):
    """A response to be stored, at its end or before it begins in the background."""

    organization_id: _Id
    project_id: _Id
    api_key_id: _Id
    holder: _Holder
    response: ResponseBody
    input_items: list[_InputItem]


class FinishResponse(Strict):
    """The end of a response in the background."""

    project_id: _Id
    response: ResponseBody


class Finished(Reply):
    """The status that the response has now."""

    status: str


class ResponseReport(Strict):
    """What a gateway process works on in the background; it says so every second."""

    gateway: _Id
    holder: _Holder
    queued: _Running
    in_progress: _Running


class ResponseOrders(Reply):
    """Those that the gateway should stop, as they were cancelled or deleted."""

    stop: list[str]


class HistoryQuery(Query):
    """Whose response it is."""

    project_id: _Id


class History(Reply):
    """The items of a conversation up to a response, oldest first."""

    items: list[dict[str, Any]]


class _Lenient(BaseModel):
    """Query parameters of an API that others define: what is not known is ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ResponseQuery(_Lenient):
    """How a response is wanted."""

    stream: Annotated[
        bool, Field(description="Only `false`: a stored response is not streamed again.")
    ] = False


class InputItemsQuery(_Lenient):
    """Which page of a response's input is wanted."""

    order: Annotated[
        Literal["asc", "desc"], Field(description="By their place in the request.")
    ] = "desc"
    after: Annotated[
        str | None, Field(min_length=1, max_length=128, description="Id of an item of the list.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=PAGE_LIMIT_MAX)] = PAGE_LIMIT_DEFAULT


class Response(BaseModel):
    """A stored response, as the Responses API shows it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    object: Literal["response"]
    created_at: Annotated[int, Field(description="Seconds since 1970 UTC.")]
    status: _Status
    background: bool
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    previous_response_id: str | None
    store: bool


class InputItems(Reply):
    """One page of the items that a response was asked with."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedResponse(Reply):
    """A response that is gone."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
