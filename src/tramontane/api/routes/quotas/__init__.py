"""Routes of quotas and of racks that are kept for one organization."""
