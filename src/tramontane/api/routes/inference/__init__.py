"""Paths of the public inference APIs that the control plane serves, behind the gateway."""
