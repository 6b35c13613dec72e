"""Slurm's words for why a job waits and how it ended, as sentences for people.

Names are those of job_reason_string() and job_state_string() (slurm_protocol_defs.c); a name that
is not in the table is told as Slurm says it.
"""

import re
from typing import Final

from tramontane.domain.jobs.attempt import AttemptState
from tramontane.drivers.slurm.dialects.records import SlurmJob
from tramontane.runner import command

_PENDING: Final = {
    "": "Slurm has not looked at it yet",
    "None": "Slurm has not looked at it yet",
    "Resources": "no free nodes have what it needs; it is the next in line for them",
    "Priority": "others with a higher priority are before it",
    "Dependency": "it waits for another job to end",
    "DependencyNeverSatisfied": "it waits for another job in a way that can never happen",
    "BeginTime": "its begin lies in the future",
    "JobHeldAdmin": "an administrator of the cluster holds it back",
    "JobHeldUser": "it is held back",
    "Licenses": "a licence that it needs is in use",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "PartitionTimeLimit": "its time limit is longer than the partition allows; it never starts",
    "PartitionNodeLimit": "it needs more nodes than the partition allows; it never starts",
    "PartitionConfig": "the partition cannot serve it: it asks for more than its nodes have",
    "NodeDown": "a node that it needs is down",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "BadConstraints": "no node of the cluster has what it asks for; it never starts",
    "Reservation": "it waits for its reservation to begin",
    "ReservationDeleted": "its reservation was deleted",
    "MaxJobsPerAccount": "the account runs as many jobs as it may",
    "Prolog": "a node is being prepared for it",
    "Cleaning": "its last run is being cleaned up",
    "JobArrayTaskLimit": "as many of its array run as may at a time",
    "InvalidAccount": "its account does not exist any more",
    "InvalidQOS": "its class is not open to its account any more (its QOS)",
    "AccountingPolicy": "a limit of the account does not let it start",
    "AccountNotAllowed": "the account may not use this partition",
    "QOSNotAllowed": "its QOS may not be used in this partition",
    "AssocGrpGRES": "the devices of the account's quota are in use",
    "AssocGrpTRES": "the account's quota is used up",
    "AssocGrpCpuLimit": "the processors of the account's quota are in use",
    "AssocGrpMemLimit": "the memory of the account's quota is in use",
    "AssocGrpNodeLimit": "the nodes of the account's quota are in use",
    "AssocGrpJobsLimit": "the account runs as many jobs as it may",
    "AssocGrpSubmitJobsLimit": "the account has as many jobs queued as it may",
    "AssocGrpGRESMinutes": "the account's budget of device time is used up",
    "AssocGrpBillingMinutes": "the account's budget is used up",
    "AssocMaxJobsLimit": "the account runs as many jobs as it may",
    "AssocMaxGRESPerJob": "it needs more devices than the account may use for one job",
    "AssocMaxWallDurationPerJobLimit": "its time limit is longer than the account may ask for",
    "QOSGrpGRES": "the devices of its class are all in use",
    "QOSGrpCpuLimit": "the processors of its class are all in use",
    "QOSGrpMemLimit": "the memory of its class is all in use",
    "QOSGrpNodeLimit": "the nodes of its class are all in use",
    "QOSGrpJobsLimit": "as many jobs of its class run as may",
    "QOSMaxGRESPerUser": "the user holds as many devices as its class allows",
    "QOSMaxGRESPerAccount": "the account holds as many devices as its class allows",
    "QOSMaxGRESPerJob": "it needs more devices than its class allows for one job",
    "QOSMaxGRES": "it needs more devices than its class allows",
    "QOSMaxJobsPerUserLimit": "the user runs as many jobs of its class as it may",
    "QOSMaxCpuPerUserLimit": "the user holds as many processors as its class allows",
    "QOSMaxNodePerUserLimit": "the user holds as many nodes as its class allows",
    "QOSMaxWallDurationPerJobLimit": "its time limit is longer than its class allows",
    "NodesConfiguring": "its nodes are being started",
}
# How a runner ends that starts nothing since the id has run, or runs elsewhere. Of the only job of
# an id it means that slurmctld, killed before it saved its state, started the job a second time.
SECOND_RUN: Final = command.SECOND_RUN
LOST: Final = "LostBySlurm"  # a reason of ours: see `known.lost`
_FOLDER_STATUS: Final = 73  # of the batch script and of the runner
_QUOTA: Final = re.compile(r"(Assoc|QOS)(Grp|Max|Min)([A-Za-z]*)")
_BY_STATE: Final = {
    "COMPLETED": AttemptState.SUCCEEDED,
    "FAILED": AttemptState.FAILED,
    "OUT_OF_MEMORY": AttemptState.FAILED,
    "BOOT_FAIL": AttemptState.NODE_FAILED,
    "NODE_FAIL": AttemptState.NODE_FAILED,
    "CANCELLED": AttemptState.CANCELLED,
    "REVOKED": AttemptState.CANCELLED,
    "PREEMPTED": AttemptState.PREEMPTED,
    "REQUEUED": AttemptState.PREEMPTED,  # so accounting calls a run that another one follows
    "TIMEOUT": AttemptState.TIMED_OUT,
    "DEADLINE": AttemptState.TIMED_OUT,
}
_WAITING: Final = frozenset({"PENDING", "REQUEUE_HOLD", "SPECIAL_EXIT", "REQUEUE_FED"})
_REQUEUED: Final = frozenset({"REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
_SUSPENDED: Final = frozenset({"SUSPENDED", "STOPPED"})
REQUEUE_REASON: Final = "was put back into the queue on its cluster, and nothing runs twice"
SUSPEND_REASON: Final = "is suspended on its cluster, where an administrator can resume it"
_ENDS: Final = {
    "OUT_OF_MEMORY": "used more memory than it had asked for, and was ended",
    "BOOT_FAIL": "its node did not start",
    "REQUEUED": REQUEUE_REASON,
}


def attempt_state(job: SlurmJob) -> AttemptState:
    """Return where a job is; one that still holds its nodes is running, however it ended."""
    if "COMPLETING" in job.states:
        return AttemptState.RUNNING
    if "PENDING" in job.states:
        return AttemptState.QUEUED
    if "FAILED" in job.states and job.exit_status.code == SECOND_RUN:
        return AttemptState.NODE_FAILED
    for name, state in _BY_STATE.items():
        if name in job.states:
            return state
    return AttemptState.QUEUED if job.states & _WAITING else AttemptState.RUNNING


def was_requeued(job: SlurmJob) -> bool:
    """Tell whether Slurm put a job back into its queue after it had run."""
    return job.restarts > 0 or bool(job.states & _REQUEUED)


def is_suspended(job: SlurmJob) -> bool:
    """Tell whether the processes of a job were stopped: nothing of it answers or ends itself."""
    return bool(job.states & _SUSPENDED) and "COMPLETING" not in job.states


def pending_reason(reason: str) -> str:
    """Return why a job waits, as half a sentence."""
    # ReqNodeNotAvail may be followed by names: "ReqNodeNotAvail, UnavailableNodes:r1n1".
    name = reason.partition(",")[0].strip()
    if (known := _PENDING.get(name)) is not None:
        return known
    if quota := _QUOTA.match(name):
        whose = "the account" if quota[1] == "Assoc" else "its class"
        return f"a limit of {whose} does not let it start ({name})"
    return f"Slurm says {name}"


def end_reason(job: SlurmJob) -> str:
    """Return how a job ended, as a sentence without its subject."""
    state = attempt_state(job)
    for name, words in _ENDS.items():
        if name in job.states:
            return words
    if job.exit_status.code == SECOND_RUN:
        return "Slurm had lost sight of it and started it again, and nothing runs twice"
    if state is AttemptState.NODE_FAILED:
        return f"its node failed: {', '.join(job.nodes)}" if job.nodes else "its node failed"
    if state is AttemptState.TIMED_OUT:
        limit = f" of {_duration(job.time_limit_min)}" if job.time_limit_min else ""
        return f"reached its time limit{limit}"
    if state is AttemptState.PREEMPTED:
        return "was evicted for work of a higher class"
    if state is AttemptState.CANCELLED:
        return "was cancelled" if job.start_s else "was cancelled before it started"
    if state is AttemptState.SUCCEEDED:
        return "ended"
    if job.exit_status.signal:
        return f"was ended by signal {job.exit_status.signal}"
    if job.exit_status.code == _FOLDER_STATUS:
        return "could not make its run directory: look at its Unix user's folder below work_root"
    if job.exit_status.code:
        return f"ended with status {job.exit_status.code}"
    if job.reason == LOST:
        return "Slurm has no record of how it ended"
    reason = "" if job.reason in {"", "NonZeroExitCode"} else f": Slurm says {job.reason}"
    return f"failed{reason}"


def _duration(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    if not hours:
        return f"{rest} min"
    return f"{hours} h {rest} min" if rest else f"{hours} h"
