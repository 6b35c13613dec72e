"""Use cases of quotas and of racks that are kept for one organization."""

from tramontane.services.quotas.bounds import devices_max_for

__all__ = ["devices_max_for"]
