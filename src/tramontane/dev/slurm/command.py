"""``tramontane dev slurm``: a Slurm cluster in the foreground, and how to use it."""

import signal
import sys
import time
from pathlib import Path
from typing import Final

from tramontane.dev.slurm.cluster import SlurmCluster
from tramontane.dev.slurm.config import ClusterConfig
from tramontane.dev.slurm.processes import SlurmClusterError

TENANT: Final = "tmt-dev"  # the Unix user that jobs run as, made where it is missing
_LOOK_S: Final = 1.0


def run(  # noqa: PLR0917 - the command line's options, in its order
    racks: int,
    nodes_per_rack: int,
    gpus: int,
    cpus: int,
    memory_mb: int,
    folder: Path | None,
    keep: bool,
) -> int:
    """Run until Ctrl-C or SIGTERM; return the exit status."""
    config = ClusterConfig(
        racks=racks,
        nodes_per_rack=nodes_per_rack,
        gpus=gpus,
        cpus_per_node=cpus,
        memory_mb=memory_mb,
        folder=folder,
        is_kept=keep,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cluster = SlurmCluster(config, lambda what: print(what, flush=True))
    try:
        with cluster:
            cluster.add_user(TENANT)
            print(greeting(cluster), flush=True)
            _watch(cluster)
    except SlurmClusterError as error:
        print(f"tramontane: error: {error}", file=sys.stderr)
        return 1
    left = f"; its folder {cluster.folder} is kept" if keep else ""
    print(f"tramontane: the Slurm cluster is stopped{left}")
    return 0


def greeting(cluster: SlurmCluster) -> str:
    """Return how the cluster is used: by hand, over REST and by Tramontane."""
    return f"""
Commands of Slurm, in another shell:

  export SLURM_CONF={cluster.conf}
  sinfo

REST: {cluster.rest_url}, as root with the token of `scontrol token`

tramontane.toml:

  [slurm.dev]
  url = "{cluster.rest_url}"
  jwt_key = "{cluster.jwt_key}"
  slurm_conf = "{cluster.conf}"
  work_root = "{cluster.work_root}"
  default_user = "{TENANT}"

Logs: {cluster.folder / "log"}
Ctrl-C ends the cluster with all its jobs."""


def _watch(cluster: SlurmCluster) -> None:
    """Say which daemons end, until Ctrl-C."""
    told: set[str] = set()
    try:
        while True:
            for name in sorted(set(cluster.pids) - cluster.alive() - told):
                print(f"tramontane: {name} ended; see its log", flush=True)
                told.add(name)
            time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        print(flush=True)
