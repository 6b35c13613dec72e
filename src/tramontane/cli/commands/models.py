"""``tramontane models``: the catalogue."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tramontane.cli.output import (
    Column,
    listed,
    moment,
    print_item,
    print_json,
    print_list,
    size,
)
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, Limit, Yes, confirm, noun, verb
from tramontane.wire.client import segment

_IMPORT_TIMEOUT_S: Final = 3_600.0  # all weights are read and hashed before the server answers

_WEIGHTS: Final = (
    Column("VERSION", "number"),
    Column("FORMAT", "format"),
    Column("ARCHITECTURE", "architecture"),
    Column("PRECISION", "precision"),
    Column("SIZE", "size_bytes", size),
    Column("CONTEXT", "context_length"),
    Column("LICENCE", "licence"),
    Column("KIND", "kind"),
)
MODELS: Final = (Column("NAME", "name"), *_WEIGHTS, Column("ID", "id"))
VERSIONS: Final = (
    *_WEIGHTS,
    Column("IMPORTED", "created_at_ms", moment),
    Column("DIGEST", "digest"),
)

Reference = Annotated[str, typer.Argument(metavar="MODEL", help="Its name or id.")]

app = noun("Models: the catalogue of open weights, each version pinned by its digest.")


@verb(app, "list")
def list_(session: Session, limit: Limit = LIMIT) -> None:
    """List the models of the catalogue."""
    listing = session.client.list_all("/models", limit=limit)
    empty = "no models yet; import one with `tramontane models import NAME PATH`"
    print_list(listing, MODELS, empty=empty, as_json=session.as_json)


@verb(app, "get")
def get(session: Session, model: Reference) -> None:
    """Show one model and its versions."""
    _print_model(session.client.get(f"/models/{segment(model)}"), session)


@verb(app, "import")
def import_(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as Mistral-7B-v0.3.")],
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="GGUF file or safetensors folder, on the server."),
    ],
    *,
    digest: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="sha256:<hex> that the weights must have."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="NAME", help="SPDX name, if the files do not say.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Of a LoRA adapter: the model it was made for."),
    ] = None,
) -> None:
    """Import weights into the catalogue, a new version if the model exists; for operators."""
    body: dict[str, object] = {"name": name, "path": str(path.absolute())}
    given = {"digest": digest, "licence": licence, "base": base}
    body |= {name: value for name, value in given.items() if value is not None}
    imported = session.client.post("/models", body, timeout_s=_IMPORT_TIMEOUT_S)
    _print_model(imported, session)


@verb(app, "delete")
def delete(session: Session, model: Reference, yes: Yes = False) -> None:
    """Take a model out of the catalogue; its files stay. Refused while a deployment uses it."""
    confirm(f"Delete model {model} from the catalogue?", yes=yes)
    print_item(session.client.delete(f"/models/{segment(model)}"), as_json=session.as_json)


def _print_model(model: dict[str, Any], session: Session) -> None:
    if session.as_json:
        print_json(model)
        return
    print_item({name: model.get(name) for name in ("id", "name", "created_at_ms")}, as_json=False)
    print()
    print_list(listed(model.get("versions")), VERSIONS, empty="no versions", as_json=False)
