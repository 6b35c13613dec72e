"""``--wait``: watches a deployment until it is what was asked for."""

import time
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from tramontane.cli.exits import CommandError, ExitCode
from tramontane.cli.progress import Progress
from tramontane.wire.client import ApiError, CloudClient, UnreachableError, segment

Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is done; progress on stderr.")]
Timeout = Annotated[
    int, typer.Option("--timeout", metavar="S", min=1, help="Give up waiting after S seconds.")
]

TIMEOUT_S: Final = 300  # a large model loads for minutes; longer is worth a look at the story
_PAUSE_S: Final = 0.5  # between two looks


def wait_until_served(
    client: CloudClient, deployment: dict[str, Any], timeout_s: int
) -> dict[str, Any]:
    """Return the deployment once as many replicas as wanted serve the wanted generation."""
    seen = _watch(client, deployment, timeout_s, _is_served, "to be ready")
    if seen is None or seen.get("deleted_at_ms") is not None:
        msg = f"{deployment.get('name')} was deleted meanwhile; "
        msg += f"`tramontane story {deployment.get('id')}` tells by whom"
        raise CommandError(msg, ExitCode.NOT_FOUND)
    return seen


def wait_until_gone(
    client: CloudClient, deployment: dict[str, Any], timeout_s: int
) -> dict[str, Any]:
    """Return the deployment once it is deleted and nothing of it runs any more."""
    seen = _watch(client, deployment, timeout_s, _is_gone, "to stop")
    return seen or {**deployment, "status": "stopped"}


def _watch(
    client: CloudClient,
    seen: dict[str, Any],
    timeout_s: int,
    is_done: Callable[[dict[str, Any]], bool],
    what: str,
) -> dict[str, Any] | None:
    """Return the deployment once it is as wanted, or None when it is known no more."""
    deployment_id = str(seen.get("id"))
    name = seen.get("name")
    deadline_s = time.monotonic() + timeout_s
    progress = Progress()
    try:
        while not is_done(seen):
            progress.show(_state(seen))
            if time.monotonic() > deadline_s:
                msg = f"gave up after {timeout_s} s waiting for {name} {what}: {_state(seen)}; "
                msg += f"it goes on, `tramontane story {deployment_id}` tells what happened"
                raise CommandError(msg, ExitCode.UNAVAILABLE)
            time.sleep(_PAUSE_S)
            looked = _look(client, deployment_id, seen)
            if looked is None:
                return None
            seen = looked
    except KeyboardInterrupt:
        msg = f"stopped waiting; the change goes on: `tramontane deployments get {name}`"
        raise CommandError(msg, ExitCode.INTERRUPTED) from None
    finally:
        progress.clear()
    return seen


def _look(client: CloudClient, deployment_id: str, before: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the deployment is now; an outage of the control plane is waited out."""
    try:
        return client.get(f"/deployments/{segment(deployment_id)}")
    except UnreachableError as error:
        return {**before, "status": "unknown", "reason": str(error)}
    except ApiError as error:
        if error.status == 404:
            return None
        if error.status < 500:
            raise
        return {**before, "status": "unknown", "reason": error.message}


def _is_served(seen: dict[str, Any]) -> bool:
    if seen.get("deleted_at_ms") is not None:
        return True  # it never will be: the caller says so
    wanted = _wanted(seen)
    settled = seen.get("status") == ("ready" if wanted else "stopped")
    reached = seen.get("observed_generation") == seen.get("generation")
    return settled and reached and seen.get("ready_replicas") == wanted


def _wanted(seen: dict[str, Any]) -> object:
    """Return how many replicas are wanted now; an older server knows only what was asked for."""
    return seen.get("wanted_replicas", seen.get("replicas"))


def _is_gone(seen: dict[str, Any]) -> bool:
    return seen.get("status") == "stopped"


def _state(seen: dict[str, Any]) -> str:
    told = f"{seen.get('name')}: {seen.get('status')}"
    counts = f"{seen.get('ready_replicas')} of {_wanted(seen)} replicas ready"
    return f"{told}; {seen.get('reason') or counts}"
