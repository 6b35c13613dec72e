"""``tramontane sites``: where machines stand, and the country whose law they are under."""

from typing import Final

from tramontane.cli.output import Column, print_list
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, noun, verb

COLUMNS: Final = (
    Column("NAME", "name"),
    Column("COUNTRY", "country"),
    Column("CLUSTERS", "clusters"),
    Column("RACKS", "racks"),
    Column("NODES", "nodes"),
    Column("READY", "nodes_ready"),
    Column("DEVICES", "devices"),
    Column("FREE", "devices_free"),
)

app = noun("Sites: where machines stand, and under whose law.")


@verb(app, "list")
def list_(session: Session, limit: Limit = LIMIT) -> None:
    """List sites with what stands there; for operators."""
    listing = session.client.list_all("/sites", limit=limit)
    empty = "no sites yet; `tramontane clusters list` says whether a driver answers"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)
