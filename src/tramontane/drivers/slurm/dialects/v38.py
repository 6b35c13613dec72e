"""v0.0.38 (Slurm 22.05): plain numbers, option names of sbatch. The one that tests run against.

Its parser takes the options of sbatch, some under names of its own and some not at all
(src/slurmrestd/plugins/openapi/v0.0.38/jobs.c): nodes are required by ``nodelist``, ``requeue`` is
ignored but ``no_requeue`` is not, a warning signal reaches steps only and never the script, and
``required_switches`` is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tramontane.drivers.slurm.dialects.reading import number, text, words
from tramontane.drivers.slurm.dialects.records import JobOrder, SlurmPartition


class V38:
    """The dialect of v0.0.38."""

    version = "v0.0.38"
    can_require_one_rack = False
    can_update_nodes = False

    def submission(self, order: JobOrder) -> Mapping[str, Any]:
        """Return the body of a submission."""
        job: dict[str, Any] = {
            "name": order.name,
            "comment": order.comment,
            "environment": dict(order.environment),
            "current_working_directory": order.folder,
            "standard_output": "/dev/null",
            "standard_error": "/dev/null",
            "nodes": f"{order.nodes}-{order.nodes}",
            "tasks_per_node": 1,
            "cpus_per_task": order.cpus,
            "memory_per_node": order.memory_mb,
            "no_requeue": True,
            "time_limit": "UNLIMITED" if order.time_limit_min is None else order.time_limit_min,
        }
        if order.gpus:
            job["gpus_per_node"] = str(order.gpus)
        if order.node_names:
            job["nodelist"] = ",".join(order.node_names)
        if order.excluded_nodes:
            job["exclude_nodes"] = ",".join(order.excluded_nodes)
        if order.is_spread:
            job["spread_job"] = True
        if order.is_held:
            job["hold"] = True
        if order.grace_s and order.nodes > 1:
            job["signal"] = f"USR1@{order.grace_s}"
        for key in ("partition", "account", "qos"):
            if (value := getattr(order, key)) is not None:
                job[key] = value
        return {"script": order.script, "job": job}

    def partition(self, record: Mapping[str, Any]) -> SlurmPartition:
        """Return a partition; -1 is without limit."""
        time_min, nodes = number(record.get("max_time_limit")), record.get("maximum_nodes_per_job")
        return SlurmPartition(
            name=text(record.get("name")),
            is_default="DEFAULT" in words(record.get("flags")),
            max_time_min=None if time_min is None or time_min < 0 else time_min,
            max_nodes=None if (count := number(nodes)) is None or count < 0 else count,
        )

    def cancellation(self, signal: int | None) -> Mapping[str, str]:
        """Return the query of a cancellation."""
        return {} if signal is None else {"signal": str(signal)}

    def accounting(self, names: Sequence[str], since_s: int) -> Mapping[str, str]:
        """Return the query; plain seconds are refused, ``uts`` before them is not."""
        return {
            "job_name": ",".join(names),
            "start_time": f"uts{since_s}",
            "skip_steps": "true",
        }

    def drain(self, reason: str | None) -> Mapping[str, Any]:
        """Never called: there is no such address."""
        raise NotImplementedError(reason)
