"""``tramontane nodes``: machines, the devices on them, and what Tramontane runs there."""

from collections import Counter
from typing import Annotated, Any, Final

import typer

from tramontane.cli.output import Column, print_item, print_list, size, text
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, noun, verb
from tramontane.wire.client import segment


def _cores(millicores: object) -> str:
    return f"{millicores / 1000:g}" if isinstance(millicores, int) else text(millicores)


def _kinds(devices: object) -> str:
    known: list[Any] = devices if isinstance(devices, list) else []
    names = Counter(text(device.get("name")) for device in known if isinstance(device, dict))
    return text([f"{count} x {name}" for name, count in names.items()])


def _count(things: object) -> str:
    return str(len(things)) if isinstance(things, list) else text(things)


COLUMNS: Final = (
    Column("NAME", "name"),
    Column("CLUSTER", "cluster"),
    Column("RACK", "rack"),
    Column("STATUS", "status"),
    Column("CPU", "capacity.cpu_millicores", _cores),
    Column("MEMORY", "capacity.memory_bytes", size),
    Column("DEVICES", "devices", _kinds),
    Column("FREE", "devices_free"),
    Column("REPLICAS", "replica_ids", _count),
    Column("ATTEMPTS", "attempt_ids", _count),
    Column("FAILURES", "failures"),
    Column("ID", "id"),
    Column("REASON", "reason"),
)

Reference = Annotated[str, typer.Argument(metavar="NODE", help="Its name or id.")]
OnCluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="CLUSTER", help="Its cluster, if the name is used twice."),
]

app = noun("Nodes: machines, and what runs on them.")


@verb(app, "list")
def list_(
    session: Session,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", metavar="CLUSTER", help="Those of one only; name or id."),
    ] = None,
    limit: Limit = LIMIT,
) -> None:
    """List nodes with their devices and what runs there; for operators."""
    listing = session.client.list_all("/nodes", {"cluster": cluster}, limit=limit)
    empty = "no nodes yet; `tramontane clusters list` says whether a driver answers"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "get")
def get(session: Session, node: Reference, cluster: OnCluster = None) -> None:
    """Show one node with the ids of what runs on it."""
    print_item(session.client.get(_path(node), {"cluster": cluster}), as_json=session.as_json)


@verb(app, "drain", example='nodes drain r1n1 --reason "new disks"')
def drain(
    session: Session,
    node: Reference,
    *,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; the cluster shows it too.")
    ],
    cluster: OnCluster = None,
) -> None:
    """Start nothing more on a node; what serves there moves as soon as there is room."""
    path = f"{_path(node)}/drain"
    changed = session.client.post(path, {"reason": reason}, {"cluster": cluster})
    print_item(changed, as_json=session.as_json)


@verb(app, "resume", example="nodes resume r1n1")
def resume(session: Session, node: Reference, cluster: OnCluster = None) -> None:
    """Let things start on a node again, whoever drained it."""
    changed = session.client.post(f"{_path(node)}/resume", {}, {"cluster": cluster})
    print_item(changed, as_json=session.as_json)


def _path(reference: str) -> str:
    return f"/nodes/{segment(reference)}"
