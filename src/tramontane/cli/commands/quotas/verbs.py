"""``tramontane quotas``: how many devices organizations and projects may use."""

from typing import Annotated, Final

import typer

from tramontane.cli.output import Column, print_item, print_list, print_row
from tramontane.cli.session import Session
from tramontane.cli.verbs import (
    LIMIT,
    Limit,
    OfOrganization,
    OfProject,
    Yes,
    confirm,
    names,
    noun,
    verb,
)
from tramontane.wire.client import segment

COLUMNS: Final = (
    Column("ID", "id"),
    Column("OF", "scope"),
    Column("WHOM", "subject_id"),
    Column("DEVICES", "devices_max"),
    Column("SHARE", "share"),
    Column("CLASSES", "priority_classes"),
)

QuotaId = Annotated[str, typer.Argument(metavar="QUOTA_ID", help="quo_… from the list.")]

app = noun("Quotas: how many accelerators an organization or a project may use at once.")


@verb(app, "list")
def list_(
    session: Session,
    organization: OfOrganization = None,
    project: OfProject = None,
    limit: Limit = LIMIT,
) -> None:
    """List the quotas that the key may see, or that of one subject."""
    query = {"organization": organization, "project": project}
    listing = session.client.list_all("/quotas", query, limit=limit)
    empty = "no quotas; set one with `tramontane quotas set --organization NAME --devices N`"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "set", example="quotas set --organization acme --devices 16 --share 3")
def set_(
    session: Session,
    *,
    organization: OfOrganization = None,
    project: OfProject = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", metavar="N", min=0, help="In use at once; else: any number."),
    ] = None,
    share: Annotated[
        int,
        typer.Option("--share", metavar="N", min=1, help="Part of a full cluster, beside others."),
    ] = 1,
    priority_classes: Annotated[
        str | None,
        typer.Option(
            "--priority-classes",
            metavar="NAMES",
            help="What may be asked for, such as standard,spot; else: as its organization.",
        ),
    ] = None,
) -> None:
    """Set what an organization or a project may hold; replaces its quota; operators."""
    given = {
        "organization": organization,
        "project": project,
        "devices_max": devices,
        "share": share,
        "priority_classes": names(priority_classes),
    }
    body = {field: value for field, value in given.items() if value is not None}
    print_row(session.client.put("/quotas", body), COLUMNS, as_json=session.as_json)


@verb(app, "delete")
def delete(session: Session, quota_id: QuotaId, yes: Yes = False) -> None:
    """Take a quota away; for operators."""
    confirm(f"Delete {quota_id}? Its subject may use any number of devices then.", yes=yes)
    print_item(session.client.delete(f"/quotas/{segment(quota_id)}"), as_json=session.as_json)
