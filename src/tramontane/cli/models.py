"""``tramontane models``: the catalogue."""

from pathlib import Path
from typing import Annotated, Final

import typer

from tramontane.cli.output import Column, print_item, print_list, size
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, Yes, confirm, noun, verb
from tramontane.wire.client import segment

_COLUMNS: Final = (
    Column("NAME", "name"),
    Column("VERSION", "number"),
    Column("FORMAT", "format"),
    Column("ARCHITECTURE", "architecture"),
    Column("PRECISION", "precision"),
    Column("SIZE", "size_bytes", size),
    Column("CONTEXT", "context_length"),
    Column("LICENCE", "licence"),
    Column("ID", "id"),
)

Reference = Annotated[str, typer.Argument(metavar="MODEL", help="Its name or id.")]

app = noun("Models: the catalogue of open weights, each version pinned by its digest.")


@verb(app, "list")
def list_(session: Session, limit: Limit = LIMIT) -> None:
    """List the models of the catalogue."""
    listing = session.client.list_all("/models", limit=limit)
    empty = "no models yet; import one with `tramontane models import NAME PATH`"
    print_list(listing, _COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "get")
def get(session: Session, model: Reference) -> None:
    """Show one model and its versions."""
    print_item(session.client.get(f"/models/{segment(model)}"), as_json=session.as_json)


@verb(app, "import")
def import_(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A DNS label: a-z, 0-9 and hyphens.")],
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="GGUF file or safetensors folder, on the server."),
    ],
    digest: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="sha256:<hex> that the weights must have."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="NAME", help="SPDX name, if the files do not say.")
    ] = None,
) -> None:
    """Import weights into the catalogue, a new version if the model exists; for operators."""
    body: dict[str, object] = {"name": name, "path": str(path.absolute())}
    body |= {k: v for k, v in {"digest": digest, "licence": licence}.items() if v is not None}
    print_item(session.client.post("/models", body), as_json=session.as_json)


@verb(app, "delete")
def delete(session: Session, model: Reference, yes: Yes = False) -> None:
    """Take a model out of the catalogue; its files stay. Refused while a deployment uses it."""
    confirm(f"Delete model {model} from the catalogue?", yes=yes)
    print_item(session.client.delete(f"/models/{segment(model)}"), as_json=session.as_json)
