"""``tramontane clusters``: sets of nodes, each behind one driver."""

from typing import Annotated, Final

import typer

from tramontane.cli.commands.nodes import COLUMNS as NODES
from tramontane.cli.output import Column, listed, moment, print_item, print_json, print_list, text
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, noun, verb
from tramontane.wire.client import segment

COLUMNS: Final = (
    Column("NAME", "name"),
    Column("DRIVER", "driver"),
    Column("STATUS", "status"),
    Column("ID", "id"),
    Column("CREATED", "created_at_ms", moment),
    Column("REASON", "reason"),
)
OF_RACK: Final = tuple(column for column in NODES if column.title not in {"CLUSTER", "RACK"})

app = noun("Clusters: sets of nodes, each behind one driver.")


@verb(app, "list")
def list_(session: Session, limit: Limit = LIMIT) -> None:
    """List clusters and whether their drivers answer; for operators."""
    listing = session.client.list_all("/clusters", limit=limit)
    empty = "no clusters yet; the control plane adds this machine when it starts"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "get")
def get(
    session: Session,
    cluster: Annotated[str, typer.Argument(metavar="CLUSTER", help="Its name or id.")],
) -> None:
    """Show one cluster, rack by rack, with its nodes and what runs on them."""
    found = session.client.get(f"/clusters/{segment(cluster)}")
    if session.as_json:
        print_json(found)
        return
    racks = listed(found.pop("racks", None))["data"]
    print_item(found, as_json=False)
    for rack in racks:
        print()
        print(f"rack {text(rack['name'])}" if rack.get("name") else "no rack is told")
        print_list(listed(rack.get("nodes")), OF_RACK, empty="no nodes", as_json=False)
