"""Jobs as they travel: what clients send to /cloud/v1/jobs and what they get.

No reply holds the value of a variable of the environment, a file or a secret.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from tramontane.domain.jobs import rules
from tramontane.wire import cloud_types as types
from tramontane.wire.cloud_replies import Resources, Time, TimeOrNull
from tramontane.wire.cloud_requests import ProjectPageQuery, ProjectQuery
from tramontane.wire.cloud_types import Reply, Strict

CONTENT_CHARS_MAX = 4 * rules.FILES_BYTES_MAX // 3 + 4  # of base64
BODY_BYTES_MAX = 3 << 20  # a job: its files in base64, its script and its environment

_Word = Annotated[str, Field(max_length=rules.COMMAND_CHARS_MAX)]
_Value = Annotated[str, Field(max_length=rules.ENV_CHARS_MAX)]
_Variable = Annotated[str, Field(min_length=1, max_length=255)]
_Path = Annotated[str, Field(max_length=4_096, description="Relative to the working folder.")]


class CreateJobFile(Strict):
    """A file that is laid into the working folder before the command runs."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"path": "data/in.txt", "content": "aGVsbG8K"}]}
    )

    path: _Path
    content: Annotated[
        str, Field(max_length=CONTENT_CHARS_MAX, description="What is in it, in base64.")
    ]
    is_executable: Annotated[bool, Field(description="Whether it may be run.")] = False


