"""``tramontane sites``: where machines stand."""

from tramontane.cli.commands.sites.verbs import app

__all__ = ["app"]
