"""``tramontane chat DEPLOYMENT``: a first talk in the terminal.

The conversation lives in this process only; nothing of it is written anywhere.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from tramontane.cli.exits import EPILOG, CommandError
from tramontane.cli.output import printable
from tramontane.cli.session import connect
from tramontane.cli.verbs import ApiKey, BaseUrl, Home, is_person_there, one_line_errors
from tramontane.wire.client import ApiError, BadReplyError, CloudClient, UnreachableError

with contextlib.suppress(ImportError):  # a Python without it still chats, without arrow keys
    import readline  # noqa: F401 - input() uses it by its being there

_PROMPT: Final = "> "
_COMMANDS: Final = "/help  these lines\n/reset  forget the talk so far\n/exit  leave (or Ctrl-D)"

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Message = dict[str, str]


@app.command("chat", epilog=EPILOG)
def chat(
    deployment: Annotated[
        str, typer.Argument(metavar="DEPLOYMENT", help="Its name, as clients call it as model.")
    ],
    *,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="How the model should behave.")
    ] = None,
    message: Annotated[
        str | None,
        typer.Option("--message", metavar="TEXT", help="Ask this one thing, then leave."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", metavar="N", min=1, help="Longest answer, in tokens."),
    ] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    home: Home = None,
) -> None:
    """Talk with a deployment: /help, /reset and /exit; Ctrl-C stops an answer, twice leaves.

    With --message, or when the input is not a terminal, it prints one answer and leaves.
    """
    with one_line_errors():
        connection = connect(base_url, api_key, home, for_chat=True)
        with one_line_errors(connection.key_source):
            talk = Talk(connection.client(), deployment, system, max_tokens)
            if message is not None:
                talk.ask(message)
            elif not is_person_there():
                talk.ask(_piped())
            else:
                _converse(talk)


class Talk:
    """One conversation: what was said, and how the next thing is said."""

    def __init__(
        self, client: CloudClient, model: str, system: str | None, max_tokens: int | None
    ) -> None:
        self._client = client
        self._fixed: dict[str, Any] = {"model": model}
        if max_tokens is not None:
            self._fixed["max_tokens"] = max_tokens
        self._opening: list[Message] = [{"role": "system", "content": system}] if system else []
        self._said: list[Message] = []

    def reset(self) -> None:
        """Forget everything that was said."""
        self._said = []

    def ask(self, question: str) -> None:
        """Print the answer as it comes and remember both; an unanswered question is forgotten.

        Ctrl-C ends the answer: `KeyboardInterrupt` is raised and what came of it is remembered.
        """
        asked: Message = {"role": "user", "content": question}
        messages = [*self._opening, *self._said, asked]
        answer: list[str] = []
        rate = _Rate()
        try:
            for chunk in self._client.stream_chat(
                {**self._fixed, "messages": messages, "stream_options": {"include_usage": True}}
            ):
                rate.see(chunk)
                for piece in _pieces(chunk):
                    answer.append(piece)
                    print(printable(piece), end="", flush=True)
        finally:
            if answer:
                print(flush=True)
                self._said += [asked, {"role": "assistant", "content": "".join(answer)}]
        rate.tell()


class _Rate:
    """Measures how fast an answer comes, for a person to see."""

    def __init__(self) -> None:
        self._first_s: float | None = None
        self._last_s = 0.0
        self._tokens = 0

    def see(self, chunk: dict[str, Any]) -> None:
        usage = chunk.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self._tokens = usage["completion_tokens"]
        elif _pieces(chunk):
            self._last_s = time.monotonic()
            self._first_s = self._first_s or self._last_s

    def tell(self) -> None:
        """Print tokens per second, from the first to the last, on a terminal's standard error."""
        took_s = self._last_s - (self._first_s or self._last_s)
        if sys.stderr.isatty() and self._tokens > 1 and took_s > 0:
            rate = (self._tokens - 1) / took_s
            print(f"[{self._tokens} tokens, {rate:.1f} tokens/s]", file=sys.stderr)


def _converse(talk: Talk) -> None:
    print("Ctrl-C stops an answer; /help lists what else there is", file=sys.stderr)
    for line in _lines():
        match line.strip():
            case "":
                continue
            case "/exit" | "/quit":
                return
            case "/help":
                print(_COMMANDS, file=sys.stderr)
            case "/reset":
                talk.reset()
                print("forgotten", file=sys.stderr)
            case said if said.startswith("/"):
                print(f"there is no {said.split()[0]}; /help lists what there is", file=sys.stderr)
            case said:
                _ask_and_go_on(talk, said)


def _lines() -> Iterator[str]:
    """Yield what the person types until Ctrl-D, or Ctrl-C at the prompt."""
    while True:
        try:
            yield input(_PROMPT)
        except (EOFError, KeyboardInterrupt):
            print()
            return


def _ask_and_go_on(talk: Talk, question: str) -> None:
    """Ask; an error of one answer is told and does not end the talk, unless it would come again."""
    try:
        talk.ask(question)
    except KeyboardInterrupt:
        print("(stopped; Ctrl-C again leaves)", file=sys.stderr)
    except ApiError as error:
        if error.status in {401, 403, 404}:
            raise
        print(f"tramontane: error: {printable(error.message)}", file=sys.stderr)
    except (UnreachableError, BadReplyError) as error:
        print(f"tramontane: error: {printable(str(error))}", file=sys.stderr)


def _piped() -> str:
    text = sys.stdin.read().strip() if sys.stdin else ""
    if not text:
        msg = "nothing to ask: give --message TEXT or pipe a text in"
        raise CommandError(msg)
    return text


def _pieces(chunk: dict[str, Any]) -> list[str]:
    """Return the texts of a chunk, whatever else is in it."""
    choices = chunk.get("choices")
    pieces: list[str] = []
    for choice in choices if isinstance(choices, list) else []:
        delta = choice.get("delta") if isinstance(choice, dict) else None
        content = delta.get("content") if isinstance(delta, dict) else None
        if isinstance(content, str) and content:
            pieces.append(content)
    return pieces
