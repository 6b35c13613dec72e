"""The ``tramontane`` command: every command's name, and where its code is.

`COMMANDS` and the process commands below are the only places that know modules by name: a command's
module is imported when the command is called, never for ``--help`` of another one
(docs/decisions/0002-lazy-commands.md). No business lives here.
"""

import errno
import importlib
import io
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from tramontane import __version__
from tramontane.cli.exits import EPILOG, ExitCode, with_example
from tramontane.cli.typer_settings import QUICK

# Each row's code is `tramontane.cli.commands.<name>`, a module with a Typer ``app``.
COMMANDS: Final = {
    "chat": "Talk with a deployment in the terminal.",
    "deployments": "What a project wants to be served.",
    "replicas": "The running engines of deployments.",
    "jobs": "Work that ends: training, batches, anything with an exit code.",
    "models": "The catalogue of open-weight models.",
    "organizations": "Tenants: billing, residency, keys.",
    "projects": "Quota and isolation inside an organization.",
    "api-keys": "Credentials of projects.",
    "quotas": "How many accelerators organizations and projects may use.",
    "reservations": "Racks that are kept for one organization.",
    "limits": "What organizations, projects and keys may use.",
    "budgets": "How much of the limits in euros is spent.",
    "prices": "What models cost.",
    "usage": "What requests used: totals and single events.",
    "sites": "Where machines stand, and under whose law.",
    "clusters": "Sets of nodes, each behind one driver.",
    "nodes": "Machines and the devices on them.",
    "story": "Print the events of one object, oldest first.",
    "whoami": "Say who the key speaks for and what it may do.",
}
_PACKAGE: Final = "tramontane.cli.commands"


