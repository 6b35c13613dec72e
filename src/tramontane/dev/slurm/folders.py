"""The folder of a cluster: made new or emptied, then filled with configuration, keys, devices."""

import os
import re
import secrets
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final

from tramontane.dev.slurm.config import (
    ClusterConfig,
    Layout,
    gres_conf,
    slurm_conf,
    slurmdbd_conf,
    topology_conf,
)
from tramontane.dev.slurm.processes import SlurmClusterError

MARKER: Final = ".tramontane-dev-slurm"  # in the folders that a start may empty
# A Unix socket's path has at most 107 bytes (unix(7)); slurmd's are the longest, with ids of jobs.
FOLDER_BYTES_MAX: Final = 60
# slurm.conf has no quotes: a space ends a value, a comma parts two, % and [ ] mean something.
_FOLDER: Final = re.compile(r"/[A-Za-z0-9_./+-]+")
_NULL_DEVICE: Final = os.makedev(1, 3)


def make_folder(wanted: Path | None) -> Path:
    """Return a new temporary folder, or the wanted one, made or emptied if it is one of ours."""
    if wanted is None:
        folder = Path(tempfile.mkdtemp(prefix="tmt-slurm-")).resolve()
    else:
        folder = wanted.resolve()
        if folder.exists():
            if not (folder / MARKER).exists() and any(folder.iterdir()):
                raise SlurmClusterError(f"{folder} holds other things: name a new or empty folder")
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    folder.chmod(0o755)  # tenants pass through to their work folders
    (folder / MARKER).touch()
    try:
        _check(folder)
    except SlurmClusterError:
        shutil.rmtree(folder)
        raise
    return folder


def _check(folder: Path) -> None:
    if not _FOLDER.fullmatch(str(folder)) or len(os.fsencode(folder)) > FOLDER_BYTES_MAX:
        raise SlurmClusterError(
            f"{folder} cannot be a cluster's folder: slurm.conf and sockets want at most "
            f"{FOLDER_BYTES_MAX} of A-Z a-z 0-9 _ . / + -"
        )
    for parent in folder.parents:
        if not parent.stat().st_mode & stat.S_IXOTH:
            raise SlurmClusterError(
                f"jobs of other users cannot reach {folder}: chmod o+x {parent}"
            )


def fill_folder(config: ClusterConfig, layout: Layout) -> None:
    """Write everything that the daemons find when they start."""
    folder = layout.folder
    for part in ("etc", "run", "log", "state", "spool", "dev", "munge", "work"):
        (folder / part).mkdir(mode=0o755)
    (folder / "keys").mkdir(mode=0o700)
    for node in layout.node_ports:
        (folder / "spool" / node).mkdir(mode=0o755)
    for index in range(config.gpus):
        device = folder / "dev" / f"gpu{index}"
        os.mknod(device, 0o666 | stat.S_IFCHR, _NULL_DEVICE)
        device.chmod(0o666)
    texts = {
        layout.conf: slurm_conf(config, layout),
        folder / "etc" / "gres.conf": gres_conf(config, layout),
        folder / "etc" / "topology.conf": topology_conf(config),
    }
    for path, text in texts.items():
        path.write_text(text)
        path.chmod(0o644)
    layout.dbd_conf.touch(mode=0o600)
    layout.dbd_conf.write_text(slurmdbd_conf(layout))
    for key, size in ((layout.jwt_key, 32), (layout.munge_key, 128)):
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(size))
