"""``tramontane quotas``: how many devices organizations and projects may use."""

from tramontane.cli.commands.quotas.verbs import app

__all__ = ["app"]
