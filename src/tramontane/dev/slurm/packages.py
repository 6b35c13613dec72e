"""Which programs a cluster needs, and the Debian packages that bring them."""

import os
import shutil
from pathlib import Path
from typing import Final

PLUGINS: Final = "/usr/lib/*/slurm-wlm"
_SBIN: Final = "/usr/sbin:/sbin"
_PROGRAMS: Final = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "slurmdbd": "slurmdbd",
    "slurmrestd": "slurmrestd",
    "munged": "munge",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}
_PLUGINS: Final = {
    "auth_jwt.so": "slurm-wlm-jwt-plugin",
    "accounting_storage_mysql.so": "slurm-wlm-mysql-plugin",
    "topology_tree.so": "slurm-wlm-basic-plugins",
}


def program(name: str) -> str:
    """Return the path of a program; daemons are off the PATH of ordinary users."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    if found is None:
        raise FileNotFoundError(name)
    return found


def missing() -> list[str]:
    """Return the Debian packages that this machine lacks."""
    path = f"{os.environ.get('PATH', '')}:{_SBIN}"
    lacking = {package for name, package in _PROGRAMS.items() if not shutil.which(name, path=path)}
    lacking |= {package for name, package in _PLUGINS.items() if not any(_plugin_folders(name))}
    return sorted(lacking)


def _plugin_folders(name: str) -> list[Path]:
    return sorted(Path("/usr/lib").glob(f"*/slurm-wlm/{name}"))
