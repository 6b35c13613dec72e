"""Watches a job: what it waits for, what it writes, and how it ends."""

import codecs
import sys
import time
from typing import Any, Final, TextIO

from tramontane.cli.exits import CommandError, ExitCode
from tramontane.cli.output import moment, one_line, printable
from tramontane.cli.progress import Progress
from tramontane.wire.client import (
    ApiError,
    BadReplyError,
    CloudClient,
    Query,
    UnreachableError,
    segment,
)

PAUSE_S: Final = 0.5  # between two looks
_ATTEMPTS_MAX: Final = 10_000
_OVER: Final = frozenset({"succeeded", "failed", "cancelled"})
_STATUSES: Final = _OVER | {"pending", "running"}
_NOT_YET: Final = frozenset({"pending", "queued"})


def path_of(job: dict[str, Any]) -> str:
    """Return the path of a job that the server answered."""
    return f"/jobs/{segment(str(job.get('id')))}"


def is_over(job: dict[str, Any]) -> bool:
    """Tell whether nothing more happens to the job; `BadReplyError` if it is none."""
    status = job.get("status")
    if not isinstance(status, str) or status not in _STATUSES:
        msg = "the server answered with something that is no job; check that it is a Tramontane"
        raise BadReplyError(msg)
    return status in _OVER


def told(job: dict[str, Any]) -> str:
    """Return in a line where the job is."""
    state = "cancelling" if job.get("is_cancelling") else job.get("status")
    reason = f": {job['reason']}" if job.get("reason") else ""
    return f"{job.get('name')} {state}{reason}"


def wait_until_over(
    client: CloudClient, job: dict[str, Any], timeout_s: int | None
) -> dict[str, Any]:
    """Return the job once it is over; progress on standard error."""
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    progress = Progress()
    try:
        while not is_over(job):
            progress.show(_with_estimate(client, job))
            if deadline_s is not None and time.monotonic() > deadline_s:
                msg = f"gave up after {timeout_s} s: {told(job)}; it goes on"
                raise CommandError(msg, ExitCode.UNAVAILABLE)
            time.sleep(PAUSE_S)
            job = look(client, job)
    except KeyboardInterrupt:
        raise _left_alone(job) from None
    finally:
        progress.clear()
    return job


def follow(client: CloudClient, job: dict[str, Any], query: dict[str, object]) -> dict[str, Any]:
    """Print what the job writes, attempt by attempt, until it is over; return it then.

    ``query`` may name the ``attempt`` (then only that one), the ``index`` and the ``rank``.
    """
    only = query.get("attempt")
    number = only if isinstance(only, int) else 1
    printer = Printer(sys.stdout)
    progress = Progress()
    try:
        while True:
            job = look(client, job)
            was_over = is_over(job)
            attempt = _attempt(client, job, int(str(query.get("index") or 0)), number)
            if attempt is None and (was_over or only is not None):
                break
            if attempt is None or attempt.get("status") in _NOT_YET:
                progress.show(_with_estimate(client, job, attempt))
                time.sleep(PAUSE_S)
                continue
            progress.clear()
            attempt = _follow_one(client, job, attempt, {**query, "attempt": number}, printer)
            _tell(_how_it_ended(attempt))
            if only is not None:
                break
            number += 1
        return wait_until_over(client, job, None) if only is None else job
    except KeyboardInterrupt:
        raise _left_alone(job) from None
    finally:
        progress.clear()


def look(client: CloudClient, job: dict[str, Any]) -> dict[str, Any]:
    """Return what the job is now; an outage of the control plane is waited out."""
    try:
        return client.get(path_of(job))
    except UnreachableError as error:
        return {**job, "reason": str(error)}
    except ApiError as error:
        if error.status < 500:
            raise
        return {**job, "reason": error.message}


def exit_code_of(job: dict[str, Any]) -> ExitCode:
    """Return the exit code of a command that waited for the job."""
    return ExitCode.DONE if job.get("status") == "succeeded" else ExitCode.FAILED


