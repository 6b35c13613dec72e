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
    Column("WANTED", "wanted_replicas"),
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
    int | None, typer.Option("--devices", metavar="N", help="Accelerators per node.")
]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="CLUSTER", help="Run there only; '' runs anywhere again."),
]
Nodes = Annotated[
    int | None, typer.Option("--nodes", metavar="N", help="Nodes of one rack per replica.")
]
PriorityClass = Annotated[
    str | None,
    typer.Option(
        "--priority-class", metavar="CLASS", help="reserved, standard or spot, which gives way."
    ),
]
CpuMillicores = Annotated[
    int | None,
    typer.Option("--cpu-millicores", metavar="N", help="Thousandths of a core per node."),
]
MemoryBytes = Annotated[
    int | None, typer.Option("--memory-bytes", metavar="N", help="Memory per node, in bytes.")
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Option("--engine-option", metavar="NAME=VALUE", help="Any number of times."),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter", metavar="NAME=MODEL", help="LoRA adapter; all that are wanted, or none."
    ),
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


@verb(app, "create", example="deployments create chat --model mistral-small --replicas 2 --wait")
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
    adapter: Adapters = None,
    cluster: Cluster = None,
    nodes: Nodes = None,
    priority_class: PriorityClass = None,
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
        engine_options=_pairs(engine_option, "--engine-option"),
        adapters=_pairs(adapter, "--adapter"),
        cluster=cluster,
        nodes=nodes,
        priority_class=priority_class,
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
    adapter: Adapters = None,
    cluster: Cluster = None,
    nodes: Nodes = None,
    priority_class: PriorityClass = None,
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
        engine_options=_pairs(engine_option, "--engine-option"),
        adapters=_pairs(adapter, "--adapter"),
        cluster=cluster,
        nodes=nodes,
        priority_class=priority_class,
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


@verb(app, "autoscale")
def autoscale(
    session: Session,
    deployment: Reference,
    *,
    max_: Annotated[
        int | None, typer.Option("--max", metavar="N", min=1, help="Most replicas.")
    ] = None,
    min_: Annotated[
        int,
        typer.Option("--min", metavar="N", min=0, help="Fewest; 0: a request starts the first."),
    ] = 0,
    requests: Annotated[
        int | None,
        typer.Option("--requests", metavar="N", min=1, help="In flight, one replica is for."),
    ] = None,
    tokens_per_s: Annotated[
        int | None,
        typer.Option("--tokens-per-s", metavar="N", min=1, help="Generated, one replica is for."),
    ] = None,
    idle_s: Annotated[
        int | None,
        typer.Option("--idle", metavar="S", min=1, help="No request for so long: none is kept."),
    ] = None,
    up_s: Annotated[
        int | None,
        typer.Option("--up-cooldown", metavar="S", min=0, help="From a change to the next rise."),
    ] = None,
    down_s: Annotated[
        int | None,
        typer.Option("--down-cooldown", metavar="S", min=0, help="Fewer are enough so long."),
    ] = None,
    off: Annotated[
        bool, typer.Option("--off", help="Scale by itself no more; replicas stay as they are.")
    ] = False,
    project: InProject = None,
) -> None:
    """Let the number of replicas follow the demand, or (--off) no more."""
    path = f"{_path(deployment)}/autoscale"
    if off:
        print_item(session.client.delete(path, {"project": project}), as_json=session.as_json)
        return
    if max_ is None or requests is None:
        msg = "--max and --requests are needed (or --off): see "
        msg += "`tramontane deployments autoscale --help`"
        raise CommandError(msg, ExitCode.USAGE)
    body = _given(
        replicas_min=min_,
        replicas_max=max_,
        requests_in_flight=requests,
        tokens_per_s=tokens_per_s,
        idle_ms=_ms(idle_s),
        up_cooldown_ms=_ms(up_s),
        down_cooldown_ms=_ms(down_s),
    )
    changed = session.client.put(path, body, {"project": project})
    print_item(changed, as_json=session.as_json)


@verb(app, "canary")
def canary(
    session: Session,
    deployment: Reference,
    *,
    percent: Annotated[
        int | None,
        typer.Option("--percent", metavar="P", min=0, max=100, help="Requests that go to it."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="It serves: name, id or NAME:VERSION."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Its own [DEPLOYMENT-canary].")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", metavar="N", help="Its engines [1].")
    ] = None,
    context_length: ContextLength = None,
    parallel: Parallel = None,
    engine_option: EngineOptions = None,
    project: InProject = None,
) -> None:
    """Serve a second version to a part of the requests, or change which and to how many."""
    body = _given(
        percent=percent,
        name=name,
        model=model,
        replicas=replicas,
        context_length=context_length,
        parallel=parallel,
        engine_options=_pairs(engine_option, "--engine-option"),
    )
    if not body:
        msg = "nothing to change: give --percent, --model or another option of "
        msg += "`tramontane deployments canary --help`"
        raise CommandError(msg, ExitCode.USAGE)
    changed = session.client.put(f"{_path(deployment)}/canary", body, {"project": project})
    print_item(changed, as_json=session.as_json)


@verb(app, "promote")
def promote(
    session: Session,
    deployment: Reference,
    *,
    project: InProject = None,
    wait: Wait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Make the deployment what its canary is, replica by replica, and end the canary."""
    path = f"{_path(deployment)}/canary/promote"
    _finish(session, session.client.post(path, {}, {"project": project}), wait, timeout)


@verb(app, "abort")
def abort(session: Session, deployment: Reference, *, project: InProject = None) -> None:
    """End the canary of a deployment; all requests go as before it."""
    changed = session.client.delete(f"{_path(deployment)}/canary", {"project": project})
    print_item(changed, as_json=session.as_json)


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


def _pairs(options: list[str] | None, word: str) -> dict[str, str] | None:
    if not options:
        return None
    if word == "--adapter" and options == ["none"]:
        return {}
    pairs: dict[str, str] = {}
    for option in options:
        name, sign, value = option.partition("=")
        if not name or not sign:
            msg = f"{word} must be NAME=VALUE, not {option!r}"
            raise CommandError(msg, ExitCode.USAGE)
        pairs[name] = value
    return pairs


def _ms(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * 1_000


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
