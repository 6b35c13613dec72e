"""``tramontane prices``: what models and priority classes cost."""

from enum import StrEnum
from typing import Annotated, Final

import typer

from tramontane.cli.money import from_micro, micro_euros
from tramontane.cli.output import Column, listed, moment, print_json, print_list, print_row
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, Yes, confirm, noun, verb
from tramontane.wire.client import segment

COLUMNS: Final = (
    Column("MODEL", "model"),
    Column("PROMPT", "prompt_micro", from_micro),
    Column("COMPLETION", "completion_micro", from_micro),
    Column("CACHED", "cached_micro", from_micro),
    Column("REQUEST", "request_micro", from_micro),
    Column("SINCE", "changed_at_ms", moment),
)

CLASS_COLUMNS: Final = (
    Column("CLASS", "priority_class"),
    Column("DEVICE-HOUR", "device_hour_micro", from_micro),
    Column("SINCE", "changed_at_ms", moment),
)


class PriorityClass(StrEnum):
    """Who gives way to whom."""

    RESERVED = "reserved"
    STANDARD = "standard"
    SPOT = "spot"


Reference = Annotated[str, typer.Argument(metavar="MODEL", help="Its name or id.")]

app = noun("Prices: what models and priority classes cost, in euros.")


@verb(app, "list")
def list_(session: Session, limit: Limit = LIMIT) -> None:
    """List what the models of the catalogue cost."""
    listing = session.client.list_all("/prices", limit=limit)
    empty = "no models yet; import one with `tramontane models import NAME PATH`"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "get")
def get(session: Session, model: Reference) -> None:
    """Show what one model costs."""
    print_row(session.client.get(f"/prices/{segment(model)}"), COLUMNS, as_json=session.as_json)


@verb(app, "set")
def set_(
    session: Session,
    model: Reference,
    *,
    prompt: Annotated[
        str | None, typer.Option(metavar="EUROS", help="Per million tokens of prompts.")
    ] = None,
    completion: Annotated[
        str | None, typer.Option(metavar="EUROS", help="Per million tokens of answers.")
    ] = None,
    cached: Annotated[
        str | None,
        typer.Option(
            metavar="EUROS", help="Per million prompt tokens from the cache; else: as --prompt."
        ),
    ] = None,
    request: Annotated[str | None, typer.Option(metavar="EUROS", help="Per request.")] = None,
) -> None:
    """Set what a model costs, in every deployment of it; what is left out is free; operators."""
    given = {
        "prompt_micro": micro_euros("--prompt", prompt),
        "completion_micro": micro_euros("--completion", completion),
        "cached_micro": micro_euros("--cached", cached),
        "request_micro": micro_euros("--request", request),
    }
    body = {field: value for field, value in given.items() if value is not None}
    print_row(
        session.client.put(f"/prices/{segment(model)}", body), COLUMNS, as_json=session.as_json
    )


@verb(app, "remove")
def remove(session: Session, model: Reference, yes: Yes = False) -> None:
    """Make a model free; for operators."""
    confirm(f"Make {model} free?", yes=yes)
    print_row(session.client.delete(f"/prices/{segment(model)}"), COLUMNS, as_json=session.as_json)


@verb(app, "classes")
def classes(session: Session) -> None:
    """List what an accelerator costs for an hour in each priority class."""
    found = session.client.get("/class-prices")
    if session.as_json:
        print_json(found)
        return
    print_list(listed(found.get("data")), CLASS_COLUMNS, empty="no prices", as_json=False)


@verb(app, "set-class", example="prices set-class spot --device-hour 1.20")
def set_class(
    session: Session,
    priority_class: Annotated[PriorityClass, typer.Argument(metavar="CLASS")],
    *,
    device_hour: Annotated[
        str, typer.Option("--device-hour", metavar="EUROS", help="For one accelerator and hour.")
    ],
) -> None:
    """Set what a priority class costs; holds for attempts that are accounted later; operators."""
    body: dict[str, object] = {"device_hour_micro": micro_euros("--device-hour", device_hour)}
    found = session.client.put(f"/class-prices/{priority_class}", body)
    print_row(found, CLASS_COLUMNS, as_json=session.as_json)
