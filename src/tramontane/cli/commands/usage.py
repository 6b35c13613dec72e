"""``tramontane usage``: what requests and attempts at jobs used."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from tramontane.cli.exits import CommandError, ExitCode
from tramontane.cli.money import from_nano
from tramontane.cli.output import Column, listed, moment, print_json, print_list
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, InProject, Limit, noun, verb
from tramontane.wire.client import PAGE_MAX

TOTALS: Final = (
    Column("HOUR", "hour_ms", moment),
    Column("PROJECT", "project_id"),
    Column("API KEY", "api_key_id"),
    Column("MODEL", "model"),
    Column("REQUESTS", "requests"),
    Column("PROMPT", "prompt_tokens"),
    Column("COMPLETION", "completion_tokens"),
    Column("CACHED", "cached_tokens"),
    Column("EUROS", "cost_nano", from_nano),
)
EVENTS: Final = (
    Column("STARTED", "started_at_ms", moment),
    Column("REQUEST", "request_id"),
    Column("MODEL", "model"),
    Column("ENDPOINT", "endpoint"),
    Column("OUTCOME", "outcome"),
    Column("STATUS", "status"),
    Column("PROMPT", "prompt_tokens"),
    Column("COMPLETION", "completion_tokens"),
    Column("MS", "duration_ms"),
    Column("EUROS", "cost_nano", from_nano),
)
ATTEMPTS: Final = (
    Column("STARTED", "started_at_ms", moment),
    Column("JOB", "job"),
    Column("INDEX", "array_index"),
    Column("ATTEMPT", "number"),
    Column("STATUS", "status"),
    Column("CLASS", "priority_class"),
    Column("DEVICES", "devices"),
    Column("SECONDS", "seconds"),
    Column("DEVICE-SECONDS", "device_seconds"),
    Column("EUROS", "cost_nano", from_nano),
)
ATTEMPT_TOTALS: Final = (
    Column("PROJECT", "project_id"),
    Column("CLASS", "priority_class"),
    Column("ATTEMPTS", "attempts"),
    Column("DEVICE-SECONDS", "device_seconds"),
    Column("EUROS", "cost_nano", from_nano),
)
Since = Annotated[
    str | None,
    typer.Option("--from", metavar="TIME", help="Such as 2026-11-22 or 2026-11-22T08:00Z."),
]
Until = Annotated[
    str | None, typer.Option("--to", metavar="TIME", help="Up to, but without, this time.")
]


class Group(StrEnum):
    """What the API can group sums by."""

    HOUR = "hour"
    PROJECT = "project"
    API_KEY = "api_key"
    MODEL = "model"
    NONE = "none"


app = noun("Usage: what requests and attempts at jobs used, one line each, and sums.")


@verb(app, "totals")
def totals(
    session: Session,
    *,
    since: Since = None,
    until: Until = None,
    group_by: Annotated[
        Group, typer.Option("--group-by", help="What each line stands for.")
    ] = Group.MODEL,
    project: InProject = None,
    limit: Limit = LIMIT,
) -> None:
    """Print sums of requests and tokens, by the hour and exact to the last event."""
    query = {
        "from_ms": _milliseconds("--from", since),
        "to_ms": _milliseconds("--to", until),
        "group_by": group_by,
        "project": project,
        "limit": limit,
    }
    found = session.client.get("/usage", query)
    if session.as_json:
        print_json(found)
        return
    sums = listed(found.get("data"), has_more=bool(found.get("has_more")))
    columns = [column for column in TOTALS if column.field not in _keys_without_value(sums)]
    empty = "nothing was used in that time; `tramontane chat DEPLOYMENT` uses something"
    print_list(sums, columns, empty=empty, as_json=False)


@verb(app, "events")
def events(
    session: Session,
    after: Annotated[
        str | None, typer.Option("--after", metavar="ID", help="Those that follow this event.")
    ] = None,
    project: InProject = None,
    limit: Limit = LIMIT,
) -> None:
    """List usage events, one per request, in the order of their arrival."""
    query = {"after": after, "project": project}
    listing = session.client.list_all("/usage/events", query, limit=limit)
    empty = "no usage events yet; `tramontane chat DEPLOYMENT` makes one"
    print_list(listing, EVENTS, empty=empty, as_json=session.as_json)


@verb(app, "attempts", example="usage attempts --from 2026-11-01 --to 2026-12-01")
def attempts(
    session: Session,
    *,
    since: Since = None,
    until: Until = None,
    job: Annotated[
        str | None, typer.Option("--job", metavar="JOB", help="Only those at this job.")
    ] = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="ID", help="Those that follow this attempt.")
    ] = None,
    project: InProject = None,
    limit: Limit = LIMIT,
) -> None:
    """List attempts at jobs with devices, seconds, class and cost, and sums over all of them."""
    query = {
        "from_ms": _milliseconds("--from", since),
        "to_ms": _milliseconds("--to", until),
        "job": job,
        "after": after,
        "project": project,
    }
    bill = session.client.get("/usage/attempts", {**query, "limit": min(limit, PAGE_MAX)})
    if bill.get("has_more") and limit > PAGE_MAX:
        query["after"] = bill.get("last_id")
        rest = session.client.list_all("/usage/attempts", query, limit=limit - PAGE_MAX)
        bill = {**bill, **rest, "data": [*bill["data"], *rest["data"]]}
    if session.as_json:
        print_json(bill)
        return
    lines = listed(bill.get("data"), has_more=bool(bill.get("has_more")))
    empty = "no attempts yet; `tramontane jobs submit FILE` makes one"
    print_list(lines, ATTEMPTS, empty=empty, as_json=False)
    if bill.get("totals"):
        print()
        print_list(listed(bill["totals"]), ATTEMPT_TOTALS, empty="", as_json=False)
    if bill.get("open_attempts"):
        print(f"{bill['open_attempts']} of them are not accounted yet, and in no sum")


def _keys_without_value(sums: dict[str, Any]) -> set[str]:
    """Return the keys that were not grouped by: null in every line."""
    keys = {"hour_ms", "project_id", "api_key_id", "model"}
    return {key for key in keys if all(item.get(key) is None for item in sums["data"])}


def _milliseconds(option: str, given: str | None) -> int | None:
    if given is None:
        return None
    try:
        at = datetime.fromisoformat(given)
    except ValueError as error:
        msg = f"{option} must be a date or time such as 2026-11-22 or 2026-11-22T08:00Z, in UTC "
        msg += f"unless it names another zone, not {given!r}"
        raise CommandError(msg, ExitCode.USAGE) from error
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
