"""Upkeep: what keeps replicas serving while their machines come and go, as pure rules."""
