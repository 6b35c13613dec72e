"""``tramontane nodes``: machines and the devices on them."""

from typing import Annotated, Any, Final

import typer

from tramontane.cli.output import Column, moment, print_list, size, text
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, noun, verb


def _cores(millicores: object) -> str:
    return f"{millicores / 1000:g}" if isinstance(millicores, int) else text(millicores)


def _names(devices: object) -> str:
    known: list[Any] = devices if isinstance(devices, list) else []
    return text([device.get("name") for device in known if isinstance(device, dict)])


COLUMNS: Final = (
    Column("NAME", "name"),
    Column("CLUSTER", "cluster_id"),
    Column("STATUS", "status"),
    Column("CPU", "capacity.cpu_millicores", _cores),
    Column("MEMORY", "capacity.memory_bytes", size),
    Column("DEVICES", "devices", _names),
    Column("SEEN", "last_seen_at_ms", moment),
    Column("ID", "id"),
)

app = noun("Nodes: machines, and what replicas may use of them.")


@verb(app, "list")
def list_(
    session: Session,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", metavar="CLUSTER", help="Those of one only; name or id."),
    ] = None,
    limit: Limit = LIMIT,
) -> None:
    """List nodes with their capacity and devices; for operators."""
    listing = session.client.list_all("/nodes", {"cluster": cluster}, limit=limit)
    empty = "no nodes yet; `tramontane clusters list` says whether a driver answers"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)
