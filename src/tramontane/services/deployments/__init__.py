"""Deployments: what a project wants to be served, and the canaries beside them."""
