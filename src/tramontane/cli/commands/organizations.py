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
