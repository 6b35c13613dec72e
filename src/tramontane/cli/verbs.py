"""Turns a function into a verb of a noun: shared options, a session, one-line errors.

A verb is written as ``def list_(session, own options...)``. `verb` registers it with the options
that every verb has (server, key, home, JSON) and ends it with the right exit code whatever the
server answered. Why a decorator: docs/decisions/0002-lazy-commands.md.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tramontane.cli.exits import EPILOG, CommandError, ExitCode, with_example
from tramontane.cli.output import one_line
from tramontane.cli.session import Session, connect
from tramontane.cli.typer_settings import QUICK
from tramontane.wire.client import ApiError, BadReplyError, UnreachableError, UnusableError

BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        envvar="TRAMONTANE_BASE_URL",
        help="The server, such as http://127.0.0.1:8080/v1.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar="TRAMONTANE_API_KEY",
        help="The key to use; in the variable no other user of the machine can read it.",
    ),
]
Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="Where credentials.json is, if no server and key are given [.tramontane].",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's JSON in place of a table.")]
Limit = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, help="Print at most N items, page by page.")
]
InProject = Annotated[
    str | None,
    typer.Option("--project", metavar="PROJECT", help="Operators: a project other than your own."),
]
OfOrganization = Annotated[
    str | None, typer.Option("--organization", metavar="ORGANIZATION", help="Its name or id.")
]
OfProject = Annotated[
    str | None, typer.Option("--project", metavar="PROJECT", help="Its name or id.")
]
Models = Annotated[
    str | None,
    typer.Option("--models", metavar="NAMES", help="What may be called: a,b,c or '*' for all."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; go on.")]

LIMIT: Final = 100  # what a list prints unless told: more is rarely read, and --limit says so

_SHARED: Final = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
    for name, kind, default in (
        ("as_json", AsJson, False),
        ("base_url", BaseUrl, None),
        ("api_key", ApiKey, None),
        ("home", Home, None),
    )
)
_CODES: Final = {
    400: ExitCode.FAILED,
    401: ExitCode.NOT_AUTHORIZED,
    403: ExitCode.NOT_AUTHORIZED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    429: ExitCode.UNAVAILABLE,
    502: ExitCode.UNAVAILABLE,
    503: ExitCode.UNAVAILABLE,
    504: ExitCode.UNAVAILABLE,
}


def noun(meaning: str) -> typer.Typer:
    """Return the app of a noun, whose help begins with ``meaning``; verbs are added by `verb`."""
    app = typer.Typer(
        help=meaning,
        epilog=EPILOG,
        rich_markup_mode=None,
        add_completion=False,
        invoke_without_command=True,
        context_settings=QUICK,
    )

    @app.callback()
    def show_help(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help(), err=True)
            raise typer.Exit(ExitCode.USAGE)

    return app


def verb(
    app: typer.Typer, name: str, *, example: str = ""
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register the decorated ``action(session, ...)`` as the command ``name`` of ``app``.

    Its help ends with the ``example``, a command line without ``tramontane``, if there is one.
    """
    epilog = with_example(example) if example else EPILOG

    def register(action: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(action, eval_str=True).parameters.values()

        def command(
            *,
            as_json: bool,
            base_url: str | None,
            api_key: str | None,
            home: Path | None,
            **given: Any,
        ) -> None:
            with one_line_errors():
                connection = connect(base_url, api_key, home)
                with one_line_errors(connection.key_source):
                    action(Session(connection.client(), as_json), **given)

        kept = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        signature = inspect.Signature([*kept, *_SHARED])
        command.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess] - for Typer
        app.command(name, help=inspect.getdoc(action), epilog=epilog)(command)
        return action

    return register


@contextmanager
def one_line_errors(key_source: str = "") -> Iterator[None]:
    """End the command with one line on standard error, and its exit code, on an expected error."""
    try:
        yield
    except ApiError as error:
        line, code = _api_line(error, key_source), _CODES.get(error.status, ExitCode.FAILED)
    except (UnreachableError, BadReplyError) as error:
        line, code = str(error), ExitCode.UNAVAILABLE
    except UnusableError as error:
        line, code = str(error), ExitCode.USAGE
    except RecursionError:
        line, code = "the answer is nested too deeply to be Tramontane's", ExitCode.UNAVAILABLE
    except CommandError as error:
        line, code = str(error), error.code
    except KeyboardInterrupt:
        line, code = "stopped", ExitCode.INTERRUPTED
    else:
        return
    print(f"tramontane: error: {one_line(line)}", file=sys.stderr)
    raise typer.Exit(code)


def names(given: str | None) -> list[str] | None:
    """Return the names in a list with commas; an empty text is an empty list, None stays None."""
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is lost, if a person is there to answer; leaves unless it is a yes."""
    if not yes and is_person_there() and not typer.confirm(question, err=True):
        msg = "nothing was changed"
        raise CommandError(msg)


def is_person_there() -> bool:
    """Tell whether standard input is a terminal (a closed one is None)."""
    return bool(sys.stdin and sys.stdin.isatty())


def _api_line(error: ApiError, key_source: str) -> str:
    parts = [error.message.rstrip(".")]
    if error.param and error.param not in error.message:
        parts[0] = f"{error.param}: {parts[0]}"
    if error.status == 401 and key_source:
        parts.append(f"the key came from {key_source}")
    if error.retry_after_s is not None:
        parts.append(f"try again in {error.retry_after_s:g} s")
    if error.status == 500 and error.request_id:  # a bug; the others explain themselves
        parts.append(f"the logs know it as {error.request_id}")
    return "; ".join(parts)