class LazyGroup(TyperGroup):
    """Lists commands by their rows; imports a command's module when it is resolved."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that ``args`` begin with, its real self in place of its row."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            module = _load(f"{_PACKAGE}.{name.replace('-', '_')}")
            command = typer.main.get_command(module.app)
        return name, command, rest


app = typer.Typer(
    cls=LazyGroup,
    invoke_without_command=True,
    rich_markup_mode=None,
    epilog=EPILOG,
    context_settings=QUICK,
)

Home = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="Folder of the installation [.tramontane]."),
]
Host = Annotated[
    str | None, typer.Option("--host", metavar="ADDRESS", help="Address to listen on [127.0.0.1].")
]
Port = Annotated[
    int | None,
    typer.Option("--port", metavar="N", min=0, max=65_535, help="Port to listen on; 0: any free."),
]
Fd = Annotated[
    int | None,
    typer.Option("--fd", metavar="N", min=0, help="Listening socket inherited from the parent."),
]
Parent = Annotated[
    int | None,
    typer.Option("--parent", metavar="PID", min=1, help="With --fd: the process to end with."),
]


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[  # noqa: FBT002 - an option, not a parameter
        bool, typer.Option("--version", help="Print the version and leave.")
    ] = False,
) -> None:
    """Turn GPU machines and Slurm clusters into a sovereign AI cloud."""
    if version:
        typer.echo(f"tramontane {__version__}{_told_of_the_build()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(ExitCode.USAGE)


def _told_of_the_build() -> str:
    found = find_spec("tramontane.gateway.exchange")
    is_compiled = found is not None and not str(found.origin).endswith(".py")
    return ", the gateway compiled" if is_compiled else ""


@app.command("up", epilog=EPILOG)
def up(home: Home = None, host: Host = None, port: Port = None) -> None:
    """Run everything on this machine, with a first deployment, in the foreground."""
    _run("tramontane.processes.up", home, host, port)


def _listed() -> None:
    """Stand for a row in the list of commands; `LazyGroup` puts the real command in its place."""


for _name, _help in COMMANDS.items():
    app.command(_name, help=_help)(_listed)


@app.command("control", epilog=with_example("control --port 8081"))
def control(
    *,
    home: Home = None,
    fd: Fd = None,
    parent: Parent = None,
    host: Host = None,
    port: Port = None,
    database_url: Annotated[
        str | None,
        typer.Option("--database-url", metavar="URL", help="sqlite:///PATH or postgresql://…"),
    ] = None,
) -> None:
    """Run one copy of the control plane: management API and reconcilers."""
    _run("tramontane.processes.control", home, fd, parent, host, port, database_url)


@app.command(
    "gateway",
    epilog=with_example("gateway --control http://127.0.0.1:8081 --port 8080 --name gw-1"),
)
def gateway(
    *,
    control: Annotated[
        str | None,
        typer.Option("--control", metavar="URL", help="Where the control plane listens."),
    ] = None,
    route_table: Annotated[
        Path | None,
        typer.Option("--route-table", metavar="FILE", help="Run alone, by this route table."),
    ] = None,
    home: Home = None,
    fd: Fd = None,
    parent: Parent = None,
    host: Host = None,
    port: Port = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What usage events call it.")
    ] = None,
    reuse_port: Annotated[
        bool,
        typer.Option("--reuse-port", help="Share the port; take it over from one of the name."),
    ] = False,
) -> None:
    """Run one gateway: authenticate, route, stream and meter requests."""
    if (control is None) is (route_table is None):
        msg = "a gateway takes either --control URL or --route-table FILE"
        raise typer.BadParameter(msg)
    where = home, fd, parent, host, port
    _run("tramontane.processes.gateway", *where, control, name, route_table, reuse_port)


@app.command("plan", epilog=EPILOG)
def plan(
    snapshot: Annotated[
        Path | None,
        typer.Option("--snapshot", metavar="FILE", help="A snapshot as JSON, in place of now."),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url", metavar="URL", envvar="TRAMONTANE_BASE_URL", help="The server to ask."
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", metavar="KEY", envvar="TRAMONTANE_API_KEY", help="An operator's key."
        ),
    ] = None,
    home: Home = None,
) -> None:
    """Print what the replica reconciler would do, and why something stays unplaced."""
    _run("tramontane.processes.plan", snapshot, home, base_url, api_key)


dev = typer.Typer(
    help="What a real site has, on this machine.",
    epilog=EPILOG,
    rich_markup_mode=None,
    add_completion=False,
    invoke_without_command=True,
    context_settings=QUICK,
)
app.add_typer(dev, name="dev")


@dev.callback()
def _dev(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(ExitCode.USAGE)


@dev.command("slurm", epilog=with_example("dev slurm --racks 2 --nodes-per-rack 2 --gpus 4"))
def dev_slurm(
    *,
    racks: Annotated[int, typer.Option("--racks", metavar="N", min=1, help="Racks.")] = 2,
    nodes_per_rack: Annotated[
        int, typer.Option("--nodes-per-rack", metavar="N", min=1, help="Nodes of a rack.")
    ] = 2,
    gpus: Annotated[int, typer.Option("--gpus", metavar="N", min=0, help="GPUs of a node.")] = 4,
    cpus: Annotated[int, typer.Option("--cpus", metavar="N", min=1, help="CPUs of a node.")] = 8,
    memory_mb: Annotated[
        int, typer.Option("--memory-mb", metavar="MB", min=1, help="Memory of a node.")
    ] = 4_000,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Where it lives [a new one].")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the folder, for its logs.")] = False,
) -> None:
    """Run a real Slurm cluster on this machine until Ctrl-C; needs root."""
    _run("tramontane.dev.slurm.command", racks, nodes_per_rack, gpus, cpus, memory_mb, folder, keep)


@app.command(
    "runner",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def runner(context: typer.Context) -> None:
    """Supervise one replica on this node; all arguments go to the runner itself."""
    raise typer.Exit(_load("tramontane.runner.command").main(context.args))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command that ``arguments`` (or the command line) name, and leave with its code."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):  # a name in any script is printable
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = typer.main.get_command(app)
    try:
        code = command.main(args=given, prog_name="tramontane", standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "tramontane"
        told = " ".join(error.format_message().split()).rstrip(".")
        print(f"tramontane: error: {told}; see {path} --help", file=sys.stderr)
        code = error.exit_code
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("tramontane: error: the disk is full, output is lost", file=sys.stderr)
        code = ExitCode.FAILED
    except (typer.Abort, KeyboardInterrupt):
        print("tramontane: stopped", file=sys.stderr)
        code = ExitCode.INTERRUPTED
    sys.exit(code if isinstance(code, int) else 0)


def _run(module: str, *options: object) -> NoReturn:
    raise typer.Exit(_load(module).run(*options))


def _load(module: str) -> ModuleType:
    return importlib.import_module(module)


if __name__ == "__main__":
    main()
