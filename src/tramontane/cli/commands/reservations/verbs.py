"""``tramontane reservations``: racks that are kept for one organization."""

from typing import Annotated, Final

import typer

from tramontane.cli.output import Column, print_item, print_list
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, Yes, confirm, noun, verb
from tramontane.wire.client import segment

COLUMNS: Final = (
    Column("ID", "id"),
    Column("ORGANIZATION", "organization_id"),
    Column("CLUSTER", "cluster"),
    Column("RACK", "rack"),
)

ReservationId = Annotated[
    str, typer.Argument(metavar="RESERVATION_ID", help="rsv_… from the list.")
]

app = noun("Reservations: racks of Slurm clusters that only one organization may use.")


@verb(app, "list")
def list_(session: Session, limit: Limit = LIMIT) -> None:
    """List the reserved racks that the key may see."""
    listing = session.client.list_all("/reservations", limit=limit)
    empty = "no reservations; make one with `tramontane reservations create`"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "create", example="reservations create --organization acme --cluster alps --rack rack1")
def create(
    session: Session,
    *,
    organization: Annotated[
        str, typer.Option("--organization", metavar="ORGANIZATION", help="Its name or id.")
    ],
    cluster: Annotated[str, typer.Option("--cluster", metavar="CLUSTER", help="Its name or id.")],
    rack: Annotated[str, typer.Option("--rack", metavar="RACK", help="As its nodes tell it.")],
) -> None:
    """Keep a rack for one organization; for operators."""
    body = {"organization": organization, "cluster": cluster, "rack": rack}
    print_item(session.client.post("/reservations", body), as_json=session.as_json)


@verb(app, "delete")
def delete(session: Session, reservation_id: ReservationId, yes: Yes = False) -> None:
    """Let everybody use the rack again; for operators."""
    confirm(f"Delete {reservation_id}? Everybody may use its rack then.", yes=yes)
    path = f"/reservations/{segment(reservation_id)}"
    print_item(session.client.delete(path), as_json=session.as_json)
