"""``tramontane jobs``: work that ends."""

from tramontane.cli.commands.jobs.verbs import app

__all__ = ["app"]
