"""``tramontane story ID``: everything that happened to one object."""

from typing import Annotated

import typer

from tramontane.cli.events import print_events
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, verb

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@verb(app, "story")
def story(
    session: Session,
    subject: Annotated[
        str, typer.Argument(metavar="ID", help="Of a deployment, replica, model, key, project, …")
    ],
    limit: Limit = LIMIT,
) -> None:
    """Print the events of one object, oldest first."""
    listing = session.client.list_all("/events", {"subject": subject}, limit=limit)
    empty = f"no events of {subject}: none was told yet, or it is no id that the key may see"
    empty += "; ids stand in the ID column of the lists"
    print_events(listing, session, empty=empty)
