"""``tramontane plan``: what the replica reconciler would do, and why something has no place.

It plans on a snapshot, from a file or from the running control plane, with the function that the
reconciler uses. Nothing is changed.
"""

from pathlib import Path
from typing import Any

from tramontane.cli.exits import CommandError
from tramontane.cli.session import Connection, connect
from tramontane.cli.verbs import one_line_errors
from tramontane.domain.planning.plan import (
    Action,
    Ensure,
    Forget,
    Place,
    Plan,
    SetStatus,
    Stop,
    StopOrphan,
    Transition,
)
from tramontane.domain.planning.replica_plan import plan_replicas
from tramontane.domain.planning.snapshot import (
    ReplicaSnapshot,
    UnreadableSnapshotError,
    from_json,
    from_plain_snapshot,
)


def run(
    snapshot: Path | None,
    home: Path | None,
    base_url: str | None = None,
    api_key: str | None = None,
) -> int:
    """Print the plan of the snapshot in a file, or of now; return the exit status."""
    with one_line_errors():
        if snapshot is not None:
            found = _from_file(snapshot)
        else:
            found = _from_server(connect(base_url, api_key, home))
        print("\n".join(lines_of(found, plan_replicas(found))))
    return 0


def lines_of(snapshot: ReplicaSnapshot, plan: Plan) -> list[str]:
    """Return the plan as lines for people: actions in order, then what has no place."""
    names = _Names(snapshot)
    lines = [_line(action, names) for action in plan.actions] or ["nothing to do"]
    if plan.unplaced:
        lines += ["", "without a place:"]
    for unplaced in plan.unplaced:
        deployment = names.deployment(unplaced.deployment_id)
        lines.append(f"  {deployment}: {unplaced.count} waiting: {unplaced.reason}")
    return lines


class _Names:
    """Names of what a snapshot knows by ids."""

    def __init__(self, snapshot: ReplicaSnapshot) -> None:
        states = snapshot.clusters
        self._nodes = {node.id: node.name for state in states for node in state.nodes}
        self._deployments = {d.id: d.name for d in snapshot.deployments}

    def deployment(self, deployment_id: str) -> str:
        return self._deployments.get(deployment_id, deployment_id)

    def node(self, node_id: str) -> str:
        return self._nodes.get(node_id, node_id)


def _line(action: Action, names: _Names) -> str:
    match action:
        case Place():
            devices = ", ".join(str(index) for index in action.device_indexes)
            on = f" devices {devices}" if devices else ""
            return (
                f"place     {names.deployment(action.deployment_id)}"
                f" generation {action.generation} on {names.node(action.node_id)}{on}"
                f" ({action.resources.describe()})"
            )
        case Transition():
            return f"record    {action.replica_id} {action.to}: {_first(action.message)}"
        case SetStatus():
            reason = f": {action.reason}" if action.reason else ""
            return f"record    {names.deployment(action.deployment_id)} {action.status}{reason}"
        case Ensure():
            return f"start     {action.replica_id}"
        case Stop():
            return f"stop      {action.replica_id} ({'drains' if action.drain else 'at once'})"
        case StopOrphan():
            return f"stop      {action.replica_id} (an orphan)"
        case Forget():
            return f"forget    {action.replica_id}"


def _first(message: str) -> str:
    return message.splitlines()[0] if message else ""


def _from_file(path: Path) -> ReplicaSnapshot:
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"the snapshot {path} cannot be read: {error.strerror}"
        raise CommandError(msg) from error
    except UnicodeDecodeError as error:
        raise CommandError(f"the snapshot {path} is not UTF-8 text") from error
    except UnreadableSnapshotError as error:
        raise CommandError(f"{path} is not a snapshot: {error}") from error


def _from_server(connection: Connection) -> ReplicaSnapshot:
    reply: dict[str, Any] = connection.client().get("/plan")
    try:
        return from_plain_snapshot(reply.get("snapshot"))
    except UnreadableSnapshotError as error:
        msg = f"the server's snapshot cannot be read ({error}): is it of another version?"
        raise CommandError(msg) from error
