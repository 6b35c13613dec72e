"""What runners say, laid over what their cluster says.

A cluster that queues knows when something runs and that it ended, and nothing of what goes on
inside: a running replica that has not reported is starting. The cluster has the last word on
whether something is over, its runner on how that came.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from tramontane.domain.jobs.attempt import AttemptObservation, AttemptState
from tramontane.domain.observation import ClusterView, Observation, RunState, Unreachable
from tramontane.domain.report import RunnerReport

_LIFE: Final = (RunState.STARTING, RunState.READY, RunState.DRAINING, RunState.EXITED)
_SERVING: Final = frozenset({RunState.READY, RunState.DRAINING})
# A cluster sees a status other than 0 and calls it failed; only the runner knows what it means.
_RUNNER_KNOWS: Final = frozenset({AttemptState.TIMED_OUT, AttemptState.CANCELLED})


def with_reports(view: ClusterView, reports: Mapping[str, RunnerReport]) -> ClusterView:
    """Return ``view`` with what the runners of its replicas and attempts said (``reports`` by id).

    A report about something that the cluster does not list changes nothing.
    """
    if isinstance(view, Unreachable) or not reports:
        return view
    return replace(
        view,
        observations=tuple(
            _replica(seen, reports.get(seen.replica_id)) for seen in view.observations
        ),
        attempts=tuple(_attempt(seen, reports.get(seen.attempt_id)) for seen in view.attempts),
    )


def _replica(seen: Observation, report: RunnerReport | None) -> Observation:
    if report is None:
        return seen
    state = max(seen.run_state, report.run_state, key=_LIFE.index)
    if state is RunState.EXITED:
        ended = replace(seen, run_state=state, address=None, reason=report.reason or seen.reason)
        return replace(ended, requests_running=None, requests_waiting=None, ends_at_ms=None)
    if state not in _SERVING:
        return seen
    return replace(
        seen,
        run_state=state,
        address=report.address or seen.address,
        reason=seen.reason if seen.run_state is RunState.DRAINING else None,
        requests_running=report.requests_running,
        requests_waiting=report.requests_waiting,
    )


def _attempt(seen: AttemptObservation, report: RunnerReport | None) -> AttemptObservation:
    # One that is over for its first node may go on elsewhere: the cluster says when it is over.
    if report is None or report.run_state is not RunState.EXITED or not seen.state.is_over:
        return seen
    exit_code = seen.exit_code if report.exit_code is None else report.exit_code
    if seen.state is not AttemptState.FAILED:
        is_same = report.outcome is seen.state
        reason = (report.reason or seen.reason) if is_same else seen.reason
        return replace(seen, exit_code=exit_code, reason=reason)
    outcome = report.outcome if report.outcome in _RUNNER_KNOWS else seen.state
    return replace(seen, state=outcome, exit_code=exit_code, reason=report.reason or seen.reason)
