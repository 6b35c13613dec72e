"""``tramontane budgets``: how much of the limits in euros is spent."""

from typing import Final

from tramontane.cli.commands.limits import OfKey
from tramontane.cli.money import from_micro, from_nano
from tramontane.cli.output import Column, moment, print_list
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, OfOrganization, OfProject, noun, verb

COLUMNS: Final = (
    Column("LIMIT", "id"),
    Column("OF", "scope"),
    Column("WHOM", "subject_id"),
    Column("MODEL", "model"),
    Column("MONTH", "period"),
    Column("EUROS", "budget_micro", from_micro),
    Column("SPENT", "spent_nano", from_nano),
    Column("HELD", "held_nano", from_nano),
    Column("LEFT", "remaining_nano", from_nano),
    Column("WHOLE AGAIN", "ends_at_ms", moment),
)

app = noun("Budgets: how much of the limits in euros is spent in this month.")


@verb(app, "list")
def list_(
    session: Session,
    organization: OfOrganization = None,
    project: OfProject = None,
    key: OfKey = None,
    limit: Limit = LIMIT,
) -> None:
    """List budgets; what is held is reserved for requests under way."""
    query = {"organization": organization, "project": project, "api_key": key}
    listing = session.client.list_all("/budgets", query, limit=limit)
    empty = "no budgets; set one with `tramontane limits set --project NAME --budget EUROS`"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)