class Printer:
    """Prints bytes of a job's output as they come, without what could move a terminal's cursor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._line_is_open = False

    def write(self, piece: bytes) -> None:
        """Print a piece; a progress bar's returns become lines."""
        self._print(self._decoder.decode(piece))

    def end(self) -> None:
        """End an open line, so that what follows begins its own."""
        self._print(self._decoder.decode(b"", final=True))
        self._decoder.reset()
        if self._line_is_open:
            self._print("\n")

    def _print(self, text: str) -> None:
        if text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            self._stream.write(printable(text))
            self._stream.flush()
            self._line_is_open = not text.endswith("\n")


def print_logs(client: CloudClient, ref: str, query: Query) -> None:
    """Print what there is of an attempt's output; ``ref`` is the job's id or name."""
    printer = Printer(sys.stdout)
    for piece in client.stream_text(f"/jobs/{segment(ref)}/logs", query):
        printer.write(piece)
    printer.end()


def _follow_one(
    client: CloudClient,
    job: dict[str, Any],
    attempt: dict[str, Any],
    query: dict[str, object],
    printer: Printer,
) -> dict[str, Any]:
    """Print all that one attempt writes until it is over; return it then."""
    offset = 0
    has_begun = False
    while True:
        was_over = attempt.get("ended_at_ms") is not None
        try:
            wanted = {**query, "offset": offset, "follow": not was_over}
            for piece in client.stream_text(f"{path_of(job)}/logs", wanted):
                offset += len(piece)
                printer.write(piece)
            has_begun = True
        except (UnreachableError, ApiError) as error:
            if isinstance(error, ApiError) and not _passes(error, offset > 0 or has_begun):
                raise
            time.sleep(PAUSE_S)
            was_over = False
        if was_over:
            printer.end()
            return attempt
        found = _attempt(client, job, int(str(attempt["index"])), int(str(attempt["number"])))
        attempt = found or attempt


def _passes(error: ApiError, has_begun: bool) -> bool:
    """Tell whether to ask again: streams end now and then, and another reader may be quicker."""
    return error.status >= 500 or (error.status == 429 and has_begun)


def _attempt(
    client: CloudClient, job: dict[str, Any], index: int, number: int
) -> dict[str, Any] | None:
    """Return one attempt at an index of the job; None while there is none, or no answer."""
    try:
        listing = client.list_all(f"{path_of(job)}/attempts", limit=_ATTEMPTS_MAX)
    except UnreachableError:
        return None
    made = (it for it in listing["data"] if it.get("index") == index)
    return next((it for it in made if it.get("number") == number), None)


def _with_estimate(
    client: CloudClient, job: dict[str, Any], attempt: dict[str, Any] | None = None
) -> str:
    """Return where the job is, and when its cluster expects to start it."""
    if attempt is None and job.get("status") == "pending" and job.get("array") is None:
        attempt = next(iter(_newest(client, job)), None)
    starts_at_ms = (attempt or {}).get("starts_at_ms")
    when = f"; its cluster expects to start it {moment(starts_at_ms)}" if starts_at_ms else ""
    return told(job) + when


def _newest(client: CloudClient, job: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        data = client.list_all(f"{path_of(job)}/attempts", limit=_ATTEMPTS_MAX)["data"]
    except UnreachableError:
        return []
    return data[-1:]


def _how_it_ended(attempt: dict[str, Any]) -> str:
    reason = f": {attempt['reason']}" if attempt.get("reason") else ""
    return f"attempt {attempt.get('number')} {str(attempt.get('status')).replace('_', ' ')}{reason}"


def _tell(line: str) -> None:
    print(one_line(line), file=sys.stderr)


def _left_alone(job: dict[str, Any]) -> CommandError:
    name = job.get("id")
    msg = f"stopped watching; {told(job)}, and it goes on: `tramontane jobs logs {name} --follow` "
    msg += f"watches again, `tramontane jobs cancel {name}` ends it"
    return CommandError(msg, ExitCode.INTERRUPTED)
