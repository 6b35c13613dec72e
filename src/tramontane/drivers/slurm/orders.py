"""From what is to be started to the job that Slurm is asked for. Pure but for the runner's bytes.

Raises ValueError for what will never work, with what to do about it.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tramontane.domain import ids
from tramontane.domain.jobs.attempt import JobLaunch, Topology
from tramontane.domain.launch import LaunchSpec, PriorityClass, Tenancy
from tramontane.domain.quotas import names
from tramontane.domain.resources import Resources
from tramontane.drivers.slurm.dialects.records import (
    JobOrder,
    SlurmJob,
    SlurmNode,
    SlurmPartition,
)
from tramontane.drivers.slurm.jobs import Mark
from tramontane.drivers.slurm.script import Batch, build
from tramontane.runtime.clusters import SlurmSettings

# Enough to find the interpreter; the runner takes HOME from the user's own account.
ENVIRONMENT: Final = (("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"),)
GRACE_S_MAX: Final = 65_000  # Slurm keeps it in 16 bits
NO_DEVICES: Final = (("CUDA_VISIBLE_DEVICES", ""), ("ROCR_VISIBLE_DEVICES", ""))


@dataclass(frozen=True, slots=True)
class Office:
    """What every order of one cluster is made with."""

    settings: SlurmSettings
    installation_id: str
    report_url: str | None
    runner: bytes


def user_of(settings: SlurmSettings, tenancy: Tenancy | None) -> str:
    """Return the Unix user who runs a tenant's work. Raises ValueError when none is named."""
    if tenancy is None:
        user = settings.default_user
        whose, keys = "the installation's own", "default_user"
    else:
        organization, project = tenancy.organization, tenancy.project
        user = names.user_of(settings.users, settings.default_user, organization, project)
        whose = f"{organization}/{project}"
        keys = f'users."{whose}", users.{organization} or default_user'
    if user is None:
        msg = f"no Unix user runs {whose} work on {settings.name}: set {keys} in its settings"
        raise ValueError(msg)
    return user


def users_of(settings: SlurmSettings) -> frozenset[str]:
    """Return the Unix users whose jobs may be ours."""
    return frozenset({*settings.users.values(), settings.default_user or ""} - {""})


def qos_of(settings: SlurmSettings, priority_class: PriorityClass) -> str | None:
    """Return the QOS of a class, None for the cluster's default one."""
    if settings.manage_accounts:
        return names.qos_of(settings.account_prefix, priority_class)
    return settings.qos.get(str(priority_class))


def account_of(settings: SlurmSettings, tenancy: Tenancy | None) -> str | None:
    """Return the account that pays, None for the user's default one."""
    if not settings.manage_accounts or tenancy is None:
        return settings.account
    prefix = settings.account_prefix
    return names.account_of(prefix, tenancy.organization, tenancy.project)


def replica_folders(user: str, replica_id: str) -> tuple[str, ...]:
    """Return where a replica runs, below the work root."""
    return user, "replicas", replica_id


def attempt_folders(user: str, job_id: str, attempt_id: str) -> tuple[str, ...]:
    """Return where an attempt runs, below the work root."""
    return user, "jobs", job_id, "attempts", attempt_id


def job_places(
    settings: SlurmSettings, job_id: str, tenancy: Tenancy
) -> tuple[tuple[str, ...], ...]:
    """Return where a job's folder may be below the work root, the likeliest place first.

    The settings may name another user for the tenant than when it ran.
    """
    try:
        own = [user_of(settings, tenancy)]
    except ValueError:
        own = []
    others = sorted(users_of(settings) - set(own))
    return tuple((user, "jobs", job_id) for user in (*own, *others))


def replica_order(
    office: Office,
    replica_id: str,
    node_names: Sequence[str],
    launch: LaunchSpec,
    partition: SlurmPartition | None,
) -> tuple[JobOrder, str]:
    """Return the job of a replica on the nodes that the planner chose, and its user."""
    settings = office.settings
    if len(node_names) != launch.nodes:
        msg = f"{replica_id} runs on {launch.nodes} nodes, and {len(node_names)} are named"
        raise ValueError(msg)
    user = user_of(settings, launch.tenancy)
    longest_min = partition.max_time_min if partition else None
    limits = [minutes for minutes in (_minutes(settings.walltime_s), longest_min) if minutes]
    order = _order(
        office,
        Mark(office.installation_id, replica_id),
        folders=replica_folders(user, replica_id),
        subject=("--replica", replica_id),
        launch=_plain(launch, settings.container),
        nodes=launch.nodes,
        resources=launch.resources,
        tenancy=launch.tenancy,
        priority_class=launch.priority_class,
    )
    order = dataclasses.replace(
        order,
        node_names=tuple(node_names),
        time_limit_min=min(limits, default=None),
        grace_s=min(launch.drain_timeout_s, GRACE_S_MAX),
    )
    return order, user


