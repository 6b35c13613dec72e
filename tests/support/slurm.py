"""A real Slurm cluster for the tests of a module, and users of two tenants.

One for each module: accounts and users that one makes are no concern of another.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tramontane.dev.slurm.cluster import SlurmCluster
from tramontane.dev.slurm.config import ClusterConfig

TENANTS = ("tmt-a", "tmt-b")  # Unix users; the tests make them


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    """Two racks of two nodes with four GPUs each, shared: `heal` it after faults."""
    config = ClusterConfig(slurmd_timeout_s=10, kill_wait_s=5, requeue_wait_s=15)
    with SlurmCluster(config) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def tenant_folders(slurm: SlurmCluster) -> dict[str, Path]:
    """Return each tenant's work folder by its Unix user."""
    return {name: slurm.add_user(name) for name in TENANTS}
