"""/cloud/v1/jobs"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import Header, Path, Query, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

from tramontane.api import job_views, views
from tramontane.api.access import requires
from tramontane.api.open_streams import HeldStream
from tramontane.api.routes.declared import RefInPath, Using, guarded_router
from tramontane.domain.jobs.attempt import ShippedFile, Topology
from tramontane.domain.jobs.job import Attempt, JobStatus
from tramontane.domain.jobs.rules import NewJob
from tramontane.domain.launch import PriorityClass
from tramontane.domain.refusal import RefusedError
from tramontane.domain.tenancy import Permission, Principal
from tramontane.services.jobs.logs import JobLogs, LogOf
from tramontane.wire import cloud_jobs as wire
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_requests as requests
from tramontane.wire import cloud_types as types

router = guarded_router("jobs")
Reader = Annotated[Principal, requires(Permission.JOBS_READ)]
Writer = Annotated[Principal, requires(Permission.JOBS_WRITE)]
InProject = Annotated[requests.ProjectQuery, Query()]
JobIdInPath = Annotated[
    str,
    Path(min_length=1, max_length=128, pattern=types.REF, description="Id; a name is refused."),
]

# A stream without output ends after this, before anything on the way takes it for dead, and one
# with output after that: clients ask again from the byte where it ended.
SILENT_S: Final = 20.0
STREAM_S: Final = 600.0
_POLL_S: Final = 0.3


@router.get("", operation_id="jobs_list")
def list_jobs(
    principal: Reader, services: Using, query: Annotated[wire.JobPageQuery, Query()]
) -> replies.Page[wire.Job]:
    """List jobs, those that are over too."""
    found = services.jobs.list(
        principal,
        project=query.project,
        status=JobStatus(query.status) if query.status else None,
        after=query.after,
        limit=query.limit,
        newest_first=query.order == "desc",
    )
    kept = services.jobs.retention
    return views.page(found, lambda job: job_views.job(job, kept))


@router.post("", operation_id="jobs_create", status_code=201)
def create_job(
    principal: Writer,
    services: Using,
    body: wire.CreateJob,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="A key of your choice: a repeated request with it makes no second job.",
        ),
    ] = None,
) -> wire.Job:
    """Submit a job. Answers at once with the status pending; what can never run is refused."""
    wish = NewJob(
        name=body.name,
        command=tuple(body.command or ()),
        script=body.script,
        nodes=body.nodes,
        devices=body.devices,
        cpu_millicores=body.cpu_millicores,
        memory_bytes=body.memory_bytes,
        env=tuple((body.environment or {}).items()),
        files=tuple(ShippedFile(f.path, f.content, f.is_executable) for f in body.files or ()),
        priority_class=PriorityClass(body.priority_class),
        time_limit_s=body.time_limit_s,
        retries=body.retries,
        depends_on=tuple(body.depends_on or ()),
        array=body.array,
        topology=Topology(body.topology),
        hang_after_s=body.hang_after_s,
        cluster=body.cluster,
        project=body.project,
    )
    made = services.jobs.create(principal, wish, idempotency_key)
    return job_views.job(made, services.jobs.retention)


@router.get("/{job}", operation_id="jobs_get")
def get_job(principal: Reader, services: Using, job: RefInPath, query: InProject) -> wire.Job:
    """Return one job; a name means the newest job of that name."""
    found = services.jobs.get(principal, job, query.project)
    return job_views.job(found, services.jobs.retention)


@router.post("/{job}/cancel", operation_id="jobs_cancel")
def cancel_job(principal: Writer, services: Using, job: RefInPath, query: InProject) -> wire.Job:
    """End a job; one that is over stays as it is. Repeating it changes nothing."""
    cancelled = services.jobs.cancel(principal, job, query.project)
    return job_views.job(cancelled, services.jobs.retention)


@router.delete("/{job}", operation_id="jobs_delete")
def delete_job(
    principal: Writer, services: Using, job: JobIdInPath, query: InProject
) -> replies.Deleted:
    """Delete a job that is over: it is not listed any more, and its files are removed soon after.

    That is its working folder, its checkpoints and its logs. Its story stays, and the bill of its
    attempts. Refused with 409 while it goes on, or while another job waits for it; a second time
    changes nothing.
    """
    return replies.Deleted(object="job", id=services.jobs.delete(principal, job, query.project))


@router.get("/{job}/attempts", operation_id="jobs_attempts")
def list_attempts(
    principal: Reader,
    services: Using,
    job: RefInPath,
    query: Annotated[requests.ProjectPageQuery, Query()],
) -> replies.Page[wire.Attempt]:
    """List the attempts at a job, by index and number."""
    found = services.jobs.attempts(
        principal, job, query.project, after=query.after, limit=query.limit
    )
    return views.page(found, job_views.attempt)


# Without a media type of its own: a refusal is JSON here too.
@router.get(
    "/{job}/logs",
    operation_id="jobs_logs",
    response_class=Response,
    response_model=None,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def read_logs(
    request: Request,
    principal: Reader,
    services: Using,
    job: RefInPath,
    query: Annotated[wire.JobLogQuery, Query()],
) -> Response:
    """Return what an attempt wrote: the last lines, or all from a byte on, even while it runs.

    A project may read 32 logs at a time in the second way, and an API key 16.
    """
    which = LogOf(query.attempt, query.index, query.rank)
    attempt = services.job_logs.find(principal, job, query.project, which)
    if attempt is None:
        return PlainTextResponse("")
    headers = {"x-tramontane-attempt": str(attempt.number)}
    if query.lines is not None:
        lines = services.job_logs.tail(attempt, query.lines)
        text = "".join(f"{line}\n" for line in lines)
        return PlainTextResponse(text.encode(errors="replace"), headers=headers)
    services.job_logs.read(attempt, query.rank, query.offset)  # refused while there is no answer
    stream = _stream(services.job_logs, attempt, query.rank, query.offset, follow=query.follow)
    return HeldStream(stream, request.app.state.open_streams, principal, headers)


async def _stream(
    logs: JobLogs, attempt: Attempt, rank: int, offset: int, *, follow: bool
) -> AsyncIterator[bytes]:
    """Yield the output from ``offset`` on: what there is, or all until the attempt is over."""
    began_s = heard_s = time.monotonic()
    while True:
        # Asked before reading: what is written before its end is then read after it.
        is_over = not follow or await run_in_threadpool(logs.is_over, attempt)
        try:
            piece = await run_in_threadpool(logs.read, attempt, rank, offset)
        except RefusedError:
            return  # its cluster fell silent: the client asks again
        now_s = time.monotonic()
        if piece:
            offset += len(piece)
            heard_s = now_s
            yield piece
        elif is_over or now_s - heard_s > SILENT_S:
            return
        else:
            await asyncio.sleep(_POLL_S)
        if now_s - began_s > STREAM_S:
            return
