"""/cloud/v1/runners: where runners on other machines say how their replica or attempt is.

They have no API key: each shows the secret of the one thing that it supervises.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from tramontane.api.access import GuardedRoute, bearer_of, runner_only
from tramontane.api.routes.declared import Using
from tramontane.domain.jobs.attempt import AttemptState
from tramontane.domain.observation import RunState
from tramontane.domain.report import RunnerReport
from tramontane.wire.runner_report import RunnerReply, RunnerReportBody

router = APIRouter(
    prefix="/cloud/v1/runners",
    route_class=GuardedRoute,
    include_in_schema=False,
    dependencies=[runner_only()],
)


@router.post("/{id}/report")
def report(
    request: Request,
    services: Using,
    id_: Annotated[str, Path(alias="id", max_length=64)],
    body: RunnerReportBody,
) -> RunnerReply:
    """Take what a runner says, and say whether it is to go on."""
    said = RunnerReport(
        id=id_,
        run_state=RunState(body.run_state),
        at_ms=body.at_ms,
        address=body.address,
        reason=body.reason,
        requests_running=body.requests_running,
        requests_waiting=body.requests_waiting,
        exit_code=body.exit_code,
        outcome=AttemptState(body.outcome) if body.outcome else None,
        node_name=body.node_name,
    )
    secret, peer = bearer_of(request), request.headers.get("x-forwarded-for", "")
    wanted = services.runner_reports.accept(said, secret, peer)
    return RunnerReply(wanted=wanted)
