"""The cluster that every test of this folder may use."""

from tests.support.slurm import slurm, tenant_folders

__all__ = ["slurm", "tenant_folders"]
