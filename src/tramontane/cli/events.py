"""The table of events that several nouns print: what happened, oldest first."""

from typing import Any, Final

from tramontane.cli.output import Column, moment, print_list
from tramontane.cli.session import Session

COLUMNS: Final = (
    Column("AT", "at_ms", moment),
    Column("EVENT", "kind"),
    Column("SUBJECT", "subject_id"),
    Column("BY", "actor"),
    Column("MESSAGE", "message"),
)


def print_events(listing: dict[str, Any], session: Session, *, empty: str) -> None:
    """Print a list of events; ``empty`` says what it means that there are none."""
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)
