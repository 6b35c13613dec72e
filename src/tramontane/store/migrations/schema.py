"""The whole schema: every module that makes tables is imported here, so that none is missed."""

from tramontane.store.jobs import tables as jobs
from tramontane.store.quotas import tables as quotas
from tramontane.store.reports import runners
from tramontane.store.tables import metadata

__all__ = ["jobs", "metadata", "quotas", "runners"]