class CreateJob(Strict):
    """Work that ends: one command on one or several nodes, or an array of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "train",
                    "command": ["torchrun", "train.py"],
                    "nodes": 2,
                    "devices": 4,
                    "time_limit_s": 7_200,
                    "retries": 2,
                }
            ]
        }
    )

    name: Annotated[types.Name, Field(description="What it is called; need not be unique.")]
    command: Annotated[
        list[_Word] | None,
        Field(
            max_length=rules.COMMAND_WORDS_MAX,
            description="What to run, word by word, once on each node; or give `script`.",
        ),
    ] = None
    script: Annotated[
        str | None,
        Field(
            max_length=rules.SCRIPT_CHARS_MAX,
            description="A script in place of `command`; /bin/sh runs it unless it begins with #!.",
        ),
    ] = None
    nodes: Annotated[
        int, Field(ge=1, le=rules.NODES_MAX, description="Nodes, all started at one moment.")
    ] = 1
    devices: Annotated[types.Devices, Field(description="Accelerators of each node.")] = 0
    cpu_millicores: Annotated[
        types.CpuMillicores, Field(description="Thousandths of a CPU core of each node.")
    ] = rules.CPU_MILLICORES_DEFAULT
    memory_bytes: Annotated[types.MemoryBytes, Field(description="Memory of each node.")] = (
        rules.MEMORY_BYTES_DEFAULT
    )
    environment: Annotated[
        dict[_Variable, _Value] | None,
        Field(max_length=rules.ENV_MAX, description="Variables of the command, by name."),
    ] = None
    files: Annotated[
        list[CreateJobFile] | None,
        Field(
            max_length=rules.FILES_MAX, description="Laid into the working folder; 1 MiB in all."
        ),
    ] = None
    priority_class: Annotated[
        Literal["reserved", "standard", "spot"],
        Field(description="`spot` gives way to the other two where a cluster is full."),
    ] = "standard"
    time_limit_s: Annotated[
        int,
        Field(ge=1, le=rules.TIME_LIMIT_S_MAX, description="An attempt is ended after so long."),
    ] = rules.TIME_LIMIT_S_DEFAULT
    retries: Annotated[
        int,
        Field(
            ge=0,
            le=rules.RETRIES_MAX,
            description="Further attempts after a failure; those after an eviction or the loss of "
            "a node do not count.",
        ),
    ] = 0
    depends_on: Annotated[
        list[types.Ref] | None,
        Field(
            max_length=rules.DEPENDS_ON_MAX,
            description="Ids or names of jobs that must have succeeded before.",
        ),
    ] = None
    array: Annotated[
        int | None,
        Field(
            ge=1,
            le=rules.ARRAY_MAX,
            description="Run so many times, told apart by TRAMONTANE_ARRAY_INDEX, from 0.",
        ),
    ] = None
    topology: Annotated[
        Literal["any", "rack", "spread"],
        Field(description="Which nodes: all in one `rack`, `spread` over racks, or any."),
    ] = "any"
    hang_after_s: Annotated[
        int | None,
        Field(
            ge=rules.HANG_S_MIN,
            le=rules.TIME_LIMIT_S_MAX,
            description="End an attempt that is silent for so long: neither output nor heartbeat.",
        ),
    ] = None
    cluster: Annotated[
        types.Ref | None, Field(description="Name of the only cluster to use; null: any.")
    ] = None
    project: Annotated[
        types.Ref | None,
        Field(description="Id or name of a project; only an operator may name another."),
    ] = None


class JobPageQuery(ProjectPageQuery):
    """A page of jobs."""

    status: Annotated[
        Literal["pending", "running", "succeeded", "failed", "cancelled"] | None,
        Field(description="Only those with this status."),
    ] = None
    order: Annotated[Literal["asc", "desc"], Field(description="`desc`: the newest first.")] = "asc"


class JobLogQuery(ProjectQuery):
    """Which output, and how much of it."""

    attempt: Annotated[
        int | None,
        Field(ge=1, le=1_000_000, description="Number of the attempt; null: the newest."),
    ] = None
    index: Annotated[int, Field(ge=0, le=rules.ARRAY_MAX, description="Index of an array.")] = 0
    rank: Annotated[
        int, Field(ge=0, le=rules.NODES_MAX, description="Which of its nodes, from 0.")
    ] = 0
    offset: Annotated[
        int, Field(ge=0, le=1 << 62, description="Begin at this byte; the reply tells bytes.")
    ] = 0
    lines: Annotated[
        int | None,
        Field(
            ge=1,
            le=types.LOG_LINES_MAX,
            description="Only the last lines, in place of all from `offset` on.",
        ),
    ] = None
    follow: Annotated[
        bool,
        Field(
            description="Go on while it runs; the reply ends with the attempt, or after a silence: "
            "ask again from where it ended."
        ),
    ] = False


class Job(Reply):
    """What is wanted, and how far that has come."""

    object: Literal["job"] = "job"
    id: str
    project_id: str
    name: str
    status: Annotated[
        str, Field(description="One of pending, running, succeeded, failed, cancelled.")
    ]
    reason: Annotated[str | None, Field(description="What it waits for or how it ended.")]
    is_cancelling: Annotated[bool, Field(description="It was asked to end and has not yet.")]
    command: list[str]
    nodes: int
    resources: Annotated[Resources, Field(description="Of each node.")]
    environment: Annotated[list[str], Field(description="Names of its variables.")]
    files: Annotated[list[str], Field(description="Paths of what it ships.")]
    priority_class: str
    time_limit_s: int
    retries: int
    depends_on: Annotated[list[str], Field(description="Ids of jobs.")]
    array: int | None
    topology: str
    hang_after_s: int | None
    cluster: Annotated[str | None, Field(description="The only cluster that it may use.")]
    cluster_id: Annotated[str | None, Field(description="Where it runs, once that is chosen.")]
    created_at_ms: Time
    started_at_ms: TimeOrNull
    ended_at_ms: TimeOrNull
    files_kept_until_ms: Annotated[
        int | None,
        Field(
            description="Of one that is over: when its files are removed, at the earliest; null: "
            "never, or they are gone."
        ),
    ]
    files_removed_at_ms: Annotated[
        int | None, Field(description="When its files were gone: working folder, logs and all.")
    ]


class Attempt(Reply):
    """One start of a job, or of one index of its array."""

    object: Literal["attempt"] = "attempt"
    id: str
    job_id: str
    index: Annotated[int, Field(description="Of the array; 0 without one.")]
    number: Annotated[int, Field(description="Counts the attempts at its index, from 1.")]
    status: Annotated[
        str,
        Field(
            description="One of pending, queued, running, succeeded, failed, cancelled, preempted, "
            "node_failed, timed_out, refused."
        ),
    ]
    reason: Annotated[str | None, Field(description="What it waits for or how it ended.")]
    exit_code: Annotated[int | None, Field(description="Of the command; below 0: a signal.")]
    cluster_id: str
    external_id: Annotated[str | None, Field(description="The cluster's own number for it.")]
    node_names: Annotated[list[str], Field(description="Where it runs or ran.")]
    devices: Annotated[int, Field(description="Accelerators, on all nodes.")]
    device_seconds: Annotated[
        int, Field(description="Seconds of one accelerator, once it is accounted.")
    ]
    is_accounted: Annotated[
        bool, Field(description="Whether times and devices are those of the cluster's accounting.")
    ]
    created_at_ms: Time
    starts_at_ms: Annotated[
        int | None, Field(description="When its cluster expects to start it, if it says so.")
    ]
    started_at_ms: TimeOrNull
    ended_at_ms: TimeOrNull
