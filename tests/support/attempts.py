"""Attempts at jobs for tests: their launches, and real runners of them."""

import dataclasses
from typing import Any, Final, Literal

from tramontane.domain import ids
from tramontane.domain.jobs.attempt import JobLaunch, Topology
from tramontane.domain.launch import PriorityClass, Tenancy
from tramontane.domain.resources import Resources
from tramontane.runtime.clock import SystemIds

How = Literal["runs", "succeeds", "fails", "outlasts"]
SECRET: Final = "what-only-its-runner-shows"


def new_attempt_id() -> str:
    return SystemIds().new(ids.ATTEMPT)


def job_launch(*argv: str, time_limit_s: int = 60, **changes: Any) -> JobLaunch:
    """Return the launch of an attempt at a new job."""
    launch = JobLaunch(
        job_id=SystemIds().new(ids.JOB),
        name="a-job",
        number=1,
        argv=argv,
        env=(),
        files=(),
        nodes=1,
        resources=Resources(cpu_millicores=100, memory_bytes=16 << 20),
        topology=Topology.ANY,
        priority_class=PriorityClass.STANDARD,
        time_limit_s=time_limit_s,
        hang_after_s=None,
        tenancy=Tenancy("default", "default"),
        secret=SECRET,
        grace_s=5,
    )
    return dataclasses.replace(launch, **changes)
