"""``tramontane deployments``: what a project wants to be served."""

from typing import Annotated, Any, Final

import typer

from tramontane.cli.events import print_events
from tramontane.cli.exits import CommandError, ExitCode
from tramontane.cli.output import Column, moment, print_item, print_json, print_list, printable
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, InProject, Limit, Yes, confirm, noun, verb
from tramontane.cli.waiting import TIMEOUT_S, Timeout, Wait, wait_until_gone, wait_until_served
from tramontane.wire.client import segment

COLUMNS: Final = (
    Column("NAME", "name"),
    Column("MODEL", "model"),
    Column("STATUS", "status"),
    Column("READY", "ready_replicas"),
    Column("WANTED", "replicas"),
    Column("ENGINE", "engine"),
    Column("CREATED", "created_at_ms", moment),
    Column("ID", "id"),
    Column("REASON", "reason"),
)

Reference = Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Its name or id.")]
Replicas = Annotated[int, typer.Option("--replicas", metavar="N", help="Running engines wanted.")]
ContextLength = Annotated[
    int | None, typer.Option("--context-length", metavar="N", help="Tokens that one request fits.")
]
Parallel = Annotated[
    int | None, typer.Option("--parallel", metavar="N", help="Requests a replica serves at a time.")
]
Devices = Annotated[
    int | None, typer.Option("--devices", metavar="N", help="Accelerators per replica.")
]
CpuMillicores = Annotated[
    int | None,
    typer.Option("--cpu-millicores", metavar="N", help="Thousandths of a core per replica."),
]
MemoryBytes = Annotated[
    int | None, typer.Option("--memory-bytes", metavar="N", help="Memory per replica, in bytes.")
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Option("--engine-option", metavar="NAME=VALUE", help="Any number of times."),
]

app = noun("Deployments: what a project wants to be served, and how far that has come.")


@verb(app, "list")
def list_(session: Session, project: InProject = None, limit: Limit = LIMIT) -> None:
    """List the deployments of the project; operators see those of all projects."""
    listing = session.client.list_all("/deployments", {"project": project}, limit=limit)
    empty = "no deployments yet; create one with "
    empty += "`tramontane deployments create NAME --model MODEL`"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "get")
def get(session: Session, deployment: Reference, project: InProject = None) -> None:
    """Show one deployment."""
    found = session.client.get(_path(deployment), {"project": project})
    print_item(found, as_json=session.as_json)


@verb(app, "create")
def create(
    session: Session,
    *,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What clients call as model: a DNS label.")
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="Of the catalogue: its name or id.")
    ],
    replicas: Replicas = 1,
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="ENGINE", help="llamacpp or vllm; else by the format."),
    ] = None,
    context_length: ContextLength = None,
    parallel: Parallel = None,
    devices: Devices = None,
    cpu_millicores: CpuMillicores = None,
    memory_bytes: MemoryBytes = None,
    engine_option: EngineOptions = None,
    project: InProject = None,
    wait: Wait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Deploy a model under a name; answers at once unless --wait."""
    body = _given(
        name=name,
        model=model,
        replicas=replicas,
        engine=engine,
        context_length=context_length,
        parallel=parallel,
        devices=devices,
        cpu_millicores=cpu_millicores,
        memory_bytes=memory_bytes,
        engine_options=_pairs(engine_option),
        project=project,
    )
    _finish(session, session.client.post("/deployments", body), wait, timeout)


@verb(app, "update")
def update(
    session: Session,
    deployment: Reference,
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="Serve another model: its name or id."),
    ] = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", metavar="N", help="Running engines wanted.")
    ] = None,
    context_length: ContextLength = None,
    parallel: Parallel = None,
    devices: Devices = None,
    cpu_millicores: CpuMillicores = None,
    memory_bytes: MemoryBytes = None,
    engine_option: EngineOptions = None,
    project: InProject = None,
    wait: Wait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Change what is served; replicas are replaced one by one, without a gap."""
    body = _given(
        model=model,
        replicas=replicas,
        context_length=context_length,
        parallel=parallel,
        devices=devices,
        cpu_millicores=cpu_millicores,
        memory_bytes=memory_bytes,
        engine_options=_pairs(engine_option),
    )
    if not body:
        msg = "nothing to change: give at least one of the options of "
        msg += "`tramontane deployments update --help`"
        raise CommandError(msg, ExitCode.USAGE)
    changed = session.client.patch(_path(deployment), body, {"project": project})
    _finish(session, changed, wait, timeout)


@verb(app, "scale")
def scale(
    session: Session,
    deployment: Reference,
    replicas: Annotated[int, typer.Argument(metavar="N", help="Running engines wanted.")],
    *,
    project: InProject = None,
    wait: Wait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Set the number of replicas; those that run and stay wanted are not touched."""
    changed = session.client.post(
        f"{_path(deployment)}/scale", {"replicas": replicas}, {"project": project}
    )
    _finish(session, changed, wait, timeout)


@verb(app, "delete")
def delete(
    session: Session,
    deployment: Reference,
    *,
    project: InProject = None,
    yes: Yes = False,
    wait: Wait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Stop serving: replicas finish what they have, then end. What was used stays on record."""
    confirm(f"Delete deployment {deployment}? Requests to it will fail.", yes=yes)
    deleted = session.client.delete(_path(deployment), {"project": project})
    if wait:
        deleted = wait_until_gone(session.client, deleted, timeout)
    print_item(deleted, as_json=session.as_json)


@verb(app, "logs")
def logs(
    session: Session,
    deployment: Reference,
    lines: Annotated[
        int, typer.Option("--lines", metavar="N", min=1, help="At most N last lines per replica.")
    ] = 100,
    project: InProject = None,
) -> None:
    """Print the last lines that the engines wrote."""
    found = session.client.get(f"{_path(deployment)}/logs", {"lines": lines, "project": project})
    if session.as_json:
        print_json(found)
        return
    data = found.get("data")
    if not data:
        print("no lines yet; `tramontane replicas list` says what runs")
    for part in data if isinstance(data, list) else []:
        _print_log(part)


@verb(app, "events")
def events(
    session: Session, deployment: Reference, project: InProject = None, limit: Limit = LIMIT
) -> None:
    """Print what happened to a deployment, oldest first."""
    listing = session.client.list_all(
        f"{_path(deployment)}/events", {"project": project}, limit=limit
    )
    print_events(listing, session, empty=f"nothing happened to {deployment} yet")


def _path(reference: str) -> str:
    return f"/deployments/{segment(reference)}"


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _pairs(options: list[str] | None) -> dict[str, str] | None:
    if not options:
        return None
    pairs: dict[str, str] = {}
    for option in options:
        name, sign, value = option.partition("=")
        if not name or not sign:
            msg = f"--engine-option must be NAME=VALUE, not {option!r}"
            raise CommandError(msg, ExitCode.USAGE)
        pairs[name] = value
    return pairs


def _finish(session: Session, changed: dict[str, Any], wait: bool, timeout_s: int) -> None:
    if wait:
        changed = wait_until_served(session.client, changed, timeout_s)
    print_item(changed, as_json=session.as_json)


def _print_log(part: object) -> None:
    if isinstance(part, str):
        print(printable(part))
        return
    if not isinstance(part, dict):
        return
    lines = part.get("lines") or [f"({part.get('reason') or 'no lines'})"]
    for line in lines if isinstance(lines, list) else []:
        print(printable(f"{part.get('replica_id')}  {line}"))
