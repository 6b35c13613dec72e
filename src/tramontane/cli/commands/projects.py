"""``tramontane projects``: the unit of quota and isolation."""

from typing import Annotated, Final

import typer

from tramontane.cli.output import Column, moment, print_item, print_list
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, Models, Yes, confirm, names, noun, verb
from tramontane.wire.client import segment

COLUMNS: Final = (
    Column("NAME", "name"),
    Column("ID", "id"),
    Column("ORGANIZATION", "organization_id"),
    Column("CREATED", "created_at_ms", moment),
    Column("ARCHIVED", "archived_at_ms", moment),
    Column("BLOCKED", "blocked_at_ms", moment),
)

Reference = Annotated[str, typer.Argument(metavar="PROJECT", help="Its name or id.")]
Organization = Annotated[
    str | None,
    typer.Option("--organization", metavar="ORGANIZATION", help="Its name or id."),
]

app = noun("Projects: the unit of quota and isolation inside an organization.")


@verb(app, "list")
def list_(session: Session, organization: Organization = None, limit: Limit = LIMIT) -> None:
    """List the projects that the key may see, or those of one organization."""
    query = {"organization": organization}
    listing = session.client.list_all("/projects", query, limit=limit)
    empty = "no projects yet; create one with `tramontane projects create NAME`"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "get")
def get(session: Session, project: Reference) -> None:
    """Show one project."""
    found = session.client.get(f"/projects/{segment(project)}")
    print_item(found, as_json=session.as_json)


@verb(app, "create")
def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A DNS label: a-z, 0-9 and hyphens.")],
    organization: Organization = None,
) -> None:
    """Create a project in an organization (the key's own unless named); for operators."""
    body: dict[str, object] = {"name": name}
    if organization is not None:
        body["organization"] = organization
    print_item(session.client.post("/projects", body), as_json=session.as_json)


@verb(app, "archive")
def archive(session: Session, project: Reference, yes: Yes = False) -> None:
    """Archive a project without deployments: its keys stop working; for operators."""
    confirm(f"Archive project {project}? Its keys stop working.", yes=yes)
    print_item(session.client.delete(f"/projects/{segment(project)}"), as_json=session.as_json)


@verb(app, "update")
def update(
    session: Session,
    project: Reference,
    *,
    strict: Annotated[
        bool | None,
        typer.Option("--strict/--no-strict", help="Refuse fields that no API knows, or ignore."),
    ] = None,
    models: Models = None,
) -> None:
    """Make a project strict, or change which models its keys may call; for operators."""
    given = {"is_strict": strict, "allowed_models": names(models)}
    _change(session, project, {k: v for k, v in given.items() if v is not None})


@verb(app, "block")
def block(session: Session, project: Reference) -> None:
    """Keep its keys from calling models until it is unblocked; for operators."""
    _change(session, project, {"is_blocked": True})


@verb(app, "unblock")
def unblock(session: Session, project: Reference) -> None:
    """Let its keys call models again; for operators."""
    _change(session, project, {"is_blocked": False})


def _change(session: Session, project: str, body: dict[str, object]) -> None:
    changed = session.client.patch(f"/projects/{segment(project)}", body)
    print_item(changed, as_json=session.as_json)
