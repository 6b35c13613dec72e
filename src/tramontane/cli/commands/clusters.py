"""``tramontane clusters``: sets of nodes, each behind one driver."""

from typing import Final

from tramontane.cli.output import Column, moment, print_list
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, noun, verb

COLUMNS: Final = (
    Column("NAME", "name"),
    Column("DRIVER", "driver"),
    Column("STATUS", "status"),
    Column("ID", "id"),
    Column("CREATED", "created_at_ms", moment),
    Column("REASON", "reason"),
)

app = noun("Clusters: sets of nodes, each behind one driver.")


@verb(app, "list")
def list_(session: Session, limit: Limit = LIMIT) -> None:
    """List clusters and whether their drivers answer; for operators."""
    listing = session.client.list_all("/clusters", limit=limit)
    empty = "no clusters yet; the control plane adds this machine when it starts"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)
