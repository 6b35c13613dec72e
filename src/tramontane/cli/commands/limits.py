"""``tramontane limits``: what organizations, projects and keys may use."""

from typing import Annotated, Final

import typer

from tramontane.cli.money import from_micro, micro_euros
from tramontane.cli.output import Column, print_item, print_list, print_row
from tramontane.cli.session import Session
from tramontane.cli.verbs import (
    LIMIT,
    Limit,
    OfOrganization,
    OfProject,
    Yes,
    confirm,
    noun,
    verb,
)
from tramontane.wire.client import segment

COLUMNS: Final = (
    Column("ID", "id"),
    Column("OF", "scope"),
    Column("WHOM", "subject_id"),
    Column("MODEL", "model"),
    Column("REQUESTS/MIN", "requests_per_minute_max"),
    Column("TOKENS/MIN", "tokens_per_minute_max"),
    Column("IN FLIGHT", "requests_in_flight_max"),
    Column("EUROS/MONTH", "budget_micro", from_micro),
)

OfKey = Annotated[str | None, typer.Option("--key", metavar="KEY_ID", help="An API key's id.")]
LimitId = Annotated[str, typer.Argument(metavar="LIMIT_ID", help="lim_… from the list.")]

app = noun("Limits: what an organization, a project or an API key may use.")


@verb(app, "list")
def list_(
    session: Session,
    organization: OfOrganization = None,
    project: OfProject = None,
    key: OfKey = None,
    limit: Limit = LIMIT,
) -> None:
    """List the limits that the key may see, or those of one subject."""
    query = {"organization": organization, "project": project, "api_key": key}
    listing = session.client.list_all("/limits", query, limit=limit)
    empty = "no limits; set one with `tramontane limits set --project NAME --budget EUROS`"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "get")
def get(session: Session, limit_id: LimitId) -> None:
    """Show one limit."""
    print_row(session.client.get(f"/limits/{segment(limit_id)}"), COLUMNS, as_json=session.as_json)


@verb(app, "set")
def set_(
    session: Session,
    *,
    organization: OfOrganization = None,
    project: OfProject = None,
    key: OfKey = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="As requests name it; else: all together."),
    ] = None,
    requests_per_minute: Annotated[
        int | None,
        typer.Option("--requests-per-minute", metavar="N", min=1, help="In a window of a minute."),
    ] = None,
    tokens_per_minute: Annotated[
        int | None,
        typer.Option("--tokens-per-minute", metavar="N", min=1, help="Of prompts and answers."),
    ] = None,
    requests_in_flight: Annotated[
        int | None,
        typer.Option(
            "--requests-in-flight", metavar="N", min=1, max=100_000, help="Open at a time."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="EUROS", help="In a calendar month (UTC), such as 10.00."),
    ] = None,
) -> None:
    """Set what one subject may use of a model, or of all; replaces its limit there; operators."""
    given = {
        "organization": organization,
        "project": project,
        "api_key": key,
        "model": model,
        "requests_per_minute_max": requests_per_minute,
        "tokens_per_minute_max": tokens_per_minute,
        "requests_in_flight_max": requests_in_flight,
        "budget_micro": micro_euros("--budget", budget),
    }
    body = {field: value for field, value in given.items() if value is not None}
    print_row(session.client.put("/limits", body), COLUMNS, as_json=session.as_json)


@verb(app, "remove")
def remove(session: Session, limit_id: LimitId, yes: Yes = False) -> None:
    """Take a limit away, with what was counted against it; for operators."""
    confirm(f"Remove {limit_id}? What it bounds is then open.", yes=yes)
    print_item(session.client.delete(f"/limits/{segment(limit_id)}"), as_json=session.as_json)
