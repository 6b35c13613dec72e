"""The verbs of ``tramontane jobs``."""

import secrets
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tramontane.cli.commands.jobs import file as job_file
from tramontane.cli.commands.jobs import watching
from tramontane.cli.exits import EPILOG, ExitCode
from tramontane.cli.output import Column, moment, one_line, print_item, print_list, text
from tramontane.cli.session import Session
from tramontane.cli.verbs import LIMIT, InProject, Limit, Yes, confirm, noun, verb
from tramontane.wire.client import segment

JobRef = Annotated[str, typer.Argument(metavar="JOB", help="Id, or name: then the newest of it.")]
Timeout = Annotated[
    int | None,
    typer.Option("--timeout", metavar="S", min=1, help="Give up waiting after S seconds."),
]
COLUMNS: Final = (
    Column("ID", "id"),
    Column("NAME", "name"),
    Column("STATUS", "status"),
    Column("CLASS", "priority_class"),
    Column("NODES", "nodes"),
    Column("DEVICES", "resources.devices"),
    Column("CREATED", "created_at_ms", moment),
    Column("REASON", "reason"),
)
ATTEMPT_COLUMNS: Final = (
    Column("INDEX", "index"),
    Column("ATTEMPT", "number"),
    Column("STATUS", "status"),
    Column("EXIT", "exit_code"),
    Column("NODES", "node_names"),
    Column("DEVICES", "devices"),
    Column("DEVICE-S", "device_seconds"),
    Column("STARTED", "started_at_ms", moment),
    Column("ENDED", "ended_at_ms", moment),
    Column("CLUSTER'S ID", "external_id"),
    Column("REASON", "reason"),
)

app = noun("Jobs: work that ends, on one node or several.")


@verb(app, "submit", example="jobs submit job.yaml --follow")
def submit(
    session: Session,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A job file; `tramontane jobs example`.")
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what it writes until it is over.")
    ] = False,
    project: InProject = None,
) -> None:
    """Submit a job file. Ctrl-C while following leaves the job alone."""
    body = job_file.read(file)
    if project is not None:
        body["project"] = project
    # One key for all tries of this call: a lost answer makes no second job.
    made = session.client.post("/jobs", body, idempotency_key=secrets.token_hex(16))
    if not follow:
        print_item(made, as_json=session.as_json)
        return
    print(one_line(f"job {made.get('name')} is {made.get('id')}"), file=sys.stderr)
    if made.get("array") is None:
        _finish(session, watching.follow(session.client, made, {}))
    else:
        hint = f"an array: `tramontane jobs logs {made.get('id')} --index N` prints what one wrote"
        print(one_line(hint), file=sys.stderr)
        _finish(session, watching.wait_until_over(session.client, made, None))


@verb(app, "list", example="jobs list --status pending")
def list_(
    session: Session,
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            metavar="STATUS",
            help="Only pending, running, succeeded, failed or cancelled ones.",
        ),
    ] = None,
    project: InProject = None,
    limit: Limit = LIMIT,
) -> None:
    """List jobs, the newest first."""
    query = {"status": status, "project": project, "order": "desc"}
    listing = session.client.list_all("/jobs", query, limit=limit)
    empty = "no jobs; `tramontane jobs example` prints a job file to begin with"
    print_list(listing, COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "get")
def get(session: Session, job: JobRef, project: InProject = None) -> None:
    """Show one job; `tramontane story` tells what happened to it."""
    print_item(_get(session, job, project), as_json=session.as_json)


@verb(app, "cancel", example="jobs cancel train-small --yes --wait")
def cancel(
    session: Session,
    job: JobRef,
    yes: Yes = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until nothing of it runs.")] = False,
    project: InProject = None,
) -> None:
    """End a job; what it saved stays. One that is over stays as it is."""
    confirm(f"Cancel job {job}? What runs of it ends.", yes=yes)
    ended = session.client.post(f"/jobs/{segment(job)}/cancel", {}, {"project": project})
    if wait:
        ended = watching.wait_until_over(session.client, ended, None)
    print_item(ended, as_json=session.as_json)


@verb(app, "delete")
def delete(
    session: Session,
    job: Annotated[str, typer.Argument(metavar="ID", help="Id; a name is refused.")],
    yes: Yes = False,
    project: InProject = None,
) -> None:
    """Delete a job that is over, with its files and logs; what it cost stays on the bill."""
    confirm(f"Delete job {job}? Its working folder, checkpoints and logs go.", yes=yes)
    gone = session.client.delete(f"/jobs/{segment(job)}", {"project": project})
    print_item(gone, as_json=session.as_json)


@verb(app, "wait", example="jobs wait train-small --timeout 3600")
def wait(session: Session, job: JobRef, timeout: Timeout = None, project: InProject = None) -> None:
    """Wait until a job is over; the exit code is 0 if it succeeded, else 1."""
    found = _get(session, job, project)
    _finish(session, watching.wait_until_over(session.client, found, timeout))


@verb(app, "attempts", example="jobs attempts train-small")
def attempts(
    session: Session, job: JobRef, project: InProject = None, limit: Limit = LIMIT
) -> None:
    """List the attempts at a job: every start, where it ran, how it ended and what it took."""
    path = f"/jobs/{segment(job)}/attempts"
    listing = session.client.list_all(path, {"project": project}, limit=limit)
    empty = f"no attempt was made yet; `tramontane jobs get {job}` says what it waits for"
    print_list(listing, ATTEMPT_COLUMNS, empty=empty, as_json=session.as_json)


@verb(app, "logs", example="jobs logs train-small --rank 1 --follow")
def logs(
    session: Session,
    job: JobRef,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job is over.")
    ] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", metavar="N", min=1, help="Only the last N lines.")
    ] = None,
    attempt: Annotated[
        int | None,
        typer.Option("--attempt", metavar="N", min=1, help="Which attempt; else the newest."),
    ] = None,
    index: Annotated[
        int, typer.Option("--index", metavar="N", min=0, help="Which index of an array.")
    ] = 0,
    rank: Annotated[
        int, typer.Option("--rank", metavar="N", min=0, help="Which of its nodes, from 0.")
    ] = 0,
    project: InProject = None,
) -> None:
    """Print what a job wrote. Ctrl-C while following leaves the job alone."""
    query: dict[str, object] = {"index": index, "rank": rank}
    if attempt is not None:
        query["attempt"] = attempt
    if follow:
        found = _get(session, job, project)
        _finish(session, watching.follow(session.client, found, query))
        return
    watching.print_logs(session.client, job, {**query, "lines": lines, "project": project})


@app.command("example", epilog=EPILOG)
def example() -> None:
    """Print a job file with every option explained."""
    print(job_file.EXAMPLE, end="")


def _get(session: Session, job: str, project: str | None) -> dict[str, Any]:
    return session.client.get(f"/jobs/{segment(job)}", {"project": project})


def _finish(session: Session, job: dict[str, Any]) -> None:
    """Say how the job ended, and leave with the code that says the same."""
    if session.as_json:
        print_item(job, as_json=True)
    else:
        took = _took(job)
        print(one_line(f"{watching.told(job)}{took}"), file=sys.stderr)
    code = watching.exit_code_of(job)
    if code is not ExitCode.DONE:
        raise typer.Exit(code)


def _took(job: dict[str, Any]) -> str:
    began, ended = job.get("started_at_ms"), job.get("ended_at_ms")
    if not isinstance(began, int) or not isinstance(ended, int):
        return ""
    return f" ({text(round((ended - began) / 1_000, 1))} s)"
