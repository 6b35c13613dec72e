"""v0.0.39 (Slurm 23.02) and what came after it: numbers as structures, names of Slurm's own.

Field names and types are those of JOB_DESC_MSG in src/plugins/data_parser/v0.0.*/parsers.c; the
examples in tests/drivers/slurm_examples say which commits.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tramontane.drivers.slurm.dialects.reading import number, part, text, words
from tramontane.drivers.slurm.dialects.records import JobOrder, SlurmPartition

SWITCH_WAIT_S: Final = 365 * 86_400  # a job that must stay in one rack waits as long as it takes


class V39:
    """The dialect of v0.0.39 to v0.0.45, by its number."""

    can_require_one_rack = True
    can_update_nodes = True

    def __init__(self, version: str) -> None:
        self.version = version
        # TRES names have a slash since 23.11; 23.02 knows them with colons only.
        self._gpus = "gres:gpu" if version == "v0.0.39" else "gres/gpu"

    def submission(self, order: JobOrder) -> Mapping[str, Any]:
        """Return the body of a submission."""
        job: dict[str, Any] = {
            "name": order.name,
            "comment": order.comment,
            "environment": [f"{name}={value}" for name, value in order.environment],
            "current_working_directory": order.folder,
            "standard_output": "/dev/null",
            "standard_error": "/dev/null",
            "nodes": f"{order.nodes}-{order.nodes}",
            "tasks_per_node": 1,
            "tasks": order.nodes,
            "cpus_per_task": order.cpus,
            "memory_per_node": _number(order.memory_mb),
            "requeue": False,
            "time_limit": _number(order.time_limit_min),
        }
        if order.gpus:
            job["tres_per_node"] = f"{self._gpus}:{order.gpus}"
        if order.node_names:
            job["required_nodes"] = list(order.node_names)
        if order.excluded_nodes:
            job["excluded_nodes"] = list(order.excluded_nodes)
        if order.in_one_rack:
            job["required_switches"] = _number(1)
            job["wait_for_switch"] = SWITCH_WAIT_S
        if order.is_spread:
            job["flags"] = ["SPREAD_JOB"]
        if order.is_held:
            job["hold"] = True
        if order.grace_s:
            job["kill_warning_signal"] = "USR1"
            job["kill_warning_delay"] = _number(order.grace_s)
            job["kill_warning_flags"] = ["BATCH_JOB"]
        for key in ("partition", "account", "qos"):
            if (value := getattr(order, key)) is not None:
                job[key] = value
        return {"script": order.script, "job": job}

    def partition(self, record: Mapping[str, Any]) -> SlurmPartition:
        """Return a partition."""
        return SlurmPartition(
            name=text(record.get("name")),
            is_default="DEFAULT" in words(record.get("flags")),
            max_time_min=number(part(record, "maximums", "time")),
            max_nodes=number(part(record, "maximums", "nodes")),
        )

    def cancellation(self, signal: int | None) -> Mapping[str, str]:
        """Return the query of a cancellation: to the script, and without ``signal`` to all."""
        flags = {} if self.version == "v0.0.39" else {"flags": "FULL_JOB"}
        return flags if signal is None else {"signal": str(signal), **flags}

    def accounting(self, names: Sequence[str], since_s: int) -> Mapping[str, str]:
        """Return the query."""
        return {
            "job_name": ",".join(names),
            "start_time": f"uts{since_s}",
            "skip_steps": "true",
        }

    def drain(self, reason: str | None) -> Mapping[str, Any]:
        """Return the body that drains a node, or undrains it."""
        if reason is None:
            return {"state": ["UNDRAIN"]}
        return {"state": ["DRAIN"], "reason": reason}


def _number(value: int | None) -> dict[str, object]:
    return {"set": True, "infinite": value is None, "number": value or 0}
