"""``tramontane organizations``: tenants."""

from typing import Annotated, Final

import typer

from tramontane.cli.output import Column, moment, print_item, print_list
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, noun, verb
from tramontane.wire.client import segment

COLUMNS: Final = (
    Column("NAME", "name"),
    Column("ID", "id"),
    Column("CREATED", "created_at_ms", moment),
    Column("BLOCKED", "blocked_at_ms", moment),
)

Reference = Annotated[str, typer.Argument(metavar="ORGANIZATION", help="Its name or id.")]

app = noun("Organizations: the unit of billing, residency and keys.")


@verb(app, "list")
def list_(session: Session, limit: Limit = LIMIT) -> None:
    """List the organizations that the key may see."""
    listing = session.client.list_all("/organizations", limit=limit)
    empty = "no organizations yet; create one with `tramontane organizations create NAME`"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "get")
def get(session: Session, organization: Reference) -> None:
    """Show one organization."""
    found = session.client.get(f"/organizations/{segment(organization)}")
    print_item(found, as_json=session.as_json)


@verb(app, "create")
def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A DNS label: a-z, 0-9 and hyphens.")],
) -> None:
    """Create an organization; for operators."""
    print_item(session.client.post("/organizations", {"name": name}), as_json=session.as_json)


@verb(app, "update")
def update(
    session: Session,
    organization: Reference,
    *,
    store_responses: Annotated[
        bool | None,
        typer.Option(
            "--store-responses/--no-store-responses",
            help="Whether responses may be kept where a client asks for it.",
        ),
    ] = None,
) -> None:
    """Say whether responses of an organization may be kept; for operators."""
    given = {"may_store_responses": store_responses}
    _change(session, organization, {k: v for k, v in given.items() if v is not None})


@verb(app, "block")
def block(session: Session, organization: Reference) -> None:
    """Keep the keys of its projects from calling models until it is unblocked; for operators."""
    _change(session, organization, {"is_blocked": True})


@verb(app, "unblock")
def unblock(session: Session, organization: Reference) -> None:
    """Let the keys of its projects call models again; for operators."""
    _change(session, organization, {"is_blocked": False})


def _change(session: Session, organization: str, body: dict[str, object]) -> None:
    changed = session.client.patch(f"/organizations/{segment(organization)}", body)
    print_item(changed, as_json=session.as_json)