def attempt_order(
    office: Office, attempt_id: str, launch: JobLaunch, partition: SlurmPartition | None
) -> tuple[JobOrder, str]:
    """Return the job of an attempt, and its user; Slurm chooses the nodes."""
    if ids.prefix_of(launch.job_id) != ids.JOB:
        msg = f"{launch.job_id!r} is not a job id"
        raise ValueError(msg)
    user = user_of(office.settings, launch.tenancy)
    # The runner ends it at its limit, and says so; Slurm only when the runner did not.
    wanted_min = _minutes(launch.time_limit_s + launch.grace_s) or 1
    longest_min = partition.max_time_min if partition else None
    if longest_min is not None and _minutes(launch.time_limit_s) > longest_min:
        msg = (
            f"its time limit of {launch.time_limit_s} s is longer than the {longest_min} min that"
            f" the partition allows"
        )
        raise ValueError(msg)
    in_one_rack = launch.topology is Topology.RACK and launch.nodes > 1
    order = _order(
        office,
        Mark(office.installation_id, attempt_id, in_one_rack=in_one_rack),
        folders=attempt_folders(user, launch.job_id, attempt_id),
        subject=("--attempt", attempt_id),
        launch=_plain(launch, office.settings.container),
        nodes=launch.nodes,
        resources=launch.resources,
        tenancy=launch.tenancy,
        priority_class=launch.priority_class,
    )
    order = dataclasses.replace(
        order,
        time_limit_min=min(wanted_min, longest_min or wanted_min),
        in_one_rack=in_one_rack,
        is_spread=launch.topology is Topology.SPREAD and launch.nodes > 1,
        grace_s=min(launch.grace_s, GRACE_S_MAX),
    )
    return order, user


def check_room(
    order: JobOrder,
    nodes: Iterable[SlurmNode],
    partition: SlurmPartition | None,
    racks: Mapping[str, str],
) -> None:
    """Raise ValueError when the cluster's nodes could never hold the job, even all free."""
    usable = [n for n in nodes if partition is None or partition.name in n.partitions]
    fitting = [node for node in usable if fits(order, node)]
    if partition and partition.max_nodes is not None and order.nodes > partition.max_nodes:
        msg = f"it needs {order.nodes} nodes, and the partition allows {partition.max_nodes}"
        raise ValueError(msg)
    if len(fitting) < order.nodes:
        wanted = f"{order.cpus} CPU, {order.memory_mb} MiB memory, {order.gpus} devices"
        msg = (
            f"{order.nodes} nodes with {wanted} each are needed, and {len(fitting)} of the"
            f" cluster's {len(usable)} have that"
        )
        raise ValueError(msg)
    if not order.in_one_rack:
        return
    if not racks:
        msg = "Slurm knows no racks here (TopologyPlugin), so nothing can be kept in one"
        raise ValueError(msg)
    counts = Counter(racks.get(node.name) for node in fitting)
    del counts[None]
    if max(counts.values(), default=0) < order.nodes:
        msg = f"no rack has {order.nodes} nodes that could hold it"
        raise ValueError(msg)


def fits(order: JobOrder, node: SlurmNode) -> bool:
    """Tell whether a node, all of it free, could hold its part of the job."""
    gpus = sum(count for _, count in node.gpus)
    return order.cpus <= node.cpus and order.memory_mb <= node.memory_mb and order.gpus <= gpus


def submitted(order: JobOrder, job_id: int, user: str, now_s: int) -> SlurmJob:
    """Return a job as it will be listed first."""
    return SlurmJob(
        job_id=job_id,
        name=order.name,
        user=user,
        comment=order.comment,
        states=frozenset({"PENDING"}),
        node_count=order.nodes,
        qos=order.qos or "",
        folder=order.folder,
        submit_s=now_s,
        time_limit_min=order.time_limit_min,
    )


def _order(
    office: Office,
    mark: Mark,
    *,
    folders: tuple[str, ...],
    subject: tuple[str, str],
    launch: Mapping[str, object],
    nodes: int,
    resources: Resources,
    tenancy: Tenancy | None,
    priority_class: PriorityClass,
) -> JobOrder:
    settings = office.settings
    cpus = max(1, -(-resources.cpu_millicores // 1000))
    root = settings.work_root / folders[0]
    batch = Batch(
        root=str(root),
        folders=folders[1:],
        subject=subject,
        launch_json=json.dumps(launch, separators=(",", ":")).encode(),
        runner=office.runner,
        nodes=nodes,
        cpus=cpus,
        report_url=office.report_url,
        python=settings.python,
        engine_python=str(settings.venv / "bin" / "python") if settings.venv else None,
        setup=settings.setup,
    )
    return JobOrder(
        name=mark.id,
        comment=str(mark),
        script=build(batch),
        folder=str(settings.work_root.joinpath(*folders)),
        environment=ENVIRONMENT,
        nodes=nodes,
        node_names=(),
        cpus=cpus,
        memory_mb=max(1, -(-resources.memory_bytes // (1 << 20))),
        gpus=resources.devices,
        partition=settings.partition,
        account=account_of(settings, tenancy),
        qos=qos_of(settings, priority_class),
        time_limit_min=None,
    )


def _plain(launch: LaunchSpec | JobLaunch, container: Sequence[str]) -> Mapping[str, object]:
    """Return the launch as JSON can say it, with what is put before each command."""
    env = launch.env if launch.resources.devices else (*launch.env, *NO_DEVICES)
    return {**dataclasses.asdict(launch), "env": env, "prefix": list(container)}


def _minutes(seconds: int | None) -> int:
    return -(-(seconds or 0) // 60)
