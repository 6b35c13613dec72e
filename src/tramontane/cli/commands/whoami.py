"""``tramontane whoami``: who the key speaks for."""

import typer

from tramontane.cli.output import print_item
from tramontane.cli.session import Session
from tramontane.cli.verbs import verb

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@verb(app, "whoami")
def whoami(session: Session) -> None:
    """Say who the key speaks for and what it may do."""
    print_item(session.client.get("/whoami"), as_json=session.as_json)
