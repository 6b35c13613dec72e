"""What a development cluster is to look like, and the configuration files that say so."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class ClusterConfig:
    """Size and timing of a cluster; the defaults are Slurm's own where it has any."""

    racks: int = 2
    nodes_per_rack: int = 2
    gpus: int = 4
    gpu_type: str = "gb200"
    cpus_per_node: int = 8
    memory_mb: int = 4_000
    folder: Path | None = None  # a new temporary one, unless given
    is_kept: bool = False  # the folder stays after stop, for its logs
    slurmd_timeout_s: int = 300  # a node that is silent for so long is DOWN
    slurmctld_timeout_s: int = 120
    min_job_age_s: int = 300  # ended jobs leave the controller's memory after it
    kill_wait_s: int = 30  # from SIGTERM to SIGKILL
    requeue_wait_s: int = 120  # before a requeued job may start; launching a job may take as long

    def racks_by_name(self) -> dict[str, list[str]]:
        """Return node names by rack: ``{"rack1": ["r1n1", "r1n2"]}``."""
        return {
            f"rack{rack}": [f"r{rack}n{node}" for node in range(1, self.nodes_per_rack + 1)]
            for rack in range(1, self.racks + 1)
        }


@dataclass(frozen=True)
class Layout:
    """Where everything of one started cluster is."""

    folder: Path
    name: str
    controller_port: int
    database_daemon_port: int
    rest_port: int
    node_ports: dict[str, int]

    @property
    def conf(self) -> Path:
        """The slurm.conf."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def dbd_conf(self) -> Path:
        """The slurmdbd.conf."""
        return self.folder / "etc" / "slurmdbd.conf"

    @property
    def jwt_key(self) -> Path:
        """The key that signs tokens, readable by root alone."""
        return self.folder / "keys" / "jwt.key"

    @property
    def munge_key(self) -> Path:
        """The key of this cluster's munged."""
        return self.folder / "keys" / "munge.key"

    @property
    def munge_socket(self) -> Path:
        """Where munged listens."""
        return self.folder / "munge" / "munge.socket"

    @property
    def database(self) -> Path:
        """MariaDB's data."""
        return self.folder / "mariadb"

    @property
    def database_socket(self) -> Path:
        """Where MariaDB listens."""
        return self.folder / "mariadb.sock"


def slurm_conf(config: ClusterConfig, layout: Layout) -> str:
    """Return the text of slurm.conf (slurm.conf(5))."""
    run = layout.folder / "run"
    log = layout.folder / "log"
    nodes = "\n".join(
        f"NodeName={name} NodeAddr=127.0.0.1 Port={port} CPUs={config.cpus_per_node}"
        f" RealMemory={config.memory_mb}{_gres(config)} State=UNKNOWN"
        for name, port in layout.node_ports.items()
    )
    return f"""ClusterName={layout.name}
SlurmctldHost={socket.gethostname().split(".")[0]}(127.0.0.1)
SlurmctldPort={layout.controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket},cred_expire={config.requeue_wait_s}
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={layout.jwt_key}
CredType=cred/munge
StateSaveLocation={layout.folder}/state
SlurmdSpoolDir={layout.folder}/spool/%n
SlurmctldPidFile={run}/slurmctld.pid
SlurmdPidFile={run}/slurmd-%n.pid
SlurmdLogFile={log}/steps-%n.log
SlurmctldDebug=info
SlurmdDebug=info
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters={_SCHEDULER}
TopologyPlugin=topology/tree
GresTypes=gpu
SlurmdParameters=config_overrides
MpiDefault=none
PropagateResourceLimits=NONE
ReturnToService=2
MessageTimeout=30
SlurmctldTimeout={config.slurmctld_timeout_s}
SlurmdTimeout={config.slurmd_timeout_s}
MinJobAge={config.min_job_age_s}
KillWait={config.kill_wait_s}
FirstJobId=1
JobRequeue=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={layout.database_daemon_port}
AccountingStoragePass={layout.munge_socket}
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
PriorityType=priority/multifactor
PriorityDecayHalfLife=0
PriorityUsageResetPeriod=NONE
PriorityWeightQOS=10000
PreemptType=preempt/qos
PreemptMode=REQUEUE
PrivateData=accounts,jobs,reservations,usage,users
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


# Look at the queue within a second; a gang waits for its rack as long as it takes.
_SCHEDULER: Final = (
    "sched_interval=1,sched_min_interval=50000,batch_sched_delay=0,default_queue_depth=1000,"
    "bf_interval=1,bf_resolution=1,max_switch_wait=31536000"
)


def slurmdbd_conf(layout: Layout) -> str:
    """Return the text of slurmdbd.conf(5); the environment names MariaDB's socket."""
    return f"""AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={layout.jwt_key}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={layout.database_daemon_port}
SlurmUser=root
DebugLevel=info
PidFile={layout.folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
PrivateData=accounts,jobs,usage,users
"""


def gres_conf(config: ClusterConfig, layout: Layout) -> str:
    """Return the text of gres.conf: null devices, since slurmd refuses a mere count."""
    if not config.gpus:
        return ""
    files = f"{layout.folder}/dev/gpu[0-{config.gpus - 1}]"
    if config.gpus == 1:
        files = f"{layout.folder}/dev/gpu0"
    nodes = ",".join(layout.node_ports)
    return f"NodeName={nodes} Name=gpu Type={config.gpu_type} File={files}\n"


def topology_conf(config: ClusterConfig) -> str:
    """Return the text of topology.conf: one leaf switch per rack, a spine above."""
    racks = config.racks_by_name()
    leaves = [f"SwitchName={rack} Nodes={','.join(nodes)}" for rack, nodes in racks.items()]
    return "\n".join([*leaves, f"SwitchName=spine Switches={','.join(racks)}", ""])


def _gres(config: ClusterConfig) -> str:
    return f" Gres=gpu:{config.gpu_type}:{config.gpus}" if config.gpus else ""
