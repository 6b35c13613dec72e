"""Responses that are kept for their clients: what they are, and how long."""
