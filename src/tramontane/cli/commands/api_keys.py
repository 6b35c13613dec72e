"""``tramontane api-keys``: credentials of projects. A key's text is shown once, at creation."""

import sys
from enum import StrEnum
from typing import Annotated, Final

import typer

from tramontane.cli.output import Column, moment, print_item, print_list
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, InProject, Limit, Models, Yes, confirm, names, noun, verb
from tramontane.runtime.clock import SystemClock
from tramontane.wire.client import segment

COLUMNS: Final = (
    Column("ID", "id"),
    Column("NAME", "name"),
    Column("ROLE", "role"),
    Column("KEY", "redacted"),
    Column("PROJECT", "project_id"),
    Column("CREATED", "created_at_ms", moment),
    Column("EXPIRES", "expires_at_ms", moment),
    Column("REVOKED", "revoked_at_ms", moment),
    Column("BLOCKED", "blocked_at_ms", moment),
)

_DAY_MS: Final = 86_400_000


KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="key_… from the list.")]


class KeyRole(StrEnum):
    """The roles that the API knows (domain.tenancy.Role)."""

    MEMBER = "member"
    OPERATOR = "operator"


app = noun("API keys: credentials that speak for one project with one role.")


@verb(app, "list")
def list_(session: Session, project: InProject = None, limit: Limit = LIMIT) -> None:
    """List the keys of the project, revoked ones too; their texts are not kept anywhere."""
    listing = session.client.list_all("/api-keys", {"project": project}, limit=limit)
    empty = "no API keys yet; create one with `tramontane api-keys create NAME`"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "get")
def get(session: Session, api_key_id: KeyId) -> None:
    """Show one key, without its text."""
    found = session.client.get(f"/api-keys/{segment(api_key_id)}")
    print_item(found, as_json=session.as_json)


@verb(app, "create")
def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for, a DNS label.")],
    *,
    role: Annotated[KeyRole, typer.Option(help="What the key may do.")] = KeyRole.MEMBER,
    expires_in_days: Annotated[
        int | None,
        typer.Option("--expires-in-days", metavar="N", min=1, max=36_500, help="Else: never."),
    ] = None,
    requests_in_flight_max: Annotated[
        int | None,
        typer.Option(
            "--requests-in-flight-max",
            metavar="N",
            min=1,
            max=100_000,
            help="Calls to models that may be open at a time.",
        ),
    ] = None,
    models: Models = None,
    project: InProject = None,
) -> None:
    """Create a key and print its text, which is shown this once only."""
    ends_at_ms = expires_in_days and SystemClock().now_ms() + expires_in_days * _DAY_MS
    given = {
        "role": str(role),
        "expires_at_ms": ends_at_ms,
        "requests_in_flight_max": requests_in_flight_max,
        "allowed_models": names(models),
        "project": project,
    }
    body: dict[str, object] = {"name": name}
    body |= {field: value for field, value in given.items() if value is not None}
    print_item(session.client.post("/api-keys", body), as_json=session.as_json)
    print("keep the key now: it is not shown again", file=sys.stderr)


@verb(app, "update")
def update(session: Session, api_key_id: KeyId, models: Models = None) -> None:
    """Change which models a key may call; gateways hear of it at once; for operators."""
    _change(session, api_key_id, {} if models is None else {"allowed_models": names(models)})


@verb(app, "block")
def block(session: Session, api_key_id: KeyId) -> None:
    """Keep a key from calling models until it is unblocked; for operators."""
    _change(session, api_key_id, {"is_blocked": True})


@verb(app, "unblock")
def unblock(session: Session, api_key_id: KeyId) -> None:
    """Let a blocked key call models again; for operators."""
    _change(session, api_key_id, {"is_blocked": False})


@verb(app, "revoke")
def revoke(session: Session, api_key_id: KeyId, yes: Yes = False) -> None:
    """Revoke a key for ever; gateways refuse it within 5 seconds."""
    confirm(f"Revoke {api_key_id}? Whatever uses it stops working.", yes=yes)
    print_item(session.client.delete(f"/api-keys/{segment(api_key_id)}"), as_json=session.as_json)


def _change(session: Session, api_key_id: str, body: dict[str, object]) -> None:
    changed = session.client.patch(f"/api-keys/{segment(api_key_id)}", body)
    print_item(changed, as_json=session.as_json)
