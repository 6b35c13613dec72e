"""What a runner says of itself, whether by file or over HTTP."""

from dataclasses import dataclass

from tramontane.domain.jobs.attempt import AttemptState
from tramontane.domain.observation import RunState


@dataclass(frozen=True, slots=True)
class RunnerReport:
    """The last word of the runner of replica or attempt ``id``.

    ``address`` is ``host:port`` while it serves. ``reason`` says how it ended. ``exit_code`` is
    the command's, for an attempt that is over; below 0 by a signal. ``outcome`` is what
    became of an attempt that is over, as far as its runner can tell.
    """

    id: str
    run_state: RunState
    at_ms: int
    address: str | None = None
    reason: str | None = None
    requests_running: int | None = None
    requests_waiting: int | None = None
    exit_code: int | None = None
    outcome: AttemptState | None = None
    node_name: str | None = None
