"""``tramontane nodes``: machines and the devices on them."""

from typing import Any, Final

from tramontane.cli.output import Column, moment, print_list, size, text
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, noun, verb


def _cores(capacity: object) -> str:
    millicores = capacity.get("cpu_millicores") if isinstance(capacity, dict) else None
    return f"{millicores / 1000:g}" if isinstance(millicores, int) else "-"


def _memory(capacity: object) -> str:
    return size(capacity.get("memory_bytes")) if isinstance(capacity, dict) else "-"


def _devices(devices: object) -> str:
    known: list[Any] = devices if isinstance(devices, list) else []
    return text([device.get("name") for device in known if isinstance(device, dict)])


_COLUMNS: Final = (
    Column("NAME", "name"),
    Column("CLUSTER", "cluster_id"),
    Column("STATUS", "status"),
    Column("CPU", "capacity", _cores),
    Column("MEMORY", "capacity", _memory),
    Column("DEVICES", "devices", _devices),
    Column("SEEN", "last_seen_at_ms", moment),
    Column("ID", "id"),
)

app = noun("Nodes: machines, and what replicas may use of them.")


@verb(app, "list")
def list_(session: Session, limit: Limit = LIMIT) -> None:
    """List nodes with their capacity and devices; for operators."""
    listing = session.client.list_all("/nodes", limit=limit)
    empty = "no nodes yet; `tramontane clusters list` says whether a driver answers"
    print_list(listing, _COLUMNS, empty=empty, as_json=session.as_json)
