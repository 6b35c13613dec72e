"""``tramontane replicas``: the running engines of deployments."""

from typing import Annotated, Final

import typer

from tramontane.cli.output import Column, moment, print_item, print_list
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, InProject, Limit, noun, verb
from tramontane.wire.client import segment

COLUMNS: Final = (
    Column("ID", "id"),
    Column("DEPLOYMENT", "deployment_id"),
    Column("STATUS", "status"),
    Column("GENERATION", "generation"),
    Column("NODE", "node_id"),
    Column("CREATED", "created_at_ms", moment),
    Column("REASON", "reason"),
)

app = noun("Replicas: one running engine each.")


@verb(app, "list")
def list_(
    session: Session,
    deployment: Annotated[
        str | None,
        typer.Option("--deployment", metavar="DEPLOYMENT", help="Those of one only; name or id."),
    ] = None,
    project: InProject = None,
    limit: Limit = LIMIT,
) -> None:
    """List replicas, the ended ones that are still remembered too."""
    query = {"deployment": deployment, "project": project}
    listing = session.client.list_all("/replicas", query, limit=limit)
    empty = "no replicas; a deployment with replicas starts some: `tramontane deployments list`"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "get")
def get(
    session: Session,
    replica: Annotated[str, typer.Argument(metavar="REPLICA_ID", help="rep_… from the list.")],
) -> None:
    """Show one replica; `tramontane story` tells what happened to it."""
    print_item(session.client.get(f"/replicas/{segment(replica)}"), as_json=session.as_json)
