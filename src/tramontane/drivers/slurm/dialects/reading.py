"""Reads the records of any version: plain values of v0.0.38, structures of those after it.

v0.0.38 says ``5``, ``null`` and ``"RUNNING"`` where later ones say ``{"set": true, "infinite":
false, "number": 5}`` and ``["RUNNING"]``. Names of what is read here are the same in all. A record
of another shape raises one of `UNREADABLE`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from tramontane.drivers.slurm.dialects import hostlist
from tramontane.drivers.slurm.dialects.amounts import gpu_counts, tres_amounts
from tramontane.drivers.slurm.dialects.records import (
    ExitStatus,
    SlurmJob,
    SlurmNode,
)

Record = Mapping[str, Any]
UNREADABLE: Final = (ValueError, TypeError, AttributeError, KeyError)
# A job that no free node would help: the reason alone is then Resources (seen in 22.05).
_NODES_AWAY: Final = "Nodes required for job are DOWN"


def records(document: Record, key: str) -> Iterable[Record]:
    """Return the records of a listing. ValueError when it is no list of objects."""
    listed = document.get(key)
    if not isinstance(listed, list):
        msg = f"a reply without a list of {key}"
        raise ValueError(msg)
    for record in cast("list[object]", listed):
        if not isinstance(record, Mapping):
            msg = f"{key} that are no objects"
            raise ValueError(msg)
        yield cast("Record", record)


def number(value: object) -> int | None:
    """Return a count in any version's form; None for unset, without limit or unknown."""
    if isinstance(value, Mapping):
        told = cast("Record", value)
        if not told.get("set") or told.get("infinite"):
            return None
        return number(told.get("number"))
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return None


def words(value: object) -> frozenset[str]:
    """Return states or flags in capitals, however they are listed."""
    if isinstance(value, str):
        return frozenset({value.upper()}) if value else frozenset()
    if isinstance(value, list):
        return frozenset(str(item).upper() for item in cast("list[object]", value))
    return frozenset()


def text(value: object) -> str:
    """Return a text; what is missing is empty."""
    return value if isinstance(value, str) else ""


def part(record: Record, *path: str) -> object:
    """Return what lies at a path of nested objects, None when nothing does."""
    value: object = record
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = cast("Record", value).get(key)
    return value


def job(record: Record) -> SlurmJob:
    """Return a job of slurmctld's listing."""
    states = words(record.get("job_state"))
    is_waiting = "PENDING" in states and "COMPLETING" not in states
    requested = text(record.get("tres_req_str")) or text(record.get("tres_alloc_str"))
    amounts = requested if is_waiting else text(record.get("tres_alloc_str")) or requested
    cpus, memory_mb, gpus = tres_amounts(amounts)
    nodes = () if is_waiting else _nodes(record.get("nodes"))
    reason = text(record.get("state_reason"))
    if text(record.get("state_description")).startswith(_NODES_AWAY):
        reason = "ReqNodeNotAvail"
    return SlurmJob(
        job_id=number(record.get("job_id")) or 0,
        name=text(record.get("name")),
        user=text(record.get("user_name")),
        comment=text(record.get("comment")),
        states=states,
        reason="" if reason == "None" else reason,
        nodes=nodes,
        node_count=len(nodes) or number(record.get("node_count")) or 0,
        cpus=cpus,
        memory_mb=memory_mb,
        gpus=gpus,
        qos=text(record.get("qos")),
        partition=text(record.get("partition")),
        is_held=bool(record.get("hold")) or reason in {"JobHeldUser", "JobHeldAdmin"},
        folder=text(record.get("current_working_directory")),
        submit_s=number(record.get("submit_time")) or 0,
        start_s=number(record.get("start_time")) or 0,
        end_s=number(record.get("end_time")) or 0,
        time_limit_min=number(record.get("time_limit")),
        exit_status=_exit_status(record.get("exit_code")),
        restarts=number(record.get("restart_cnt")) or 0,
    )


def accounted(record: Record) -> SlurmJob:
    """Return a job of slurmdbd's listing."""
    nodes = _nodes(record.get("nodes"))
    allocated = {"cpu": 0, "mem": 0, "gres/gpu": 0}
    typed_gpus = 0
    for entry in cast("list[Any]", part(record, "tres", "allocated") or []):
        name = "/".join(filter(None, (text(entry.get("type")), text(entry.get("name")))))
        count = number(entry.get("count")) or 0
        if name in allocated:
            allocated[name] = count
        elif name.startswith("gres/gpu:"):
            typed_gpus += count
    reason = text(part(record, "state", "reason"))
    return SlurmJob(
        job_id=number(record.get("job_id")) or 0,
        name=text(record.get("name")),
        user=text(record.get("user")),
        comment=text(part(record, "comment", "job")),
        states=words(part(record, "state", "current")),
        reason="" if reason == "None" else reason,
        nodes=nodes,
        node_count=number(record.get("allocation_nodes")) or len(nodes),
        cpus=allocated["cpu"],
        memory_mb=allocated["mem"],
        gpus=allocated["gres/gpu"] or typed_gpus,
        qos=text(record.get("qos")),
        partition=text(record.get("partition")),
        folder=text(record.get("working_directory")),
        submit_s=number(part(record, "time", "submission")) or 0,
        start_s=number(part(record, "time", "start")) or 0,
        end_s=number(part(record, "time", "end")) or 0,
        time_limit_min=number(part(record, "time", "limit")),
        exit_status=_exit_status(record.get("exit_code")),
        suspended_s=number(part(record, "time", "suspended")) or 0,
    )


def node(record: Record) -> SlurmNode:
    """Return a node."""
    states = words(record.get("state")) | words(record.get("state_flags"))
    memory_mb = (number(record.get("real_memory")) or 0) - (
        number(record.get("specialized_memory")) or 0
    )
    used_gpus = sum(count for _, count in gpu_counts(text(record.get("gres_used"))))
    return SlurmNode(
        name=text(record.get("name")),
        states=states,
        reason=text(record.get("reason")),
        partitions=frozenset(cast("list[str]", record.get("partitions") or [])),
        cpus=number(record.get("effective_cpus")) or number(record.get("cpus")) or 0,
        memory_mb=max(0, memory_mb),
        gpus=gpu_counts(text(record.get("gres"))),
        used_cpus=number(record.get("alloc_cpus")) or 0,
        used_memory_mb=number(record.get("alloc_memory")) or 0,
        used_gpus=used_gpus,
    )


def _nodes(value: object) -> tuple[str, ...]:
    listed = text(value)
    return () if listed in {"", "None assigned", "(null)"} else hostlist.expand(listed)


def _exit_status(value: object) -> ExitStatus:
    """Read a wait status, or ``{"return_code", "signal": {"id"}}`` of v0.0.40 and slurmdbd."""
    if isinstance(value, Mapping) and "return_code" in value:
        told = cast("Record", value)
        signal = part(told, "signal", "id")
        if signal is None:
            signal = part(told, "signal", "signal_id")  # up to v0.0.39
        return ExitStatus(number(told["return_code"]) or 0, number(signal) or 0)
    return ExitStatus.of_wait(number(value) or 0)
